"""The table of all places that code_scan.py finds in lm-eval's task code and ours, and whether they
are safe.

A place without a row fails a test, and a task that reaches it is refused at run time. A new release
of lm-eval is therefore reviewed before it is trusted. The first matching row counts.
"""

from __future__ import annotations

from enum import Enum
from fnmatch import fnmatchcase
from typing import NamedTuple

LM_EVAL = "0.4.13"  # the release that was reviewed for this table
# Not task code: models and their servers, the command line, loggers, tools that nothing here calls.
NOT_OF_TASKS = ("models/*", "_cli/*", "loggers/*", "decontamination/*", "caching/*")


class Means(Enum):
    """What a place does with the model's output."""

    HARMLESS = "runs nothing that the model wrote"
    SANDBOXED = "runs it, in our sandbox"
    REFUSED = "runs it in this process or beside it"


class Row(NamedTuple):
    """Patterns of places (files in lm_eval/ or dlm_eval/, functions, names), and what such places
    do.
    """

    file: str
    inside: str
    name: str
    means: Means
    reason: str


_H, _S, _R = Means.HARMLESS, Means.SANDBOXED, Means.REFUSED
_LATEX_FILES = ("tasks/leaderboard/math/utils.py", "tasks/minerva_math/utils.py", "tasks/putnam_axiom/utils.py")
_LATEX = "LaTeX is read by a grammar; what sympy gets are its own objects, never a text"
_PLANNER = "a planner reads planning problems with names that a grammar let through; it runs no text"
ROWS = (
    # judged in the sandbox
    Row("*", "*", "evaluate.load('code_eval')", _S, "dlm_eval.metrics.code_eval takes its place while tasks load"),
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
        inside: the function or class in it.
        name: the name mentioned there.
    """
    for row in ROWS:
        if fnmatchcase(file, row.file) and fnmatchcase(inside, row.inside) and fnmatchcase(name, row.name):
            return row
    return None
