"""What `--model` can name: a kind of model checks the settings, opens the model, and plans a dry run.

The kinds are `Denoisers` (`denoisers.py`), `LmEvalModels` (`lm_eval_models.py`) and
`RecordedAnswers` (`recorded.py`). `open_model.py` finds the kind of a name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from dlm_eval.engine import Cost
from dlm_eval.errors import UserError
from dlm_eval.harness.plan import DryRun, Plan
from dlm_eval.harness.results import Record
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.journal import Journal
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.workers import Pool

# Settings that only our denoisers use.
OF_DENOISERS = ("estimator", "decode", "stride", "overlong", "log_trajectories", "vote")


@dataclass(frozen=True)
class Spent:
    """The cost of earlier runs for the answers: device cost, and seconds from start to end."""

    device: Cost = field(default_factory=Cost)
    wall_seconds: float = 0.0


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be evaluated; several runs can share it.

    Attributes:
        name: the model's name in result folders and tables.
        facts: the model's identity in results.
        make_lm: returns lm-eval's LM of a run: called with this object, the run's settings, and the
            tasks whose scores depend only on the order of choices.
        pool: runs the model.
        journal: stores the model's answers.
        model: the denoiser; None for other kinds of models.
        lm: lm-eval's LM of a run, which `under` makes; None before that.
        close: called once after the last run.
        spent: cost of the shards, if this run merges them.
    """

    name: str
    facts: dict[str, Any]
    make_lm: Callable[[Loaded, RunSettings, frozenset[str]], Any]
    pool: Pool
    journal: Journal | None = None
    model: Denoiser | None = None
    lm: Any = None
    close: Callable[[], None] = lambda: None
    spent: Spent = Spent()

    @property
    def ours(self) -> bool:
        """Whether it is one of our denoisers."""
        return self.model is not None

    @property
    def records(self) -> list[Record]:
        """The records of the run's requests."""
        return list(self.lm.records)

    def under(self, settings: RunSettings, by_order: frozenset[str] = frozenset()) -> Loaded:
        """Returns the model for one run. It shares weights, devices and journal, but has its own
        records.

        Args:
            by_order: tasks whose scores depend only on the order of choices.
        """
        return replace(self, lm=self.make_lm(self, settings, by_order))


class ModelKind(Protocol):
    """One kind of models."""

    def names(self) -> Collection[str]:
        """Returns the names that --model takes."""
        ...

    def has(self, name: str) -> bool:
        """Returns whether a model is of this kind."""
        ...

    def check_options(self, settings: RunSettings) -> None:
        """Raises UserError for settings that are wrong for every task."""
        ...

    def check_tasks(self, settings: RunSettings, tasks: Mapping[str, Any]) -> None:
        """Raises UserError if settings or the tasks' settings do not fit the model."""
        ...

    def load(self, settings: RunSettings, journal: Journal | None) -> Loaded:
        """Returns the model with its pool.

        Raises:
            UserError: an option or the checkpoint cannot be used.
        """
        ...

    def entry_conditions(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the settings of a suite's entry in a form for models of this kind; what means
        nothing to them is left out.
        """
        ...

    def entry_arguments(self, arguments: Mapping[str, Any], entry: str) -> Mapping[str, Any]:
        """Returns --model_args of a suite for one of its entries.

        Raises:
            UserError: they have nothing for this entry.
        """
        ...

    def plan(self, dry: DryRun) -> Plan:
        """Returns what a run would do. Neither weights nor pool are made.

        Raises:
            UserError: a run would refuse the model, a task or its data.
        """
        ...


def without(own: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Returns settings without those of `names`."""
    return {key: value for key, value in own.items() if key not in names}


def refuse_settings(settings: RunSettings, names: Collection[str], why: str) -> None:
    """Raises UserError if one of the settings `names`, which the model would ignore, is given."""
    for one in fields(settings):
        if one.name in names and getattr(settings, one.name) not in (one.default, {}):
            raise UserError(
                f"--{one.name} means nothing to --model '{settings.model}', {why}; leave it out"
            )
