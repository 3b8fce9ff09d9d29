"""`--dry_run`: what a run would do. The model does not run, and nothing is written. Of a checkpoint,
config and tokenizer are loaded; a model of a Python file is loaded whole, on the CPU.

The requests are built by the code of a run, and given to a model without weights that counts them
(`plan.py`). The run ends before the first filter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlm_eval.errors import DlmEvalError, RunError, UserError
from dlm_eval.harness.checks import Ask, check_settings
from dlm_eval.harness.model_kind import Loaded
from dlm_eval.harness.open_model import kind_of
from dlm_eval.harness.plan import DryRun, Plan
from dlm_eval.harness.run import run
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.journal import StoredJournal


class _Built(DlmEvalError):
    """Ends the run before filters and metrics."""


def dry_run(settings: RunSettings, ask: Ask | None = None) -> Plan:
    """Returns what a run would do.

    Raises:
        UserError: a run would refuse a setting, a task or its data.
    """
    settings = replace(settings, dry_run=True)
    check_settings(settings)
    notes: list[str] = []
    if settings.output_path is not None:
        _check_output(settings.output_path)

    def build(loaded: Loaded) -> Mapping[str, Any]:
        built: dict[str, Any] = {}

        def answered(_: Loaded, tasks: Mapping[str, Any]) -> None:
            built.update(tasks)
            raise _Built("all requests are built")

        with suppress(_Built):
            run(settings, ask, shared=loaded, answered=answered)
        return built

    with closing(_Stored(settings, notes)) as stored:
        plan = kind_of(settings.model).plan(DryRun(settings, build, stored.journal, notes))
        return replace(plan, notes=tuple(notes))


def _check_output(output_path: str) -> None:
    """Raises UserError if the output path could not be written. Nothing is created."""
    path = Path(output_path)
    place = path.parent if path.suffix == ".json" else path
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        why = "it is not writable" if place.is_dir() else "it is not a folder"
        raise UserError(f"--output_path '{output_path}' cannot be written: {place}: {why}")


class _Stored:
    """The journal of a run, if there is one."""

    def __init__(self, settings: RunSettings, notes: list[str]) -> None:
        self.journal: StoredJournal | None = None
        if settings.output_path is None or not settings.resume:
            return
        path = Path(settings.output_path)
        home = path.parent if path.suffix == ".json" else path
        file = (home / settings.part.folder if settings.part else home) / "journal.sqlite"
        if not file.is_file():
            return
        try:
            self.journal = StoredJournal(file)
        except RunError as error:
            notes.append(f"{error}; a run would set it aside and begin a new one")

    def close(self) -> None:
        """Closes the journal."""
        if self.journal is not None:
            self.journal.close()
