"""All changes to lm-eval and to the libraries that its tasks call: one file for each trap.

| trap | seen in | mended in |
|---|---|---|
| lm-eval's own models are gone as soon as another package has registered one | lm-eval 0.4.13 | registry.py |
| `k=v,...` with braces is read as JSON; secrets on the command line are logged | lm-eval 0.4.13 | command_line.py |
| warnings, progress bars and prints that tell a user nothing | lm-eval 0.4.13 | quiet.py |
| work with one result is done for every task, document or run | lm-eval 0.4.13, datasets 5.2, torch 2.13 | repeated_work.py |
| a task without a generation length gets 256 tokens | lm-eval 0.4.13 | default_length.py |
| data is looked for in the working directory and on the hub only; a Python file cannot import its neighbours | lm-eval 0.4.13, datasets 5.2 | data_places.py |
| documents drawn at random differ at each access | lm-eval 0.4.13, datasets 5.2 | random_documents.py |
| tasks import what newer libraries have removed | lm-eval 0.4.13 (transformers 5, setuptools 82, datasets 3) | removed_modules.py |
| a template has no limits, and its error names no field | lm-eval 0.4.13, transformers 5.23 | endless_templates.py |
| one bad document, metric or push costs the whole run, or is not told | lm-eval 0.4.13 | single_failures.py |
| generated programs run unprotected, and one by one | lm-eval 0.4.13, evaluate 0.4.6 | generated_code.py |
| the model waits for the last request; scores follow the last answer at once | lm-eval 0.4.13 | request_flow.py |

No other module changes lm-eval, except workers/texts.py (`calling`), which changes lm-eval's models
and their modules during a call, also in workers.

Each docstring describes the upstream behaviour that the change fixes, with the version that it was
seen in; tests/test_lm_eval_patches.py shows the behaviour with and without the change. Changes of
modules and classes are context managers; outside them lm-eval is unchanged. Changes of a task or
model object last as long as the object. Functions import lm-eval only when they run, since the
command line imports this package.

The functions below apply the changes, in the order of a run. Some have a place of their own:
`register_models` (import of dlm_eval), `run_parser` (command line), `bounded_chat_template` (when
one of lm-eval's models is made), `rendered_once` (metric_errors.py), `public_command_line`
(saving.py) and `failed_pushes` (run.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.harness.lm_eval_patches.command_line import Pairs, public_command_line, run_parser
from dlm_eval.harness.lm_eval_patches.data_places import (
    local_first,
    modules_beside_yaml,
    paths_beside_yaml,
)
from dlm_eval.harness.lm_eval_patches.default_length import no_default_length
from dlm_eval.harness.lm_eval_patches.endless_templates import (
    bounded_chat_template,
    bounded_templates,
)
from dlm_eval.harness.lm_eval_patches.generated_code import (
    code_eval_in_sandbox,
    judge_in_sandbox,
    judge_programs_ahead,
)
from dlm_eval.harness.lm_eval_patches.quiet import quiet_evaluator, quiet_index
from dlm_eval.harness.lm_eval_patches.random_documents import documents_by_seed, keep_documents
from dlm_eval.harness.lm_eval_patches.registry import register_models
from dlm_eval.harness.lm_eval_patches.removed_modules import missing_modules
from dlm_eval.harness.lm_eval_patches.repeated_work import (
    machine_described_once,
    quick_index,
    rendered_once,
    templates_compiled_once,
)
from dlm_eval.harness.lm_eval_patches.request_flow import before_filters, requests_passed_on
from dlm_eval.harness.lm_eval_patches.single_failures import (
    failed_pushes,
    first_sound_document,
    guard_task,
    hashes_of_anything,
    metrics_apart,
)

if TYPE_CHECKING:
    from dlm_eval.harness.data import Seeds
    from dlm_eval.harness.results import Record
    from dlm_eval.harness.sample_errors import SampleErrors

__all__ = [
    "Pairs",
    "asking",
    "bounded_chat_template",
    "evaluating",
    "failed_pushes",
    "finding",
    "guard_task",
    "judge_in_sandbox",
    "keep_documents",
    "loading",
    "local_first",
    "prepare_tasks",
    "public_command_line",
    "reading",
    "register_models",
    "rendered_once",
    "run_parser",
]


@contextmanager
def reading(data_dir: str | Path | None = None) -> Iterator[None]:
    """Applies the changes for the time in which tasks are found and loaded.

    Raises:
        UserError: see `local_first`.
    """
    with quiet_index(), no_default_length(), local_first(data_dir):
        yield


@contextmanager
def finding() -> Iterator[None]:
    """Applies the changes for the time in which an index of tasks is made."""
    with quiet_index(), quick_index():
        yield


@contextmanager
def loading(seeds: Seeds, data_dir: str | Path | None = None) -> Iterator[None]:
    """Applies the changes for the time in which task objects are created.

    `judge_in_sandbox` and `keep_documents` follow, on the objects.
    """
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


def prepare_tasks(
    tasks: Mapping[str, Any],
    errors: SampleErrors,
    records: Callable[[], Sequence[Record]],
    programs: Collection[str] = (),
    answered: Callable[[], None] | None = None,
) -> None:
    """Changes the task objects of a run, before their requests are built.

    Args:
        tasks: by name.
        errors: of the run; it takes what fails.
        records: what is known of the answers when they are scored.
        programs: names of tasks whose answers are run.
        answered: called once all requests are answered, before the first filter; or None.
    """
    for name, task in tasks.items():
        if name in programs:
            judge_programs_ahead(name, task)
        guard_task(name, task, errors, records)
    if answered is not None:
        before_filters(list(tasks.values()), answered)


@contextmanager
def evaluating(chatty: bool = False) -> Iterator[None]:
    """Applies the changes for the time of a run; shows lm-eval's own output if `chatty`."""
    with (
        templates_compiled_once(),
        hashes_of_anything(),
        machine_described_once(),
        code_eval_in_sandbox(),
        contextlib.nullcontext() if chatty else quiet_evaluator(),
    ):
        yield


@contextmanager
def asking(
    tasks: Sequence[Any], errors: SampleErrors, ahead: Callable[[Sequence[Any]], None] | None = None
) -> Iterator[None]:
    """Applies the changes around the call of lm-eval's evaluator.

    Args:
        tasks: of the run.
        errors: of the run.
        ahead: called with the requests of some documents as soon as they are built; or None.
    """
    with ExitStack() as stack:
        stack.enter_context(metrics_apart(errors))
        if ahead is not None:
            stack.enter_context(requests_passed_on(tasks, ahead))
        yield
