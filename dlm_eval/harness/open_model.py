"""Opens `--model`: finds the kind of its name, and yields the model with the journal of the run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.harness.denoisers import Denoisers
from dlm_eval.harness.lm_eval_models import LmEvalModels
from dlm_eval.harness.model_kind import Loaded, ModelKind
from dlm_eval.harness.recorded import RecordedAnswers
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.journal import Journal
from dlm_eval.models import check_supported
from dlm_eval.signals import last_duty

DENOISERS = Denoisers()
# The first that has a name: lm-eval's registry has the names of our denoisers too.
KINDS: tuple[ModelKind, ...] = (DENOISERS, RecordedAnswers(), LmEvalModels())


def kind_of(name: str) -> ModelKind:
    """Returns the kind of a model.

    Raises:
        UserError: neither dlm_eval nor lm-eval has the model; the error has the nearest name.
    """
    for kind in KINDS:
        if kind.has(name):
            return kind
    check_supported(name)
    if name.endswith(".py"):
        raise UserError(f"--model '{name}': no such file")
    names = {known for kind in KINDS for known in kind.names()}
    raise unknown_name_error("--model", name, names, "dlm-eval ls models")


@contextmanager
def open_model(settings: RunSettings, home: Path | None) -> Iterator[Loaded]:
    """Yields the model of a run, with the journal in `home`; closes both at the end.

    Raises:
        UserError: an option or the checkpoint cannot be used.
    """
    journal = Journal(home / "journal.sqlite") if home and settings.resume else None
    with ExitStack() as stack:
        if journal is not None:
            stack.callback(journal.close)
            stack.enter_context(last_duty(journal.commit))
        loaded = kind_of(settings.model).load(settings, journal)
        stack.callback(loaded.close)
        stack.enter_context(last_duty(loaded.pool.close))
        # Garbage collection over the model and libraries would take 10 % of the harness's time.
        gc.freeze()
        stack.callback(gc.unfreeze)
        yield loaded
