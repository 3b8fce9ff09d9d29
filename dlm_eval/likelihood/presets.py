"""The authors' estimators by name (presets.yaml): `--estimator preset=NAME`, and `preset=authors`,
which is that of the checkpoint and the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dlm_eval.errors import unknown_name_error
from dlm_eval.models.authors import Audience, authors_choice
from dlm_eval.settings import parse_pairs

if TYPE_CHECKING:
    from dlm_eval.likelihood.estimator import Estimator

TABLE = Path(__file__).with_name("presets.yaml")


@dataclass(frozen=True, kw_only=True)
class EstimatorPreset(Audience):
    """An estimator that someone published.

    Attributes:
        estimator: text of --estimator.
    """

    estimator: str


class TaskEstimators(Protocol):
    """What `--estimator` says: one estimator for all tasks, or the authors' for each."""

    @property
    def needs_question(self) -> bool: ...
    def for_model(self, checkpoint: str, family: str) -> TaskEstimators: ...
    def for_task(self, task: str) -> Estimator: ...
    def preset_of(self, task: str) -> str | None: ...
    def identity(self) -> dict[str, Any]: ...


@cache
def estimator_presets() -> dict[str, EstimatorPreset]:
    """Returns the presets by name."""
    import yaml

    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    found = {}
    for name, row in rows.items():
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        found[name] = EstimatorPreset(name=name, **values)
    return found


@dataclass(frozen=True)
class Authors:
    """`preset=authors`: the estimator that the authors of a checkpoint use for a task.

    Attributes:
        more: the user's settings, which override the preset's.
        checkpoint, family: of the model, once it is known.
    """

    more: Mapping[str, str] = field(default_factory=dict)
    checkpoint: str = ""
    family: str = ""
    _found: dict[str, Estimator] = field(default_factory=dict, compare=False, repr=False)

    @property
    def needs_question(self) -> bool:
        """None of the authors stops early."""
        return False

    def for_model(self, checkpoint: str, family: str) -> Authors:
        """Returns the estimators for a model."""
        return replace(self, checkpoint=checkpoint, family=family, _found={})

    def preset_of(self, task: str) -> str:
        """Returns the name of the preset for `task`.

        Raises:
            UserError: the authors published none.
        """
        known = estimator_presets()
        return authors_choice(known, self.checkpoint, task, self.family, "--estimator")

    def for_task(self, task: str) -> Estimator:
        """Returns the estimator for `task`.

        Raises:
            UserError: the authors published none, or it does not have one of the user's settings.
        """
        if task not in self._found:
            self._found[task] = _made(self.preset_of(task), self.more)
        return self._found[task]

    def identity(self) -> dict[str, Any]:
        """Returns what the user asked for."""
        return {"name": "authors", **self.more}


def parse_estimators(text: str) -> TaskEstimators:
    """Returns what `--estimator TEXT` says: "NAME[,k=v]", or "preset=NAME[,k=v]".

    Raises:
        UserError: an unknown name or setting (with the nearest name), or a bad value.
    """
    from dlm_eval.likelihood.estimator import parse_estimator

    if not text.strip().startswith("preset="):
        return parse_estimator(text)
    more = parse_pairs(text, "--estimator")
    name = more.pop("preset")
    if name == "authors":
        return Authors(more)
    if name not in estimator_presets():
        raise unknown_name_error("--estimator preset", name, ("authors", *estimator_presets()))
    return _made(name, more)


def _made(name: str, more: Mapping[str, str]) -> Estimator:
    """Returns the estimator of a preset, with settings that override the preset's."""
    from dlm_eval.likelihood.estimator import parse_estimator

    kind, _, rest = estimator_presets()[name].estimator.partition(",")
    settings = {**parse_pairs(rest, f"preset {name}"), **more}
    return parse_estimator(",".join([kind, *(f"{k}={v}" for k, v in settings.items())]))
