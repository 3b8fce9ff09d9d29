"""Writes tests/suite_truth/prompts.json: the prompts of the first documents of every suite's entries.

    python scripts/suite_prompts.py [SUITE | SUITE:ENTRY,... ...]   (default: all; others keep their lines)

Of real documents only length and sha256 are stored, since their texts must not be in the
repository; of ours the text. Real documents are read from $DLM_EVAL_SHARED/data (default:
../shared/data), ours from tests/suite_data. An entry that cannot be loaded here (a missing extra,
documents that only the hub has) keeps its old lines.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tests" / "suite_truth" / "prompts.json"
OURS = ROOT / "tests" / "suite_data"
# In place of a judge that must be downloaded.
STAND_IN = {"judge": "asset:tiny-ar", "n_samples": 4}
LEAVES, DOCUMENTS = 2, 2  # of each entry: tasks of a group, documents of a task


def shared_data() -> Path:
    """Returns the folder of real documents, which need not exist."""
    return Path(os.environ.get("DLM_EVAL_SHARED", ROOT.parent / "shared")) / "data"


def link_documents(target: Path, *folders: Path) -> Path:
    """Fills `target` with links to the datasets of `folders`; the first that has one counts."""
    for folder in folders:
        for dataset in sorted(folder.glob("*/*")):
            place = target / dataset.parent.name / dataset.name
            if dataset.is_dir() and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(dataset.resolve(), target_is_directory=True)
    target.mkdir(parents=True, exist_ok=True)
    return target


def documents_for(entry: Any, target: Path) -> Path:
    """Returns the folder with an entry's documents: real ones first, or ours if it says so."""
    folders = [shared_data(), OURS] if entry.data == "real" else [OURS, shared_data()]
    return link_documents(target / str(entry.data), *folders)


def load_entry(entry: Any, data_dir: Path) -> dict[str, Any]:
    """Returns lm-eval's tasks of an entry, as a run would load them."""
    from dlm_eval.harness.run import tasks_of
    from dlm_eval.harness.run_settings import run_settings

    own = entry.conditions
    values = {"model": "tiny", "tasks": entry.task, "data_dir": str(data_dir), "metadata": {**(own.metadata or {}), **STAND_IN}}  # fmt: skip
    return tasks_of(run_settings(values))


def prompts_of(entry: Any, loaded: dict[str, Any]) -> dict[str, list[Any]]:
    """Returns task -> the prompts of its first documents, without a chat template."""
    from dlm_eval.harness import lm_eval_patches as patches
    from dlm_eval.harness.sample_errors import SampleErrors

    found: dict[str, list[Any]] = {}
    for name, task in list(loaded["tasks"].items())[:LEAVES]:
        shots, own = entry.conditions.num_fewshot, task.config.num_fewshot
        task.set_config(key="num_fewshot", value=(own or 0) if shots is None or own == 0 else shots)
        task.set_fewshot_seed(seed=1234)
        patches.guard_task(name, task, SampleErrors(1234), list)
        with patches.evaluating():
            task.build_all_requests(
                limit=DOCUMENTS, rank=0, world_size=1,
                system_instruction=entry.conditions.system_instruction,
            )  # fmt: skip
        first: dict[int, str] = {}
        for request in task.instances:
            first.setdefault(request.doc_id, str(request.args[0]))
        found[name] = [described(text) if entry.data == "real" else text for text in first.values()]
    return found


def described(text: str) -> dict[str, Any]:
    """Returns length and hash of a prompt."""
    return {"characters": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def main(names: list[str]) -> None:
    from dlm_eval.errors import DlmEvalError
    from dlm_eval.harness.suites import suites

    logging.disable(logging.WARNING)
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    every = suites()
    told = {name: known.get(name, {}) for name in every}
    with tempfile.TemporaryDirectory() as folder:
        for name, entry in entries(names or list(every)):
            try:
                loaded = load_entry(entry, documents_for(entry, Path(folder)))
                told[name][entry.entry] = prompts_of(entry, loaded)
            except DlmEvalError as error:
                print(f"{name} {entry.entry}: {error}", file=sys.stderr)
    kept = {
        name: {e.entry: told[name][e.entry] for e in suite.entries if e.entry in told[name]}
        for name, suite in every.items()
    }
    FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def entries(names: list[str]) -> Iterator[tuple[str, Any]]:
    """Yields (suite, entry) of suites by name, or of some of their entries (`suite:entry,entry`)."""
    from dlm_eval.harness.suites import load_suite

    for wanted in names:
        name, _, only = wanted.partition(":")
        suite = load_suite(name)
        for entry in (suite.only(only.split(",")) if only else suite).entries:
            yield name, entry


if __name__ == "__main__":
    main(sys.argv[1:])
