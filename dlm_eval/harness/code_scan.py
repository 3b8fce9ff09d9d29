"""Finds task code that can run text, start programs, load objects or reach the network, by its
syntax tree.

    scan(file)             # every such place in a file
    reach([(file, name)])  # those that a function can reach, through the functions and files that it names

A place is a mention, not only a call: `for parse in [parse_expr, parse_latex]` counts. What a
function can reach is overestimated: every name that it mentions counts. The search does not enter
other packages, whose dangerous functions are listed here. A name that is composed at run time
(`getattr(builtins, "ev" + "al")`) is not found: the task's author is trusted, the model's output is
not.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

# Can run text or a program. A task that reaches one of these is refused, unless code_table.py
# allows the place.
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
    """One place: the file, the top-level function or class (or MODULE, SCRIPT), and the name
    mentioned there.
    """

    file: str
    inside: str
    name: str

    @property
    def runs(self) -> bool:
        """Whether it can run text or a program."""
        return _RUNS.match(self.name) is not None


@dataclass(frozen=True)
class _Source:
    """What a file defines, mentions and imports.

    Attributes:
        hits: places by the function or class that they are in.
        names: what each function or class mentions.
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
    """Returns the watched places that some functions can reach.

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
            waiting += [(other, symbol)] if symbol else [(other, each) for each in names & _source(other).names.keys()]
    return frozenset(found)


def place_at(file: str, line: int) -> str:
    """Returns the name of the top-level function or class at a line of a file, or MODULE."""
    return next((name for name, lines in _source(file).lines.items() if line in lines), MODULE)


@functools.lru_cache(maxsize=4096)
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
    imports = {name: place for name, full in aliases.items() if (place := _local(full, Path(file))) is not None}
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
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and ast.unparse(node.value) != "False":
            yield node.arg
        if isinstance(node, ast.Call) and _full(node.func, aliases) == "evaluate.load":
            yield f"evaluate.load({ast.unparse(node.args[0]) if node.args else ''})"
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            full = _full(node, aliases)
            if full != "evaluate.load" and _WATCHED.match(full):
                yield full


def _full(node: ast.expr, aliases: Mapping[str, str]) -> str:
    """Returns a dotted name with its import resolved: `sp.check_output` is
    `subprocess.check_output`.
    """
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
    """Returns (file, name) of an import from beside `file`, from lm-eval or dlm_eval; None for
    others.
    """
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
                    return (str(path), parts[length] if length < len(parts) else "") if _judges(path) else None
    return None


def _judges(path: Path) -> bool:
    """Returns whether a file can contain scorers.

    Of lm-eval and dlm_eval, only files of tasks and metrics can.
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
