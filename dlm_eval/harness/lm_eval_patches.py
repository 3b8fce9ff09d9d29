"""All changes to lm-eval 0.4.13 and to the libraries that its tasks call.

No other module changes them, except workers/texts.py (`calling`), which changes lm-eval's models and
their modules during a call, also in workers.

Each docstring describes the upstream behaviour that the change fixes. Changes of modules and
classes are context managers; outside them lm-eval is unchanged. Changes of a task or model object
last as long as the object. tests/test_lm_eval_patches.py shows each behaviour with and without its
change. Functions import lm-eval only when they run, since the command line imports this module.

    import of dlm_eval   register_models
    while tasks load     quiet_index, quick_index, loading (which lists its changes); then
                         keep_documents and judge_in_sandbox
    before a run         guard_task, judge_programs_ahead, before_filters; of lm-eval's models
                         bounded_chat_template
    during a run         evaluating (which lists its changes); around the evaluator metrics_apart, requests_passed_on
    after the answers    rendered_once, public_command_line, failed_pushes
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import logging
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dlm_eval.patching import replaced, replaced_on_import

if TYPE_CHECKING:
    from dlm_eval.harness.data import Seeds
    from dlm_eval.harness.results import Record
    from dlm_eval.harness.sample_errors import SampleErrors

PROMPT_FIELDS = ("doc_to_text", "doc_to_target", "doc_to_choice")
# Requests that are passed on together: few at first, so that devices start at once, then more, since
# they are encoded and looked up together.
FIRST_PASSED, MOST_PASSED = 32, 512
DOCUMENTS = ("training_docs", "validation_docs", "test_docs")
_once = functools.cache(functools.cache)  # the same cached function for the same function


def register_models() -> None:
    """Adds our families and checkpoints to lm-eval's models, by name. Heavy imports are deferred
    until a model is used.

    Upstream: `api.registry` fills itself only if it is empty. Without the import below, lm-eval's
    own models would be missing. Names of lm-eval's models keep their meaning.
    """
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    from dlm_eval.models import checkpoints, known_families

    for name in [*known_families(), *checkpoints()]:
        if name not in model_registry:
            model_registry.register(name, target=f"dlm_eval.harness.registered:{name}")


class Pairs(argparse.Action):
    """Parses `k=v,...` or JSON on the command line, and merges repeated options.

    Upstream: `_cli.utils.MergeDictAction` parses the whole text as JSON if a value contains braces
    (`device_map={"": "cpu"}`), and its errors do not name the option.
    """

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        from lm_eval._cli.utils import MergeDictAction, key_val_to_dict

        from dlm_eval.errors import UserError

        try:
            if values and not values[0].lstrip().startswith("{"):
                values = [
                    {key: value for text in values for key, value in key_val_to_dict(text).items()}
                ]
            MergeDictAction.__call__(self, parser, namespace, values, option_string)
        except ValueError as error:
            given = " ".join(map(str, values))
            raise UserError(
                f"{option_string} '{given}' is not key=value,... or JSON: {error}"
            ) from error


def run_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds lm-eval's parser of `run` to `subparsers` and returns it; `Pairs` reads its pairs."""
    from lm_eval._cli.run import Run
    from lm_eval._cli.utils import MergeDictAction

    Run.create(subparsers)
    parser: argparse.ArgumentParser = subparsers.choices["run"]
    parser.allow_abbrev = False
    for action in parser._actions:
        if isinstance(action, MergeDictAction):
            action.__class__ = Pairs
    return parser


# -- while tasks load ------------------------------------------------------------------------------


@contextmanager
def loading(seeds: Seeds, data_dir: str | Path | None = None) -> Iterator[None]:
    """Applies all changes that are needed while task objects are created."""
    with (
        documents_by_seed(seeds),
        bounded_templates(),
        first_sound_document(),
        paths_beside_yaml(),
        modules_beside_yaml(),
        code_eval_in_sandbox(),
        missing_modules(data_dir),
    ):
        yield


@contextmanager
def quiet_index() -> Iterator[None]:
    """Suppresses two warnings about intended properties of our tasks.

    Upstream: `tasks._index` warns of a name that is defined twice (ours override lm-eval's).
    `api.task` warns of custom datasets.
    """

    def wanted(record: logging.LogRecord) -> bool:
        return (
            "overrides existing task" not in record.msg
            and "Custom kwargs can be passed" not in record.msg
        )

    with ExitStack() as stack:
        for logger in map(logging.getLogger, ("lm_eval.tasks._index", "lm_eval.api.task")):
            logger.addFilter(wanted)
            stack.callback(logger.removeFilter, wanted)
        yield


@contextmanager
def quick_index() -> Iterator[None]:
    """Reads the names of lm-eval's own tasks once in a process (task_index.py).

    Upstream: `TaskIndex.build` parses all files, and an included file for each that includes it.
    """
    import lm_eval.tasks
    from lm_eval.tasks._index import TaskIndex

    from dlm_eval.harness.task_index import stock_index

    whole, stock = TaskIndex.build, Path(lm_eval.tasks.__file__).parent

    def build(paths: list[Path]) -> dict[str, Any]:
        index: dict[str, Any] = {}
        for path in paths:
            index |= stock_index(path) if path == stock else whole([path])
        return index

    with replaced(TaskIndex, "build", staticmethod(build)):
        yield


@contextmanager
def no_default_length() -> Iterator[None]:
    """Leaves the generation length of a task unset if its YAML does not set it.

    Upstream: `config.task.default_gen_kwargs` writes `max_gen_toks: 256` into every task without
    generation settings.
    """
    import lm_eval.config.task as config

    original = config.default_gen_kwargs

    def default_gen_kwargs(until: Any, *length: int, **named: int) -> dict[str, Any]:
        kwargs = original(until, *length, **named)
        return (
            kwargs
            if length or named
            else {key: value for key, value in kwargs.items() if key != "max_gen_toks"}
        )

    with replaced(config, "default_gen_kwargs", default_gen_kwargs):
        yield


@contextmanager
def bounded_templates() -> Iterator[None]:
    """Limits the rendering time of templates, and names the field of a failing template.

    Upstream: `ConfigurableTask.__init__` renders the first document. An endless template hangs
    there, and the error of a failing template does not name the field.
    """
    from lm_eval import utils
    from lm_eval.api.task import ConfigurableTask

    from dlm_eval.harness import sample_errors

    with ExitStack() as stack:
        stack.enter_context(
            replaced(utils, "apply_template", sample_errors.bounded_template(utils.apply_template))
        )
        for field in PROMPT_FIELDS:
            named = sample_errors.naming_field(field, getattr(ConfigurableTask, field))
            stack.enter_context(replaced(ConfigurableTask, field, named))
        yield


@contextmanager
def first_sound_document() -> Iterator[None]:
    """Makes a task derive its form from the first document with a valid target.

    Upstream: `ConfigurableTask.__init__` uses the first document. If its target is invalid, the run
    ends.
    """
    from lm_eval.api.task import ConfigurableTask

    from dlm_eval.harness.targets import from_first_sound

    class Documents:
        def __set__(self, task: Any, docs: Any) -> None:
            vars(task)["task_docs"] = docs

        def __get__(self, task: Any, owner: type) -> Any:
            docs = vars(task)["task_docs"]
            return from_first_sound(task, docs) if "features" in vars(task) else docs

    with replaced(ConfigurableTask, "task_docs", Documents()):
        yield


@contextmanager
def paths_beside_yaml() -> Iterator[None]:
    """Resolves a task's relative paths in the folder of its YAML (data.py). The configuration is
    unchanged.

    Upstream: `ConfigurableTask.download` passes `data_files` and `dataset_path` to `datasets`,
    which resolves them in the working directory.
    """
    from lm_eval.api.task import ConfigurableTask

    from dlm_eval.harness.data import path_beside

    whole = ConfigurableTask.download

    def download(self: Any, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        source = (self.config.metadata or {}).get("config_source")
        folder = Path(str(source)).parent  # the folder of "inline" is the working directory
        options = dict(dataset_kwargs or {})
        if "data_files" in options:
            options["data_files"] = path_beside(folder, options["data_files"])
        with replaced(self, "DATASET_PATH", path_beside(folder, self.DATASET_PATH, directory=True)):
            whole(self, options, **kwargs)

    with replaced(ConfigurableTask, "download", download):
        yield


@contextmanager
def modules_beside_yaml() -> Iterator[None]:
    """Runs the Python files of tasks so that they may import the files beside them (user_files.py).

    Upstream: `tasks._yaml_loader` runs a file that a YAML names, and `import` finds no file beside
    it. A file is run again only if it was edited itself.
    """
    import lm_eval.tasks
    from lm_eval.tasks import _yaml_loader

    from dlm_eval.user_files import digest_of, run_file

    whole, stock = _yaml_loader._load_module_with_cache, Path(lm_eval.tasks.__file__).parent

    def load(path: Path) -> Any:
        if stock in path.parents:
            return whole(path)
        name, digest = str(path.with_suffix("")), digest_of(path)
        known = sys.modules.get(name)
        if known is not None and vars(known).get("__source_digest__") == digest:
            return known
        changed = path.stat().st_mtime_ns
        try:
            return run_file(path, name, __mtime__=changed, __source_digest__=digest)
        except BaseException:
            sys.modules.pop(name, None)
            raise

    with replaced(_yaml_loader, "_load_module_with_cache", load):
        yield


@contextmanager
def documents_by_seed(seeds: Seeds) -> Iterator[None]:
    """Makes a task's documents depend only on the task, its data and the seeds (data.py).

    Upstream: `process_docs` of some tasks is random (GPQA shuffles choices). It runs at each access
    to documents, with generators in any state. `datasets` caches its results under a key that does
    not contain the seed.
    """
    import datasets
    from lm_eval.config.task import TaskConfig

    from dlm_eval.harness import data

    caching = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        data.seed_generators(seeds)  # for classes that draw before they have a configuration
        with replaced(
            TaskConfig, "__post_init__", data.seeded_configuration(TaskConfig.__post_init__, seeds)
        ):
            yield
    finally:
        if caching:
            datasets.enable_caching()


def keep_documents(task: Any, seeds: Seeds) -> None:
    """Makes a task draw the documents of each kind once and then keep them.

    Upstream: a task class may draw in `training_docs` and similar methods, which lm-eval calls
    several times.
    """
    from dlm_eval.harness.data import drawn_once

    for name in DOCUMENTS:
        setattr(task, name, drawn_once(getattr(task, name), seeds))


@contextmanager
def local_first(data_dir: str | Path | None = None) -> Iterator[None]:
    """Makes `datasets.load_dataset` read `<data_dir>/<dataset_path>` before the hub (data.py).

    Upstream: `ConfigurableTask.download` calls `datasets.load_dataset`, which retries an
    unreachable hub for 20 seconds and then fails with a traceback.

    Args:
        data_dir: folder in the layout of the hub (`openai/gsm8k/...`); None for the folder in the
            environment variable DLM_EVAL_DATA.

    Raises:
        UserError: the folder does not exist, or a dataset cannot be loaded inside the context.
    """
    import datasets

    from dlm_eval.harness.data import Library, data_folder, progress_bars

    library = Library(data_folder(data_dir), datasets.load_dataset)
    try:
        with (
            replaced(datasets, "load_dataset", library.load),
            progress_bars(False),
            cards_read_once(),
        ):
            yield
    finally:
        # Our function, if a task module still refers to it, now calls the original one.
        library.active = False


@contextmanager
def cards_read_once() -> Iterator[None]:
    """Parses the card (README.md) of a local dataset once.

    Upstream: `datasets.load_dataset` parses it, in Python, for every configuration: 57 times for
    MMLU's subjects, which took most of the time in which their tasks load.
    """
    import datasets.load

    original = datasets.load.DatasetCard

    class Card(original):  # type: ignore[misc, valid-type]
        @classmethod
        def load(cls, path: Any, *args: Any, **options: Any) -> Any:
            return copy.deepcopy(read(path, *args, **options))  # a caller may change it

    read = functools.cache(original.load)
    with replaced(datasets.load, "DatasetCard", Card):
        yield


@contextmanager
def missing_modules(data_dir: str | Path | None = None) -> Iterator[None]:
    """Adds modules and functions that libraries have removed, and nltk's files (requirements.py).

    Upstream: stock tasks import `transformers.data.metrics.squad_metrics` (removed in transformers
    5), `pkg_resources` (removed in setuptools 82) and `datasets.load_metric` (removed in datasets
    3). `nltk.download` ignores files in a data folder.

    Raises:
        UserError: a task inside the context needs a file of nltk that is missing.
    """
    import datasets

    from dlm_eval.harness import requirements

    modules = requirements.stand_ins()
    sys.modules.update(modules)
    try:
        with ExitStack() as stack:
            if not hasattr(datasets, "load_metric"):
                stack.enter_context(replaced(datasets, "load_metric", requirements.load_metric))
            download = functools.partial(requirements.nltk_download, data_dir=data_dir)
            stack.enter_context(replaced_on_import("nltk", "download", download))
            yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


@contextmanager
def code_eval_in_sandbox() -> Iterator[None]:
    """Makes `evaluate.load("code_eval")` return the metric that runs programs in our sandbox.

    Upstream: HF evaluate's `code_eval`, which scores `humaneval*`, `mbpp*` and infilling tasks,
    runs programs unprotected.
    """
    from dlm_eval.metrics.code import METRIC

    def make(evaluate: Any) -> Callable[..., Any]:
        original = evaluate.load
        return lambda path, *args, **options: (
            METRIC if path == METRIC.name else original(path, *args, **options)
        )

    with replaced_on_import("evaluate", "load", make):
        yield


def judge_in_sandbox(tasks: Mapping[str, Any]) -> None:
    """Replaces the scorers of code tasks, also in modules that are already loaded (code_tasks.py).

    Upstream: modules of `humaneval*` and `mbpp*` load HF's `code_eval` when they are imported.
    `cruxeval*` calls `exec` itself.
    """
    from dlm_eval.harness import code_tasks
    from dlm_eval.metrics.code import METRIC

    for module in list(sys.modules.values()):
        # lm-eval marks modules of task files with __mtime__.
        if isinstance(module, types.ModuleType) and "__mtime__" in vars(module):
            for name in code_tasks.foreign_metrics(module):
                setattr(module, name, METRIC)
    for task in tasks.values():
        metrics = getattr(task, "_metric_fn_list", {})  # lm-eval's Python-class tasks have none
        for name, metric in metrics.items():
            if code_tasks.is_cruxeval(function := code_tasks.called(metric)):
                function.__globals__["check_correctness"] = code_tasks.passes
                function.__globals__["unsafe_execute"] = None  # it must not be called
                metrics[name] = code_tasks.judged_first(function)


# -- before a run ----------------------------------------------------------------------------------


def guard_task(
    name: str, task: Any, errors: SampleErrors, records: Callable[[], Sequence[Record]]
) -> None:
    """Prevents errors of one document from ending the run, and removes bad examples from prompts
    (sample_errors.py, fewshot.py).

    Upstream: `Task.build_all_requests`, `Task.apply_filters` and `evaluator.evaluate` do not catch
    exceptions of a document's prompt, filter or scorer, and do not support samples without an
    answer. `api.samplers` excludes the evaluated document from its own examples only if the two
    splits have the same name.
    """
    if (sampler := getattr(task, "sampler", None)) is not None:
        examples = errors.examples(name, task)
        task.fewshot_context = examples.prompt(task.fewshot_context)
        sampler.sample = examples.sample(sampler.sample)
    task.doc_to_prefix = errors.prefix(task.doc_to_prefix)
    task.fewshot_context = errors.prompt(task.fewshot_context)
    task.construct_requests = errors.requests(name, task, task.construct_requests)
    task.doc_to_target = errors.target(name, task.doc_to_target)
    task.apply_filters = errors.filters(name, task, task.apply_filters)
    task.process_results = errors.scores(name, task, task.process_results, records)
    task.higher_is_better = errors.fact(f"{name}: higher_is_better", task.higher_is_better, {})
    task.dump_config = errors.fact(f"{name}: dump_config", task.dump_config, {"task": name})


def judge_programs_ahead(name: str, task: Any) -> None:
    """Collects the programs of all documents of a task after filtering, so that the sandbox judges
    several at once.

    Upstream: `evaluator.evaluate` scores document by document, so the sandbox would judge one
    program at a time.
    """
    from dlm_eval.metrics.code import METRIC

    apply, score = task.apply_filters, task.process_results

    def apply_filters() -> Any:
        outcome = apply()
        with METRIC.noting(name):
            for instance in task.instances:
                for answer in instance.filtered_resps.values():
                    # An exception is raised again, and stored, during scoring.
                    with contextlib.suppress(Exception):
                        score(instance.doc, [answer])
        return outcome

    task.apply_filters = apply_filters


@contextmanager
def requests_passed_on(
    tasks: Sequence[Any], ahead: Callable[[Sequence[Any]], None]
) -> Iterator[None]:
    """Calls `ahead` with the requests of some documents as soon as they are built, each once.

    A task class that builds its requests in its own way may change them until it is done; its
    requests are passed on together.

    Upstream: `evaluator.evaluate` builds the requests of all tasks before it calls the model.
    """
    from lm_eval.api.task import Task

    def whole(task: Any, build: Callable[..., None]) -> Callable[..., None]:
        def build_all_requests(**options: Any) -> None:
            build(**options)
            ahead(task.instances)

        return build_all_requests

    def by_document(task: Any, build: Callable[..., None]) -> Callable[..., None]:
        construct = task.construct_requests

        def build_all_requests(**options: Any) -> None:
            waiting: list[Any] = []
            size = FIRST_PASSED

            def construct_requests(*args: Any, **named: Any) -> Any:
                nonlocal size
                found = construct(*args, **named)
                waiting.extend(found if isinstance(found, list) else [found])
                if len(waiting) >= size:
                    ahead(waiting)
                    waiting.clear()
                    size = min(2 * size, MOST_PASSED)
                return found

            with replaced(task, "construct_requests", construct_requests):
                build(**options)
            ahead(waiting)

        return build_all_requests

    with ExitStack() as stack:
        for task in tasks:
            as_usual = type(task).build_all_requests is Task.build_all_requests
            passed = (by_document if as_usual else whole)(task, task.build_all_requests)
            stack.enter_context(replaced(task, "build_all_requests", passed))
        yield


def before_filters(tasks: Sequence[Any], answered: Callable[[], None]) -> None:
    """Calls `answered` once, after all requests are answered and before the first filter.

    Upstream: `evaluator.evaluate` has no step between answers and scores.
    """
    once = functools.cache(answered)

    def after(apply: Callable[[], Any]) -> Callable[[], Any]:
        def apply_filters() -> Any:
            once()
            return apply()

        return apply_filters

    for task in tasks:
        task.apply_filters = after(task.apply_filters)


def bounded_chat_template(lm: Any, name: str) -> None:
    """Limits time and memory for the chat template of one of lm-eval's models that has a
    transformers tokenizer, and says what to do without one.

    Upstream: `HFLM.apply_chat_template` renders a checkpoint's template without limits. Without one
    transformers' message does not name the option.
    """
    from jinja2 import TemplateError
    from transformers import PreTrainedTokenizerBase

    from dlm_eval.errors import SampleError, UserError
    from dlm_eval.models.chat import NO_TEMPLATE, render_chat

    tokenizer = vars(lm).get("tokenizer")  # `dummy` would load one at the first look
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return

    def apply_chat_template(messages: Any, tokenize: bool = False, **options: Any) -> Any:
        if not tokenizer.chat_template and not options.get("chat_template"):
            raise UserError(f"'{name}': {NO_TEMPLATE}")
        try:
            text = render_chat(tokenizer, messages, name, **options)
        except SampleError as error:
            raise TemplateError(str(error)) from None  # lm-eval's models handle this type
        return tokenizer.encode(text, add_special_tokens=False) if tokenize else text

    tokenizer.apply_chat_template = apply_chat_template


# -- during a run ----------------------------------------------------------------------------------


@contextmanager
def evaluating(chatty: bool = False) -> Iterator[None]:
    """Applies all changes needed during a run; shows lm-eval's own output if `chatty`."""
    with (
        templates_compiled_once(),
        hashes_of_anything(),
        machine_described_once(),
        code_eval_in_sandbox(),
        contextlib.nullcontext() if chatty else quiet_evaluator(),
    ):
        yield


@contextmanager
def templates_compiled_once() -> Iterator[None]:
    """Compiles each prompt template once.

    Upstream: `utils.apply_template` compiles the template for every document, which takes most of
    the time before the first forward.
    """
    from lm_eval.utils import env

    with replaced(env, "from_string", functools.lru_cache(maxsize=4096)(env.from_string)):
        yield


@contextmanager
def hashes_of_anything() -> Iterator[None]:
    """Hashes documents and prompts that have no UTF-8 or JSON form.

    Upstream: `evaluator.evaluate` ends the run with a UnicodeEncodeError or TypeError after all
    requests are answered.
    """
    import lm_eval.evaluator as evaluator

    from dlm_eval.harness.results import json_value
    from dlm_eval.printable import valid_unicode

    hashed = evaluator.hash_string

    def hash_string(text: Any) -> str:
        return str(hashed(valid_unicode(text if isinstance(text, str) else str(text))))

    def dumps(value: Any, **options: Any) -> str:
        try:
            return json.dumps(value, **options)
        except (TypeError, ValueError, RecursionError):  # odd keys, or a cycle
            return json.dumps(json_value(value))

    with (
        replaced(evaluator, "hash_string", hash_string),
        replaced(evaluator, "json", SimpleNamespace(dumps=dumps)),
    ):
        yield


@contextmanager
def machine_described_once() -> Iterator[None]:
    """Collects torch's description of the machine once per process.

    Upstream: `loggers.utils.add_env_info` collects it in every run. This takes seconds, since torch
    lists packages in a subprocess.
    """
    import torch.utils.collect_env as collect_env

    with replaced(collect_env, "get_pretty_env_info", _once(collect_env.get_pretty_env_info)):
        yield


@contextmanager
def quiet_evaluator() -> Iterator[None]:
    """Hides lm-eval's progress bars and prints, and git's error messages.

    Upstream: `api.task` and `api.metrics` show their own progress bars, `api.metrics` prints, and
    `loggers.utils` shows git's errors.
    """
    import lm_eval.api.metrics as metrics
    import lm_eval.api.task as task
    import lm_eval.loggers.utils as logger_utils
    import tqdm

    from dlm_eval.workers.texts import silent_bar

    silent = silent_bar(tqdm.tqdm)
    output = functools.partial(subprocess.check_output, stderr=subprocess.DEVNULL)
    git = SimpleNamespace(check_output=output, CalledProcessError=subprocess.CalledProcessError)
    with (
        replaced(logger_utils, "subprocess", git),
        replaced(task, "tqdm", silent),
        replaced(tqdm, "tqdm", silent),  # the bootstrap imports it when it runs
        replaced(metrics, "print", lambda *args, **kwargs: None),
    ):
        yield


@contextmanager
def metrics_apart(errors: SampleErrors) -> Iterator[None]:
    """Aggregates each metric separately if one of them fails (sample_errors.py).

    Also drops pass@k of repeated answers whose metric is not always 0 or 1 (repeats.py).

    Upstream: all results are lost if one metric raises in
    `evaluator_utils._compute_task_aggregations` or `Group.aggregate`.
    """
    import lm_eval.evaluator_utils as utils
    from lm_eval.api.group import Group

    from dlm_eval.harness.repeats import without_fractions

    with (
        replaced(
            utils,
            "_compute_task_aggregations",
            errors.task_metrics(without_fractions(utils._compute_task_aggregations)),
        ),
        replaced(Group, "aggregate", errors.group_metrics(Group.aggregate)),
    ):
        yield


# -- after the answers -----------------------------------------------------------------------------


@contextmanager
def rendered_once(task: Any) -> Iterator[None]:
    """Makes a task render the choices and the target of each document once.

    Upstream: `process_results` renders and parses their templates at each call.
    metric_errors.py calls it 30 times.
    """

    def by_document(read: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[tuple[Any, ...], Any] = {}

        def once(doc: Any, *more: Any) -> Any:
            key = (id(doc), *map(repr, more))
            if key not in known:
                known[key] = read(doc, *more)
            return known[key]

        return once

    with ExitStack() as stack:
        for name in ("doc_to_choice", "doc_to_target"):
            if hasattr(task, name):
                stack.enter_context(replaced(task, name, by_document(getattr(task, name))))
        yield


@contextmanager
def public_command_line() -> Iterator[None]:
    """Hides secrets in `sys.argv`, which the loggers of W&B and Trackio record."""
    from dlm_eval.redaction import learn_words, redact_message

    learn_words(sys.argv)
    with replaced(sys, "argv", [redact_message(word) for word in sys.argv]):
        yield


@contextmanager
def failed_pushes(missing: list[str]) -> Iterator[None]:
    """Adds failed pushes to the Hub to `missing`.

    Upstream: `loggers.evaluation_tracker` only logs them.
    """

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING and record.getMessage().startswith("Could not"):
                missing.append(f"on the hub ({record.getMessage()})")

    handler, logger = Noting(), logging.getLogger("lm_eval.loggers.evaluation_tracker")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
