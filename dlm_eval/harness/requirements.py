"""Other libraries that tasks need: Python packages, metrics of HF evaluate, modules that libraries
have removed, and nltk's files.

Missing packages and metrics are found before a model is loaded. `lm_eval_patches.missing_modules`
installs the replacements of removed modules.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.file_state import once_per_state
from dlm_eval.harness.code_scan import MODULE, SCRIPT, reach
from dlm_eval.harness.code_tasks import starts
from dlm_eval.hub import hub_reachable
from dlm_eval.metrics.code import METRIC

# Imported module -> our extra that installs it.
EXTRAS = {
    **dict.fromkeys(("langdetect", "immutabledict", "nltk"), "ifeval"),
    **dict.fromkeys(("sympy", "math_verify", "antlr4"), "math"),
    **dict.fromkeys(("tenacity", "tiktoken", "aiohttp", "requests"), "api"),
    "mauve": "mauve",
    "sacremoses": "translation",
    **dict.fromkeys(
        (
            "bert_score",
            "bs4",
            "emoji",
            "fugashi",
            "fuzzywuzzy",
            "html2text",
            "jieba",
            "lark",
            "neologdn",
            "pycountry",
        )
        + ("pymorphy3", "rouge", "statsmodels", "wonderwords"),
        "tasks",
    ),
}
# Imported module -> what to do if no extra can install it.
OTHERWISE = {
    "tarski": "pip install 'lm_eval[acpbench]', which needs Python 3.10 to 3.12",
    "pddl": "pip install 'lm_eval[acpbench]', which needs Python 3.10 to 3.12",
    "kstar_planner": "pip install 'lm_eval[acpbench]', which needs Python 3.10 to 3.12",
    "iso639": "pip install iso639-lang",
    "openai": "pip install openai",
    "spacy": "pip install spacy, and the model of the task's language",
    "unitxt": "pip install unitxt",
    "radgraph": "pip install radgraph, which needs another version of transformers",
    "tinyBenchmarks": "it is on no package index; install it from its authors' repository",
}
DISTRIBUTIONS = {"antlr4-python3-runtime": "antlr4"}  # some tasks check the versions of these
LOAD = re.compile(r"evaluate\.load\((.+)\)")
ASKED = re.compile(r"lm[-_]eval\[\"?([\w-]+)")
NLTK_FILES = "nltk_data"  # folder in --data_dir
# Folders of nltk's files that tasks use.
KINDS = ("tokenizers", "corpora", "taggers", "stemmers")


def missing_package(error: BaseException) -> str | None:
    """Returns a line about the missing package that caused an error, with the command that installs
    it, or None.

    Args:
        error: exception at the import of a task or a model; its causes are searched too.
    """
    behind: BaseException | None = error
    words = None
    while behind is not None:
        if isinstance(behind, ModuleNotFoundError) and behind.name:
            module = DISTRIBUTIONS.get(behind.name, behind.name.partition(".")[0])
            return needs(module) if module in EXTRAS or module in OTHERWISE else None
        words = words or ASKED.search(str(behind))
        behind = behind.__cause__ or behind.__context__
    if words is not None and isinstance(error, (ImportError, AssertionError)):
        extra = words[1]
        return pip_line(
            "needs other versions of packages; {}", extra if extra in EXTRAS.values() else "tasks"
        )
    return None


def needs(module: str) -> str:
    """Returns a line that a module is needed, with the command that installs it."""
    what = f"needs the Python package '{module}'; {{}}"
    if module in OTHERWISE:
        return what.format(OTHERWISE[module])
    # An unknown name may be a typo, or belong to another project on the package index.
    return (
        pip_line(what, EXTRAS[module]) if module in EXTRAS else what.format("it is not installed")
    )


def pip_line(what: str, extra: str) -> str:
    """Returns `what` with the command that installs an extra."""
    return what.format(f'pip install "dlm_eval[{extra}]"')


def check_packages(name: str, task: Any) -> None:
    """Checks the imports in the Python files of a task's functions, since some files import only
    during scoring.

    Raises:
        UserError: a package is missing.
    """
    for file in {file for function in _functions(task) if (file := _file(function)) is not None}:
        for module in _imports(file):
            if importlib.util.find_spec(module) is None:
                raise UserError(f"task '{name}' {needs(module)}")


def _functions(task: Any) -> Iterator[Callable[..., Any]]:
    """Yields the functions of a task's YAML, and the class of a Python-class task."""
    if type(task).__module__.startswith("lm_eval.tasks."):
        yield type(task)
    config = task.config
    names = ("process_docs", "process_results", "doc_to_text", "doc_to_target", "doc_to_choice")
    parts = [getattr(config, name) for name in names]
    for metric in config.metric_list or ():
        parts += [metric.get("metric"), metric.get("aggregation")]
    yield from (part for part in parts if callable(part))


def _file(function: Callable[..., Any]) -> str | None:
    try:
        return inspect.getsourcefile(function)
    except TypeError:  # a built-in function
        return None


@once_per_state
def _imports(file: str) -> tuple[str, ...]:
    """Returns the modules of `EXTRAS` and `OTHERWISE` that a file imports anywhere."""
    try:
        with open(file, encoding="utf-8") as source:
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return ()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append(node.module)
    tops = dict.fromkeys(name.partition(".")[0] for name in found)
    return tuple(name for name in tops if name in EXTRAS or name in OTHERWISE)


def check_loaded_metrics(tasks: Mapping[str, Any]) -> None:
    """Raises UserError if a metric that a task loads during scoring cannot be loaded.

    Files that a metric downloads when it runs (the model of BERTScore) are not checked. Without
    them the metric is missing in the results.
    """
    tried: dict[str, str | None] = {}
    for task, metric in _needed(tasks):
        if metric not in tried:
            tried[metric] = _fault(metric)
        if tried[metric] is not None:
            raise UserError(
                f"task '{task}' scores with the metric '{metric}' of HF evaluate, which cannot be"
                f" loaded: {tried[metric]};"
                " leave the task out, run once with access to the Hub, or save only the answers"
                " (--predict_only)"
            )


def _needed(tasks: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (task, metric) for every `evaluate.load("name")` that a task's function can reach.

    Metrics loaded at the top level of a file are already loaded.
    """
    for name, task in tasks.items():
        for hit in sorted(reach(set(starts(task)))):
            match = LOAD.fullmatch(hit.name)
            if (
                match
                and hit.inside not in (MODULE, SCRIPT)
                and (metric := _literal(match[1])) not in (None, METRIC.name)
            ):
                yield name, str(metric)


def _literal(text: str) -> str | None:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None  # the name is composed at run time
    return value if isinstance(value, str) else None


def _fault(metric: str) -> str | None:
    """Returns why a metric cannot be loaded, or None."""
    import evaluate

    try:
        evaluate.load(metric)
    except ImportError as error:
        return " ".join(str(error).split())
    except (Exception, SystemExit) as error:  # a metric is a script and may raise anything
        if not hub_reachable():
            return "the Hub is unreachable and it is not cached"
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _squad() -> dict[str, ModuleType]:
    from dlm_eval.metrics import text

    package = ModuleType("transformers.data.metrics")
    package.squad_metrics = text  # type: ignore[attr-defined]
    return {package.__name__: package, f"{package.__name__}.squad_metrics": text}


def _pkg_resources() -> dict[str, ModuleType]:
    module = ModuleType("pkg_resources")
    vars(module).update(
        get_distribution=importlib.metadata.distribution,
        # some libraries read their own files with it (jieba)
        resource_filename=lambda name, file: str(_beside(name, file)),
        resource_string=lambda name, file: _beside(name, file).read_bytes(),
        resource_stream=lambda name, file: _beside(name, file).open("rb"),
    )
    return {module.__name__: module}


def _beside(module: str, file: str) -> Path:
    """Returns the path of a file in a module's folder."""
    source = importlib.import_module(module).__file__
    if source is None:
        raise FileNotFoundError(f"module '{module}' has no folder with {file}")
    return Path(source).parent / file


# Modules removed in transformers 5 and setuptools 82.
STAND_INS: dict[str, Callable[[], dict[str, ModuleType]]] = {
    "transformers.data.metrics": _squad,
    "pkg_resources": _pkg_resources,
}


def stand_ins() -> dict[str, ModuleType]:
    """Returns replacements for the missing modules, by name."""
    added: dict[str, ModuleType] = {}
    for name, make in STAND_INS.items():
        if name not in sys.modules and not _there(name):
            added.update(make())
    return added


def load_metric(*args: Any, **options: Any) -> Any:
    """Replaces `datasets.load_metric`; the metrics are now in HF evaluate."""
    return importlib.import_module("evaluate").load(*args, **options)


def nltk_download(nltk: Any, data_dir: str | Path | None) -> Callable[..., bool]:
    """Returns a function for `nltk.download` that first searches `data_dir` (or $DLM_EVAL_DATA).

    Raises:
        UserError: raised by the function if a file of nltk is missing.
    """
    data_dir = data_dir or os.environ.get("DLM_EVAL_DATA")
    folder = str(Path(data_dir).expanduser().resolve() / NLTK_FILES) if data_dir else None
    if folder is not None and folder not in nltk.data.path:
        nltk.data.path.insert(0, folder)
    return functools.partial(_download, nltk, nltk.download)


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _download(
    nltk: Any, original: Callable[..., Any], name: str, *args: Any, **options: Any
) -> bool:
    """Returns True if nltk's file `name` is on this machine or has been downloaded.

    Raises:
        UserError: it is missing and cannot be downloaded.
    """
    # nltk 3.9 reads punkt_tab if punkt is requested.
    wanted = {name, "punkt_tab"} if name == "punkt" else {name}
    for path in (f"{kind}/{each}" for kind in KINDS for each in wanted):
        with contextlib.suppress(LookupError):
            nltk.data.find(path)
            return True
    if hub_reachable() and original(name, *args, **options):
        return True
    kind = next((kind for kind in KINDS if name.startswith("punkt")), KINDS[1])
    raise UserError(
        f"nltk's '{name}' is not on this machine and cannot be downloaded; put its folder at "
        f"DIR/{NLTK_FILES}/{kind}/{max(wanted)} for --data_dir DIR, or at {kind}/{max(wanted)} in"
        " a folder that the variable NLTK_DATA names"
    )
