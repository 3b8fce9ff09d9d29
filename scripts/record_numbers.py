"""Records what the harness answers, and compares two recordings: a redesign may move code, and no number.

    python scripts/record_numbers.py record OUT.json [--only GLOB] [--quick] [--jobs N] [--renamed FILE]
    python scripts/record_numbers.py compare OLD.json NEW.json [--only GLOB] [--renamed FILE] [--strict]

`record` uses nothing but the public Python API and the command line: every model family, with every estimator, strategy and preset that `dlm-eval ls`
lists, and whole runs (record_cases.py, record_runs.py; the models are in record_models.py). `--only 'llada/fill/*'` records the cases with such names,
`--quick` a part in two minutes. `--jobs N` uses N processes of one thread each. The package that is recorded is the one that Python imports: to record
another state of the code, check it out elsewhere and put it first on PYTHONPATH.

`compare` prints every value that differs (case, key, old, new), cases that are missing, and cases that are new; exit 1 if there is any, 0 if all is equal
bit for bit. Messages, digests that cover source text and help texts are compared too, but counted apart; they fail only under `--strict`.
A name that a redesign changes on purpose goes into scripts/renamed.yaml: `record` then asks the new code in its own spelling under the old case names,
and `compare` looks for the old value under the new name. The table that `record` reads belongs to the code that runs: record old code with
`--renamed none`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from record_format import RENAMED, STEP, Case, Renamed, leaves, plain  # noqa: E402

# of the processes that record; set before they import torch
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "LMEVAL_LOG_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
}
QUICK = (
    "toy/*",
    "tiny/model/*",
    "tiny/score/*",
    "llada/score/*",
    "llada/preset/*",
    "llada/fill/[ct]*",
    "sdar/*",
    "ddlm/fill/*",
    "run/demo",
    "run/own",
    "run/evaluate *",
    "run/list *",
)
LONGEST = 240  # seconds that a case may take, on a busy machine
PARTS = 4  # into which the cases of a model that has many are cut


@dataclass(frozen=True)
class Work:
    """What one process records at a time: a part of a model's cases, or one run of the command line."""

    group: str
    part: int
    folder: Path
    only: tuple[str, ...]
    renamed: Renamed
    there: Mapping[str, tuple[str, ...]]


def record(out: Path, only: tuple[str, ...], jobs: int, renamed: Renamed) -> None:
    """Writes the recording of all cases whose names fit a pattern of `only`."""
    os.environ.update(ENVIRONMENT)
    begin = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # paths are relative, so that digests that cover them repeat themselves
        try:
            found = _recorded(Path(folder), only, jobs, renamed)
        finally:
            os.chdir(begin)
    lines = (
        f"{json.dumps(name)}: {json.dumps(found[name], separators=(',', ':'), ensure_ascii=False)}"
        for name in sorted(found)
    )
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{out}: {len(found)} cases, {out.stat().st_size / 1e6:.1f} MB")


def _recorded(folder: Path, only: tuple[str, ...], jobs: int, renamed: Renamed) -> dict[str, Any]:
    import record_models
    import record_runs

    os.environ["HF_DATASETS_CACHE"] = str(folder / "datasets")
    record_runs.write_small_tasks(Path("tasks"))
    there = _there(renamed)
    missing = sorted(set(there["models"]) - record_models.known_families())
    for family in missing:
        print(f"no checkpoint for family '{family}': its cases are missing", file=sys.stderr)
    found: dict[str, Any] = {"recording/families": plain({"missing": missing, **there})}
    for number, records in enumerate(_worked(_works(only, renamed, there), jobs)):
        found.update(records)
        print(f"\r{len(found)} cases, {number + 1} parts", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def _there(renamed: Renamed) -> dict[str, tuple[str, ...]]:
    """Returns what `dlm-eval ls` lists, in the first recording's spelling."""
    import record_runs

    listed = {
        what: tuple(record_runs.listed_names(what))
        for what in ("models", "strategies", "estimators", "presets")
    }
    for what, table in (("strategies", renamed.strategies), ("estimators", renamed.estimators)):
        old = {new: name for name, new in table.items()}
        listed[what] = tuple(old.get(name, name) for name in listed[what])
    return listed


def _works(
    only: tuple[str, ...], renamed: Renamed, there: Mapping[str, tuple[str, ...]]
) -> list[Work]:
    """Returns the work, what takes long first."""
    import record_cases
    import record_models
    import record_runs

    groups = [(name, 0) for name in record_runs.names()]
    groups += [
        (name, part)
        for name in record_models.names()
        for part in range(PARTS if name in record_cases.FULL else 1)
    ]
    return [
        Work(
            group,
            part,
            Path(f"work-{re.sub('[^a-z0-9]+', '-', group)}-{part}"),
            only,
            renamed,
            there,
        )
        for group, part in groups
        if _any(group, only)
    ]


def _any(group: str, only: tuple[str, ...]) -> bool:
    """Whether a case of `group` (a run, or a model with many cases) can fit one of the patterns."""
    return any(
        fnmatch.fnmatchcase(group, pattern if group.startswith("run/") else pattern.split("/")[0])
        for pattern in only
    )


def _worked(works: Sequence[Work], jobs: int) -> Iterator[dict[str, Any]]:
    if jobs == 1:
        yield from map(answer, works)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(answer, work) for work in works]):
            yield done.result()


def answer(work: Work) -> dict[str, Any]:
    """Returns the records of a part of the work by case name."""
    warnings.simplefilter("ignore")
    work.folder.mkdir(parents=True, exist_ok=True)
    chosen = [
        case
        for case in _cases(work)
        if any(fnmatch.fnmatchcase(case.name, pattern) for pattern in work.only)
    ]
    parts = PARTS if len(chosen) > 200 else 1
    return (
        {case.name: _answered(case, work.folder) for case in chosen[work.part :: parts]}
        if work.part < parts
        else {}
    )


def _cases(work: Work) -> Iterator[Case]:
    import record_cases
    import record_runs

    if work.group.startswith("run/"):
        return record_runs.cases(work.group, work.folder, work.renamed)
    there = work.there
    return record_cases.cases(
        work.group,
        work.folder,
        work.renamed,
        there["strategies"],
        there["estimators"],
        there["presets"],
    )


def _answered(case: Case, folder: Path) -> Any:
    import record_models

    places = (
        str(folder.resolve().parent),
        str(folder),
        str(record_models.SHARED),
        str(record_models.ROOT),
    )
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST)
    try:
        return plain(case.run(), places)
    except (
        Exception
    ) as error:  # a refusal is an answer, and a crash is one that must stay what it is
        kind = (
            "refused"
            if type(error).__name__ in ("UserError", "SampleError", "RunError")
            else "crashed"
        )
        return plain({kind: type(error).__name__, "words": {"line": str(error)}}, places)
    except Endless:
        return {"endless": True}
    finally:
        signal.alarm(0)


class Endless(BaseException):
    """A case that takes too long. Not an Exception, which the package would make the error of one sample."""


def _too_long(*_: Any) -> None:
    raise Endless


def compare(
    old: Mapping[str, Any], new: Mapping[str, Any], renamed: Renamed
) -> tuple[list[str], list[str]]:
    """Returns the lines that say what differs: numbers, and words."""
    numbers = [f"{name}: missing" for name in old if name not in new] + [
        f"{name}: new" for name in new if name not in old
    ]
    words: list[str] = []
    for name in sorted(old.keys() & new.keys()):
        before = {
            path: renamed.value(value)
            for key, value in leaves(old[name])
            if (path := renamed.path(key)) is not None
        }
        after = {
            path: value
            for path, value in leaves(new[name])
            if not (path not in before and set(path) & set(renamed.added))
        }
        for path in [*before, *(path for path in after if path not in before)]:
            texts = [repr(side[path]) if path in side else "nothing" for side in (before, after)]
            if texts[0] != texts[1]:
                (words if "words" in path else numbers).append(
                    f"{name}: {STEP.join(path)}: {texts[0]} -> {texts[1]}"
                )
    return numbers, words


def _read(path: Path, only: Sequence[str]) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: case
        for name, case in found.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in only)
    }


def _table(text: str | None) -> Renamed:
    return Renamed.read(None if text == "none" else Path(text) if text else RENAMED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="answer all cases")
    recording.add_argument("out", type=Path)
    recording.add_argument(
        "--quick", action="store_true", help="a part of the cases, in two minutes"
    )
    recording.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    comparing = commands.add_parser("compare", help="say what differs")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument("--strict", action="store_true", help="words must be equal too")
    for command in (recording, comparing):
        command.add_argument(
            "--only", action="append", metavar="GLOB", help="cases by name (may be repeated)"
        )
        command.add_argument(
            "--renamed",
            metavar="FILE",
            help="table of changed names (default: scripts/renamed.yaml; none: no names)",
        )
    given = parser.parse_args(arguments)
    if given.command == "record":
        record(
            given.out,
            tuple(given.only or (QUICK if given.quick else ("*",))),
            given.jobs,
            _table(given.renamed),
        )
        return 0
    old, new = (_read(path, given.only or ["*"]) for path in (given.old, given.new))
    numbers, words = compare(old, new, _table(given.renamed))
    for line in numbers:
        print(line)
    for line in words:
        print(f"words: {line}")
    print(
        f"{len(old)} and {len(new)} cases: {len(numbers)} values differ, {len(words)} words differ"
    )
    return 1 if numbers or (given.strict and words) else 0


if __name__ == "__main__":
    sys.exit(main())
