"""Finds places in task code that can run text, start programs, load objects or use the network.

Places are found in the syntax tree. One table says whether each of them is safe.

    scan(file)             # every such place in a file
    reach([(file, name)])  # those that a function can reach, through the functions and files that it names
    row_of(file, inside, name)  # the row of the table for a place

Every mention of a name is a place, not only a call: `for parse in [parse_expr, parse_latex]`
counts. A function is assumed to reach every name that it mentions, which overestimates. The search
does not enter other packages; their dangerous functions are listed here. A name composed at run
time (`getattr(builtins, "ev" + "al")`) is not found, since the task's author is trusted. The
model's output is not trusted.

A place without a row fails a test, and a task that reaches it is refused at run time. A new release
of lm-eval is therefore reviewed before it is trusted. The first matching row counts.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase, translate
from pathlib import Path
from typing import NamedTuple

from dlm_eval.file_state import once_per_state

# Can run text or a program. A task that reaches one of these is refused, unless a row allows the place.
RUNS = (
    "exec", "eval", "compile", "builtins.*", "code.*", "codeop.*", "runpy.*", "timeit.*", "pty.*", "subprocess.*",
    "os.system", "os.popen", "os.exec*", "os.spawn*", "os.posix_spawn*", "os.startfile", "asyncio.create_subprocess*",
    "types.FunctionType", "types.CodeType", "pickle.load*", "pickle.Unpickler", "dill.*", "cloudpickle.*",
    "joblib.load", "marshal.load*", "shelve.*", "torch.load", "pandas.read_pickle", "pandas.eval", "numexpr.*",
    "yaml.unsafe_load*", "sympy.*", "latex2sympy2*", "math_verify.*", "kstar_planner.*",
)  # fmt: skip
# Loads code or objects by name, uses the network, or starts Python processes.
OTHER = (
    "__import__", "importlib.*", "*.exec_module", "*.load_module", "multiprocessing.*", "os.fork*", "ctypes.*", "cffi.*",
    "numpy.load", "yaml.load*", "yaml.full_load*", "ast.literal_eval", "jinja2.*", "trust_remote_code",
    "evaluate.load*", "datasets.load_metric*", "nltk.download", "nltk.data.*", "spacy.*", "huggingface_hub.*",
    "requests.*", "urllib.request.*", "urllib3.*", "http.client.*", "httpx.*", "aiohttp.*", "socket.*", "openai.*",
    "tarski.*", "pddl.*", "clingo.*",
)  # fmt: skip
SANDBOX = ("dlm_eval.sandbox.*",)
_RUNS = re.compile("|".join(map(translate, RUNS)))
_WATCHED = re.compile("|".join(map(translate, (*RUNS, *OTHER, *SANDBOX))))
# Top-level statements of a file, and those under `if __name__ == "__main__"`.
MODULE, SCRIPT = "<module>", "<script>"


@dataclass(frozen=True, order=True)
class Hit:
    """A place: file, top-level function or class (or MODULE, SCRIPT), and the name mentioned."""

    file: str
    inside: str
    name: str

    @property
    def runs(self) -> bool:
        """Whether the place can run text or a program."""
        return _RUNS.match(self.name) is not None


@dataclass(frozen=True)
class _Source:
    """What a file defines, mentions and imports.

    Attributes:
        hits: the places in each function or class.
        names: the names that each function or class mentions.
        imports: name in the file -> (file, name) that it refers to; an empty name means the whole
            file.
        lines: lines of each function and class, decorators included.
    """

    hits: Mapping[str, frozenset[Hit]]
    names: Mapping[str, frozenset[str]]
    imports: Mapping[str, tuple[str, str]]
    lines: Mapping[str, range]


def scan(file: str | Path) -> frozenset[Hit]:
    """Returns every watched place of a Python file.

    Raises:
        SyntaxError: the file is not Python.
    """
    return frozenset(hit for hits in _source(str(file)).hits.values() for hit in hits)


def reach(starts: Iterable[tuple[str, str]]) -> frozenset[Hit]:
    """Returns the watched places that the functions or classes in `starts` can reach.

    Args:
        starts: file and top-level name of each function or class.
    """
    waiting, seen = list(starts), set()
    found: set[Hit] = set()
    while waiting:
        file, inside = place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        source = _source(file)
        found |= source.hits.get(inside, frozenset())
        waiting.append((file, MODULE))  # runs when the file is imported
        names = source.names.get(inside, frozenset())
        if inside in source.imports:  # the file only re-exports the name
            names |= {inside}
        waiting += [(file, name) for name in names if name in source.names]
        for name in names & source.imports.keys():
            other, symbol = source.imports[name]
            waiting += (
                [(other, symbol)]
                if symbol
                else [(other, each) for each in names & _source(other).names.keys()]
            )
    return frozenset(found)


def place_at(file: str, line: int) -> str:
    """Returns the name of the top-level function or class at a line of a file, or MODULE."""
    return next((name for name, lines in _source(file).lines.items() if line in lines), MODULE)


@once_per_state
def _source(file: str) -> _Source:
    try:
        tree = ast.parse(Path(file).read_bytes())
    except OSError:  # a function created at run time
        return _Source({}, {}, {}, {})
    aliases = dict(_aliases(tree))
    hits: dict[str, frozenset[Hit]] = {}
    names: dict[str, frozenset[str]] = {}
    lines: dict[str, range] = {}
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inside = statement.name
            first = min(node.lineno for node in (statement, *statement.decorator_list))
            lines[inside] = range(first, (statement.end_lineno or first) + 1)
        else:
            inside = SCRIPT if _is_script(statement) else MODULE
        found = frozenset(Hit(file, inside, name) for name in _watched(statement, aliases))
        hits[inside] = hits.get(inside, frozenset()) | found
        names[inside] = names.get(inside, frozenset()) | frozenset(_names(statement))
    imports = {
        name: place
        for name, full in aliases.items()
        if (place := _local(full, Path(file))) is not None
    }
    return _Source(hits, names, imports, lines)


def _is_script(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def _aliases(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yields the names that imports bind anywhere in the file, and their full names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                yield (item.asname, item.name) if item.asname else (item.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (f"{node.module}." if node.module else "")
            for item in node.names:
                yield item.asname or item.name, start + item.name


def _watched(statement: ast.stmt, aliases: Mapping[str, str]) -> Iterator[str]:
    """Yields the full watched names that a statement mentions."""
    for node in ast.walk(statement):
        if (
            isinstance(node, ast.keyword)
            and node.arg == "trust_remote_code"
            and ast.unparse(node.value) != "False"
        ):
            yield node.arg
        if isinstance(node, ast.Call) and _full(node.func, aliases) == "evaluate.load":
            yield f"evaluate.load({ast.unparse(node.args[0]) if node.args else ''})"
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            full = _full(node, aliases)
            if full != "evaluate.load" and _WATCHED.match(full):
                yield full


def _full(node: ast.expr, aliases: Mapping[str, str]) -> str:
    """Returns a dotted name with its import resolved (`sp.run` as `subprocess.run`)."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    base = aliases.get(node.id, node.id) if isinstance(node, ast.Name) else "?"
    return ".".join([base, *reversed(parts)])


def _names(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _local(full: str, file: Path) -> tuple[str, str] | None:
    """Returns (file, name) of an import from the folder of `file`, lm-eval or dlm_eval, or None."""
    level = len(full) - len(full.lstrip("."))
    parts = full[level:].split(".")
    if full.startswith("dlm_eval.sandbox"):
        return None  # the sandbox itself is trusted
    if level:
        roots = [file.parents[level - 1]]
    elif parts[0] in ("lm_eval", "dlm_eval"):
        roots = [package_root(parts[0]).parent]
    else:
        roots = [file.parent]
    for root in roots:
        for length in (len(parts), len(parts) - 1):
            module = root.joinpath(*parts[:length])
            for path in (module.with_name(module.name + ".py"), module / "__init__.py"):
                if length and path.is_file() and path != file:
                    return (
                        (str(path), parts[length] if length < len(parts) else "")
                        if _judges(path)
                        else None
                    )
    return None


def _judges(path: Path) -> bool:
    """Returns whether a file can contain scorers.

    In lm-eval and dlm_eval, only files of tasks and metrics can.
    """
    for package, place in (("lm_eval", "tasks"), ("dlm_eval", "metrics")):
        root = package_root(package)
        if path.resolve().is_relative_to(root):
            within = path.resolve().relative_to(root).parts
            return within[0] == place and len(within) > (2 if package == "lm_eval" else 1)
    return True


@functools.cache
def package_root(name: str) -> Path:
    """Returns the folder of an installed package."""
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None
    return Path(found.origin).resolve().parent


LM_EVAL = "0.4.13"  # the release that was reviewed for this table
# Not task code: models and their servers, the command line, loggers, tools that nothing here calls.
NOT_OF_TASKS = ("models/*", "_cli/*", "loggers/*", "decontamination/*", "caching/*")


class Means(Enum):
    """What a place does with the model's output."""

    HARMLESS = "runs nothing that the model wrote"
    SANDBOXED = "runs it, in our sandbox"
    REFUSED = "runs it in this process or beside it"


class Row(NamedTuple):
    """What places do. Files (in lm_eval/ or dlm_eval/), functions and names are patterns."""

    file: str
    inside: str
    name: str
    means: Means
    reason: str


_H, _S, _R = Means.HARMLESS, Means.SANDBOXED, Means.REFUSED
_LATEX_FILES = (
    "tasks/leaderboard/math/utils.py",
    "tasks/minerva_math/utils.py",
    "tasks/putnam_axiom/utils.py",
)
_LATEX = "LaTeX is read by a grammar; what sympy gets are its own objects, never a text"
_PLANNER = (
    "a planner reads planning problems with names that a grammar let through; it runs no text"
)
ROWS = (
    # judged in the sandbox
    Row("*", "*", "evaluate.load('code_eval')", _S, "dlm_eval.metrics.code takes its place while tasks load"),
    Row("*", "*", "dlm_eval.sandbox.*", _S, "our own"),
    Row("tasks/cruxeval/utils.py", "unsafe_execute", "exec", _S, "replaced when the task is loaded"),
    Row("tasks/cruxeval/utils.py", "check_correctness", "multiprocessing.*", _S, "replaced when the task is loaded"),
    # cannot be sandboxed
    Row("tasks/longproc/metrics.py", "_evaluate_countdown_final_solution", "eval", _R, "eval() of the model's equations"),
    Row("tasks/longproc/metrics.py", "_evaluate_spoc_code", "subprocess.*", _R, "g++ and the model's C++ program"),
    Row("tasks/score/math/math_grader.py", "*", "sympy.parsing.sympy_parser.parse_expr", _R, "sympy's parse_expr, which is eval(), of the model's answer"),
    Row("tasks/score/math/math_grader.py", "symbolic_equal", "sympy.N", _R, "sympy's N of a text, which is eval(), of the model's answer"),
    Row("tasks/slr_bench/*", "<module>", "evaluate.load(*)", _R, "a judge from the hub runs the model's Prolog rules"),
    # sympy, math_verify, planners: the model's text is parsed, not run
    Row("tasks/score/math/math_grader.py", "symbolic_equal", "sympy.parsing.latex.parse_latex", _H, _LATEX),
    Row("tasks/score/math/math_grader.py", "symbolic_equal", "sympy.simplify", _H, "of a difference, which texts do not have"),
    *(Row(file, "is_equiv", "sympy.parsing", _H, _LATEX) for file in _LATEX_FILES),
    *(Row(file, "is_equiv", "sympy.parsing.latex*", _H, _LATEX) for file in _LATEX_FILES),
    *(Row(file, "is_equiv", "sympy.SympifyError", _H, "an exception") for file in _LATEX_FILES),
    *(Row(file, "is_equiv", "sympy.simplify", _H, _LATEX) for file in _LATEX_FILES),
    *(
        Row(file, "process_results", "math_verify.*", _H, "only digits and operators reach its parse_expr; " + _LATEX)
        for file in _LATEX_FILES[:2]
    ),
    Row("metrics/opencompass_math.py", "verified", "math_verify.*", _H, _LATEX),
    Row("metrics/opencompass_math.py", "verified", "latex2sympy2*", _H, _LATEX),
    Row("tasks/acpbench/*", "*", "kstar_planner.*", _H, _PLANNER),
    Row("tasks/acpbench/*", "*", "tarski.*", _H, _PLANNER),
    Row("tasks/acpbench/*", "*", "pddl.*", _H, _PLANNER),
    Row("*", "*", "ast.literal_eval", _H, "reads literals, calls nothing"),
    # metrics of HF evaluate: code of their authors that compares texts
    Row("*", "*", "evaluate.load('rouge')", _H, "compares texts"),
    Row("*", "*", "evaluate.load('bleu')", _H, "compares texts"),
    Row("*", "*", "evaluate.load('bleurt')", _H, "a model compares texts"),
    Row("*", "*", "evaluate.load('bertscore')", _H, "a model compares texts"),
    Row("*", "*", "evaluate.load('squad_v2')", _H, "compares texts"),
    Row("tasks/scrolls/task.py", "_SCROLLSTask", "evaluate.load(_download_metric())", _H, "a metric from the hub (tau/scrolls) compares texts"),
    Row("tasks/scrolls/task.py", "_download_metric", "huggingface_hub.hf_hub_download", _H, "fetches that metric"),
    Row("api/registry.py", "get_metric", "evaluate.load(name)", _H, "the metric's own file is scanned when a task has it"),
    Row("tasks/basqueglue/utils.py", "*", "datasets.load_metric", _H, "compares labels"),
    # the network: text is sent or fetched, not run
    Row("tasks/realtoxicityprompts/metric.py", "*", "requests.*", _H, "sends answers to the Perspective API, with the user's key"),
    Row("tasks/pisa/utils.py", "judge_mcq", "openai.*", _H, "sends answers to a judge, with the user's key"),
    Row("tasks/ruler/*", "*", "httpx.*", _H, "fetches essays for prompts"),
    Row("tasks/ruler/qa_utils.py", "download_json", "requests.*", _H, "fetches questions"),
    Row("tasks/*", "*", "nltk.d*", _H, "word lists, fetched and read"),
    Row("tasks/ifeval/multilingual/*", "<module>", "spacy.load", _H, "models of word forms, installed by the user"),
    Row("utils.py", "*", "requests.*", _H, "tokenizer of a model server"),
    Row("evaluator.py", "evaluate", "requests.items", _H, "a dictionary of that name"),
    # loading of lm-eval's own files, and of checkpoints that the user chose
    Row("tasks/ruler/common_utils.py", "get_tokenizer", "trust_remote_code", _H, "the tokenizer of the checkpoint in --metadata, with its author's code"),
    Row("tasks/babilong/common_utils.py", "get_tokenizer", "trust_remote_code", _H, "the tokenizer of the checkpoint in --metadata, with its author's code"),
    Row("tasks/afrobench/afrisenti/prompt_?/xx.py", "<module>", "trust_remote_code", _H, "a tool of lm-eval's authors; no task names it"),
    Row("tasks/mlqa/generate_tasks.py", "main", "trust_remote_code", _H, "a tool of lm-eval's authors; no task names it"),
    Row("tasks/eus_exams/configs.py", "<module>", "requests.get", _H, "a tool of lm-eval's authors; no task names it"),
    Row("tasks/noreval/ask_gec/errant.py", "evaluate", "subprocess.*", _H, "a tool that its reader starts by hand; no task names it"),
    Row("*", "<script>", "*", _H, "only when the file is started as a program"),
    *(
        Row("tasks/_yaml_loader.py", "*", name, _H, "loads task files, which are code of the user's choice")
        for name in ("importlib.*", "*.exec_module", "__import__", "yaml.load")
    ),
    Row("prompts/__init__.py", "*", "yaml.full_load", _H, "prompts that a task names by file"),
    Row("utils.py", "import_function", "importlib.*", _H, "functions that a task file names"),
    Row("utils.py", "import_function", "*.exec_module", _H, "functions that a task file names"),
    Row("utils.py", "<module>", "jinja2.*", _H, "the environment of prompts"),
    Row("api/registry.py", "*", "importlib.*", _H, "classes of lm-eval and its plugins by name"),
    Row("*", "*", "importlib.metadata*", _H, "versions of packages"),
    Row("*", "*", "importlib.util", _H, "see what is called"),
    Row("*", "*", "importlib.util.find_spec", _H, "whether a package is installed"),
    Row("api/metrics.py", "bootstrap_stderr", "multiprocessing.*", _H, "resampling of numbers"),
)  # fmt: skip
# Functions of tasks that are marked unsafe but run nothing (reviewed).
NOTHING_RUN = (
    ("tasks/longproc/metrics.py", "process_results_path_traversal"),
    ("tasks/longproc/metrics.py", "process_results_tom_tracking"),
    ("tasks/longproc/metrics.py", "process_results_travel_planning"),
    ("tasks/longproc/metrics.py", "process_results_html_to_tsv"),
    ("tasks/longproc/utils.py", "process_docs"),
)


def row_of(file: str, inside: str, name: str) -> Row | None:
    """Returns the first row that matches a place, or None.

    Args:
        file: path in lm_eval/ or dlm_eval/, with "/".
    """
    for row in ROWS:
        if (
            fnmatchcase(file, row.file)
            and fnmatchcase(inside, row.inside)
            and fnmatchcase(name, row.name)
        ):
            return row
    return None
