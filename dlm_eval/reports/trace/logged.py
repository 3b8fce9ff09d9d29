"""Trajectories in the samples files of a run: `dlm-eval trace --from RUN`.

Files are untrusted. One of the wrong form is an error that names file and line.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlm_eval.canvas import BLANK, Filling
from dlm_eval.decoding import TraceStep
from dlm_eval.errors import UserError
from dlm_eval.printable import counted, valid_unicode
from dlm_eval.reports.files.find import find_run
from dlm_eval.reports.files.json_values import nested
from dlm_eval.reports.files.result_file import load_json
from dlm_eval.reports.files.samples_file import numbered_samples
from dlm_eval.reports.trace.recording import Recording

# The date at the end of the names of a run's files.
DATE = re.compile(r"_(\d{4}-\d\d-\d\dT[0-9.-]+)\.jsonl?")
# Ids of the parts of a recording that have no token ids; BETWEEN, and each one below, is that of a
# text between two holes.
MASK, PROMPT, SUFFIX, BETWEEN = -1, -2, -3, -4


@dataclass(frozen=True)
class Logged:
    """One answer with its trajectory.

    Attributes:
        task: name of the task in the name of its samples file.
        doc_id: number of the document.
        answer: number of the answer among those of the document, from 0.
        prompt: text before the hole.
        suffix: text after the (last) hole.
        between: texts between several holes of equal length, in order.
        answered: the answer as it was scored.
        prompt_hash: lm-eval's hash of the prompt.
        tokens, text, step, confidence, forwards: see `harness.trajectories.trajectory`.
        exit: why decoding ended.
    """

    task: str
    doc_id: int
    answer: int
    prompt: str
    suffix: str
    between: tuple[str, ...]
    answered: str
    prompt_hash: str
    tokens: tuple[int, ...]
    text: tuple[str, ...]
    step: tuple[int, ...]
    confidence: tuple[float | None, ...]
    forwards: int
    exit: str

    def plain(self) -> dict[str, Any]:
        """Returns a line of the export. The prompt is in the samples file, under its hash."""
        texts = ("prompt", "suffix", "between", "answered")
        return {name: value for name, value in vars(self).items() if name not in texts}


@dataclass(frozen=True)
class LoggedRun:
    """The files of one run.

    Attributes:
        samples: task -> its samples file.
        results: content of the results file; empty if it is not there.
    """

    samples: Mapping[str, Path]
    results: Mapping[str, Any]

    def trajectories(self, task: str) -> Iterator[Logged]:
        """Yields the answers of `task` that have a trajectory, in the order of the file.

        A document has a line for each filter; the first one counts.

        Raises:
            UserError: the file cannot be read, or a line is not a sample.
        """
        seen: set[int] = set()
        for number, sample in _samples(self.samples[task]):
            try:
                if "trajectory" not in sample or sample["doc_id"] in seen:
                    continue
                seen.add(sample["doc_id"])
                yield from _logged(task, sample)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise UserError(
                    f"--from: line {number} of {self.samples[task]} is not a sample with a "
                    f"trajectory ({type(error).__name__})"
                ) from error

    def recording(self, logged: Logged) -> Recording:
        """Returns the trace of one answer.

        It has only the last commit of each token: what was replaced or masked again before is not
        stored.
        """
        decode = nested(self.results, "dlm_eval", "tasks", logged.task, "decode")
        model = self.results.get("model_name") or "model"
        seed = nested(self.results, "dlm_eval", "settings").get("seed")
        return _recording(
            logged, str(model), {"trace": "the last commit of each token", **decode}, seed
        )


def find_logged(path: str) -> LoggedRun:
    """Returns the files of a run.

    Args:
        path: a samples file, a results file (for all its tasks), or a folder (for the newest run
            below it).

    Raises:
        UserError: there are none, or the newest run's results cannot be read.
    """
    place = Path(path)
    if os.path.isdir(place):  # no error for a name that is too long, as from is_dir()
        place = find_run(place)
    if os.path.isfile(place) and place.suffix == ".json" and DATE.search(place.name):
        files = sorted(place.parent.glob(f"samples_*_{_date(place)}.jsonl"))
    else:
        files = [place] if os.path.isfile(place) and place.suffix == ".jsonl" else []
    if not files:
        raise UserError(
            f"--from '{path}' has no samples; give a samples_*.jsonl, a results_*.json with its "
            "samples beside it, or a folder of a run"
        )
    return LoggedRun({_task(file): file for file in sorted(files)}, _results(files[0]))


def _date(file: Path) -> str:
    found = DATE.search(file.name)
    return found[1] if found else ""


def _task(file: Path) -> str:
    """Returns the task from the name of its samples file."""
    return DATE.sub("", file.name).removesuffix(".jsonl").removeprefix("samples_")


def _results(samples: Path) -> Mapping[str, Any]:
    """Returns the content of the results file beside a samples file; empty if there is none."""
    for file in sorted(samples.parent.glob(f"*_{_date(samples)}.json")):
        with contextlib.suppress(OSError, ValueError):
            loaded = load_json(file)
            return loaded if isinstance(loaded, dict) else {}
    return {}


def _samples(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields number and content of each line."""
    try:
        yield from numbered_samples(file)
    except ValueError as reason:
        raise UserError(f"--from: samples file '{file}' cannot be read: {reason}") from reason


def _logged(task: str, sample: Mapping[str, Any]) -> Iterator[Logged]:
    """Yields the answers of a sample that have a trajectory.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, IndexError: it has another form.
    """
    asked = list(sample["arguments"].values())
    answers = [text for texts in sample["resps"] for text in texts]
    several = len(asked) == len(sample["trajectory"])
    for answer, found in enumerate(sample["trajectory"]):
        if found is None:
            continue
        arguments = asked[answer if several else 0]
        hole = nested(arguments, "arg_1", "hole")
        logged = Logged(
            task,
            _whole(sample["doc_id"]),
            answer,
            valid_unicode(str(arguments["arg_0"])),
            valid_unicode(str(hole.get("suffix") or "")),
            tuple(valid_unicode(_text(text)) for text in hole.get("between") or ()),
            valid_unicode(str(answers[answer])),
            str(sample["prompt_hash"]),
            tuple(map(_whole, found["tokens"])),
            tuple(valid_unicode(_text(text)) for text in found["text"]),
            tuple(map(_whole, found["step"])),
            tuple(map(_share, found["confidence"])),
            _whole(found["forwards"]),
            str(sample["exit"][answer]),
        )
        lists = (logged.tokens, logged.text, logged.step, logged.confidence)
        if len({len(values) for values in lists}) != 1:
            raise ValueError("lists of different lengths")
        if len(logged.tokens) % (len(logged.between) + 1):
            raise ValueError("holes of different lengths")
        yield logged


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("no whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _share(value: Any) -> float | None:
    """Returns a probability; None for null and numbers that JSON cannot hold."""
    return float(value) if value is not None and math.isfinite(value) else None


def choose(found: Sequence[Logged], answer: int | None) -> Logged:
    """Returns the answer number `answer` of a document (None: the first).

    Raises:
        UserError: there is no such answer.
    """
    chosen = [one for one in found if answer is None or one.answer == answer]
    if not chosen:
        numbers = ", ".join(str(one.answer) for one in found)
        raise UserError(f"--answer '{answer}' has no trajectory; allowed: {numbers}")
    return chosen[0]


def _recording(logged: Logged, model: str, settings: Mapping[str, Any], seed: Any) -> Recording:
    """Returns the recording of an answer: prompt, suffix and each text between two holes are one
    piece each, and each position of a hole has its own id.
    """
    start, places = _layout(logged)
    steps = tuple(_steps(logged, start, places))
    return Recording(
        model=model,
        settings=settings,
        seed=seed if type(seed) is int else 0,
        start=start,
        open=places,
        steps=steps,
        filling=Filling(
            logged.tokens,
            logged.forwards,
            len(steps),
            tuple(map(_known, logged.confidence)),
            logged.step,
            exit=logged.exit,
        ),
        text=logged.answered,
        pieces=_pieces(logged),
    )


def _layout(logged: Logged) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the ids before the first step, and the places of the answer's tokens among them.

    A text that is empty has no place.
    """
    start = [PROMPT] * bool(logged.prompt)
    places: list[int] = []
    length = len(logged.tokens) // (len(logged.between) + 1)
    for number in range(len(logged.between) + 1):
        places += range(len(start), len(start) + length)
        start += [MASK] * length
        if number < len(logged.between) and logged.between[number]:
            start.append(BETWEEN - number)
    return (*start, *(SUFFIX,) * bool(logged.suffix)), tuple(places)


def _steps(logged: Logged, start: Sequence[int], places: Sequence[int]) -> Iterator[TraceStep]:
    """Yields the steps that wrote a token, with the ids around the holes."""
    shown = list(start)
    for step in sorted({number for number in logged.step if number >= 0}):
        at = [
            i
            for i, (own, token) in enumerate(zip(logged.step, logged.tokens, strict=True))
            if own == step and token != BLANK
        ]
        for i in at:
            shown[places[i]] = logged.tokens[i]
        yield TraceStep(
            step,
            tuple(shown),
            tuple(token == MASK for token in shown),
            tuple(places[i] for i in at),
            tuple(_known(logged.confidence[i]) for i in at),
        )


def _pieces(logged: Logged) -> dict[int, tuple[str, bool]]:
    """Returns id -> (text, whether it is a special token)."""
    own = zip(logged.tokens, logged.text, strict=True)
    return {
        MASK: ("[MASK]", True),
        PROMPT: (logged.prompt, False),
        SUFFIX: (logged.suffix, False),
        **{BETWEEN - number: (text, False) for number, text in enumerate(logged.between)},
        **{token: (text, False) for token, text in own if token >= 0},
    }


def _known(confidence: float | None) -> float:
    return math.nan if confidence is None else confidence


def described(run: LoggedRun, path: str, tasks: Sequence[str]) -> str:
    """Returns why a run has no trajectory of `tasks` to show, for a message."""
    file, *others = (run.samples[task] for task in tasks)
    more = f" (and {counted(len(others), 'other file')})" if others else ""
    return (
        f"--from '{path}': no answer in {file}{more} has a trajectory; give a task that generates "
        "text, or run again with --log_trajectories (finished answers come from the journal). Of a "
        "folder, the newest run is taken"
    )
