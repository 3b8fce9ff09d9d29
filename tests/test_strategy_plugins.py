"""Strategies from a user's file: device state (the example of docs/guides/adding-a-strategy.md), draft and verify rows, a canvas that changes its length."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_tasks import write_tasks
from plugin_files import example, left_as_it_was

from dlm_eval import Canvas, SampleError, UserError, fill, load_model
from dlm_eval.cli import main
from dlm_eval.decoding import (
    STRATEGIES,
    Edit,
    Query,
    TraceStep,
    Unmasking,
    describe_strategies,
    fill_program,
    resolve,
)
from dlm_eval.decoding.checkpoints import State
from dlm_eval.decoding.filling import fits
from dlm_eval.decoding.layers import speed_settings
from dlm_eval.decoding.strategy import FillRequest
from dlm_eval.engine import Engine
from dlm_eval.engine.rows import LogProbs
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.options import option
from dlm_eval.reports.trace.page import page
from dlm_eval.reports.trace.recording import record
from dlm_eval.reports.trace.terminal import lines
from dlm_eval.rng import Noise

EXAMPLE = example("adding-a-strategy.md", "stable.py")
PATIENT = example("adding-a-strategy.md", "patient.py")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stable.py"
    path.write_text(EXAMPLE, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def registry_as_before() -> Iterator[None]:
    with left_as_it_was(STRATEGIES):
        yield


def crooked() -> Toy:
    return Toy(ToySettings(vocab=5, inconsistency=0.9, seed=3))


# -- the last distribution stays on the device ----------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_model("tiny", dtype="float32", device="cpu")


def prompts(tiny: Any) -> list[list[int]]:
    return [tiny.encode(text) for text in ("the cat sat on the ", "Anna went to", "It was a")]


def stable_by_hand(
    model: Any, prompt: list[int], length: int, threshold: float, bound: float
) -> tuple[list[int], int]:
    """The tokens and forwards of the example, written down with whole distributions on the host."""
    tokens = torch.tensor([*prompt, *[model.mask_id] * length])
    last, forwards = None, 0
    while (open_ := (tokens == model.mask_id).nonzero().view(-1)).numel():
        log_p = model.logits(tokens[None])[0].log_softmax(-1)
        forwards += 1
        best, candidate = log_p[open_].max(-1)
        chosen = torch.zeros_like(open_, dtype=torch.bool)
        if last is not None:
            kl = (log_p.exp() * (log_p - last)).sum(-1)[open_]
            chosen = (best.exp() > threshold) & (kl < bound)
        if not chosen.any():
            chosen[best.argmax()] = True
        tokens[open_[chosen]], last = candidate[chosen], log_p
    return tokens[len(prompt) :].tolist(), forwards


def test_it_writes_what_its_definition_says(file: Path, tiny: Any) -> None:
    assert len(EXAMPLE.splitlines()) < 45
    several = 0
    for prompt in prompts(tiny):
        options = {"threshold": 0.2, "kl_threshold": 0.3}
        found = fill(
            tiny, [Canvas.completion(prompt, 12)], f"{file}:Stable", early_exit=False, **options
        )[0]
        tokens, forwards = stable_by_hand(tiny, prompt, 12, 0.2, 0.3)
        assert (list(found.tokens), found.forwards) == (tokens, forwards)
        several += forwards < 12
    assert several  # somewhere a step wrote more than one token


def test_no_distribution_leaves_the_device(
    file: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab, seen = tiny.vocab_size, []
    for name in ("cpu", "numpy"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *a, o=original, **k: (seen.append(tuple(self.shape)), o(self, *a, **k))[1],
        )
    arrived: list[tuple[int, ...]] = []
    taken = torch.from_numpy
    monkeypatch.setattr(
        torch, "from_numpy", lambda array: (arrived.append(array.shape), taken(array))[1]
    )
    canvases = [Canvas.completion(prompt, 12) for prompt in prompts(tiny)]
    fill(tiny, canvases, f"{file}:Stable", threshold=0.2, kl_threshold=0.3, early_exit=False)
    assert len(seen) > 20 and len(arrived) > 20
    large = [shape for shape in (*seen, *arrived) if len(shape) > 1 and shape[-1] >= vocab]
    assert large == []


@pytest.mark.parametrize("batch_rows", [1, 3])
def test_device_state_does_not_depend_on_batches(file: Path, tiny: Any, batch_rows: int) -> None:
    model = tiny
    canvases = [Canvas.completion(prompt, 6 + i) for i, prompt in enumerate(prompts(tiny))]
    options = {"threshold": 0.2, "kl_threshold": 0.3, "early_exit": False}
    alone = [fill(model, [canvas], f"{file}:Stable", **options)[0].tokens for canvas in canvases]
    together = fill(
        model, canvases, "stable", engine=Engine(model, batch_rows=batch_rows), **options
    )
    assert [one.tokens for one in together] == alone


def test_device_state_survives_a_batch_that_does_not_fit(file: Path, tiny: Any) -> None:
    model = tiny
    canvases = [Canvas.completion(prompt[:4], 8) for prompt in prompts(tiny)]
    options = {"threshold": 0.2, "kl_threshold": 0.3, "early_exit": False}
    whole = fill(model, canvases, f"{file}:Stable", **options)
    halves = fill(model, canvases, "stable", engine=Engine(model, memory_tokens=20), **options)
    assert [one.tokens for one in halves] == [one.tokens for one in whole]


def test_a_file_runs_from_the_command_line_and_in_workers(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks").mkdir()
    include = write_tasks(tmp_path / "tasks")
    asked = [
        "--model",
        "toy",
        "--tasks",
        "t_write",
        "--include_path",
        str(include),
        "--limit",
        "3",
        "--log_samples",
    ]
    found = {}
    for devices in ("cpu:1", "cpu:2"):
        out = tmp_path / devices.replace(":", "")
        decode = f"strategy={file}:Stable,threshold=0.3"
        assert (
            main([*asked, "--decode", decode, "--output_path", str(out), "--devices", devices]) == 0
        )
        (samples,), (results,) = out.rglob("samples_*.jsonl"), out.rglob("results_*.json")
        lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        found[devices] = [line["filtered_resps"] for line in lines]
        decoded = json.loads(results.read_text(encoding="utf-8"))["dlm_eval"]["tasks"]["t_write"][
            "decode"
        ]
        assert decoded["strategy"] == "stable" and len(decoded["source_sha256"]) == 64
    assert found["cpu:1"] == found["cpu:2"]
    capsys.readouterr()
    for wrong, told in (
        ("kl_treshold=1", "did you mean 'kl_threshold'?"),
        ("window=3", "is not used by strategy"),
    ):
        assert main([*asked, "--decode", f"strategy={file}:Stable,{wrong}"]) == 2
        assert told in capsys.readouterr().err
    assert main(["show", f"{file}:Stable"]) == 0
    shown = capsys.readouterr().out
    assert "kl_threshold" in shown and "nats by which the distribution may change" in shown


# -- drafts are written at once, and taken back if the rest of the block doubts them ---------


@dataclass(frozen=True, kw_only=True)
class Doubting(Unmasking, name="doubting"):
    """draft above a low threshold, verify above a higher one with the drafts masked"""

    draft: float = option(0.2, least=0, most=1, help="least probability of a draft")
    verify: float = option(0.3, least=0, most=1, help="least probability that a draft keeps")
    reads, takes_schedule, ends = "probability", False, "stable"

    def step(self, state: Any, view: Any, op: Any) -> Any:
        """Drafts and verification are rows of one step."""
        fresh, drafts = view.position[view.open], view.position[~view.open]
        rows = [state.row(fresh, Query(op))]
        if len(drafts):
            hidden = state.tokens.copy()
            hidden[drafts] = state.model.mask_id
            rows.append(
                state.row(drafts, Query(LogProbs()), tokens=hidden, payload=state.tokens[drafts])
            )
        (token, logprob, score), *verified = yield from state.run(rows)
        sure = np.exp(score) >= self.draft
        sure[score.argmax()] = True
        zero_confidence_ids = (
            drafts[np.exp(verified[0][0]) < self.verify][: max(0, int(sure.sum()) - 1)]
            if verified
            else drafts
        )
        return Edit(fresh[sure], token[sure], logprob[sure], zero_confidence_ids)


def test_drafts_are_verified_in_the_same_step(tiny: Any) -> None:
    model, canvas, steps = tiny, Canvas.completion(prompts(tiny)[2], 16), []
    found = fill(
        model, [canvas], "doubting", draft=0.5, verify=0.9, trace=lambda _, step: steps.append(step)
    )[0]
    assert len(found.tokens) == 16 and min(found.tokens) >= 0
    assert any(step.erased for step in steps)
    assert found.forwards == 2 * len(steps) - 1  # the first step has nothing to verify
    before = set()
    for step in steps:
        assert set(step.erased) <= before and len(step.erased) < max(1, len(step.written))
        before = {
            p for p, is_open in enumerate(step.open) if not is_open and p >= len(prompts(tiny)[2])
        }
    kept = []
    fill(
        model, [canvas], "doubting", draft=0.5, verify=0.0, trace=lambda _, step: kept.append(step)
    )
    assert len(kept) <= len(steps) and not any(step.erased for step in kept)


# -- a canvas that changes its length --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Elastic(Unmasking, name="elastic"):
    """the first step of a block lengthens it by `more` positions and shortens it by `fewer`; then in reading order"""

    more: int = option(0, least=0)
    fewer: int = option(0, least=0)
    at_end: bool = True
    reads, default_schedule, resizes, ends = "probability", "even", True, "stable"

    def step(self, state: Any, view: Any, op: Any) -> Any:
        """One token at a time, but the first step."""
        place = view.position
        if view.step == 0:
            where = place[-1] + 1 if self.at_end else place[1]
            gone = (
                place[len(place) - self.fewer :]
                if self.at_end
                else place[2 - (len(place) == 2) : 2 - (len(place) == 2) + self.fewer]
            )
            return Edit(insert=np.full(self.more, where), delete=gone)
        first = place[view.open][:1]
        token, logprob, _ = yield from state.read(first, Query(op))
        return Edit(first, token, logprob)


def elastic(canvas: Canvas, **options: Any) -> Any:
    settings = {"temperature": 0.8, "strategy": "elastic", **options}
    return fill(crooked(), [replace(canvas, key="q")], seed=4, **settings)[0]


def test_a_canvas_that_grows_is_the_longer_one() -> None:
    """Random numbers belong to identities: positions put in behind the hole are those that a longer hole would have had."""
    for length in (2, 4):
        grown = elastic(Canvas.completion([1, 2], length), more=2)
        longer = elastic(Canvas.completion([1, 2], length + 2))
        assert (grown.tokens, grown.confidence, grown.step) == (
            longer.tokens,
            longer.confidence,
            longer.step,
        )
        shrunk = elastic(Canvas.completion([1, 2], length + 2), fewer=2)
        assert shrunk.tokens == elastic(Canvas.completion([1, 2], length)).tokens


def test_positions_keep_their_identity() -> None:
    canvas, steps = Canvas.infill([1], 4, [3]), []
    settings = {"strategy": "elastic", "more": 2, "fewer": 1, "at_end": False, "temperature": 0.8}
    found = fill(crooked(), [canvas], trace=lambda _, step: steps.append(step), **settings)[0]
    assert len(found.tokens) == 5 and min(found.tokens) >= 0
    assert steps[0].positions == (0, 1, 6, 7, 2, 4, 5)
    assert all((step.tokens[0], step.tokens[-1]) == (1, 3) for step in steps)
    assert [step.written for step in steps[1:]] == [(1,), (6,), (7,), (2,), (4,)]
    assert tuple(steps[-1].tokens[1:6]) == found.tokens


def test_a_grown_canvas_is_resumed() -> None:
    model, canvas = crooked(), Canvas.infill([1], 4, [3], key="q")
    settings = resolve(
        {
            "strategy": "elastic",
            "more": 1,
            "fewer": 1,
            "at_end": False,
            "temperature": 0.8,
            "block_length": 2,
        }
    )
    states: list[State] = []
    request = FillRequest(
        model, canvas, settings, Noise.of(canvas, 0), offer=lambda state: states.append(state())
    )
    whole = Engine(model).drive([fill_program(request)])[0].answer
    assert len(states) > 5 and any(state.positions for state in states)
    for state in list(states):  # a resumed program offers its states too
        stored = State.of(json.loads(json.dumps(vars(state))))
        assert stored == state and fits(model, canvas, settings, stored)
        again = Engine(model).drive([fill_program(replace(request, begun=stored))])[0].answer
        assert again == whole
    grown = next(state for state in states if state.positions)
    for wrong in (
        {"positions": grown.positions[1:]},
        {"inserted": (9,) * len(grown.inserted)},
        {"next_id": 0},
        {"next_id": 2**40},
    ):
        assert not fits(model, canvas, settings, replace(grown, **wrong))


def test_a_trace_of_a_grown_canvas_can_be_shown() -> None:
    settings = resolve({"strategy": "elastic", "more": 2, "fewer": 1, "at_end": False})
    recording = record(crooked(), Canvas.infill([1], 4, [3]), settings)
    # 6 positions, and 2 that were put in
    assert len(recording.start) == 8 and recording.open == (1, 2, 3, 4, 5, 6)
    # one was taken out
    assert recording.steps[-1].open == (False, False, False, False, False, True, False, False)
    written = [place for step in recording.steps for place in step.written]
    assert sorted(written) == [1, 2, 3, 4, 6]
    assert [recording.steps[-1].tokens[place] for place in sorted(written)] == list(
        recording.filling.tokens
    )
    assert any("written" in line for line in lines(recording, colour=False)) and "<html" in page(
        recording
    )


def test_what_a_growing_canvas_cannot_have_is_refused() -> None:
    with pytest.raises(UserError, match="changes the length of the canvas"):
        fill(crooked(), [Canvas.completion([1], 4)], "elastic", cache="dual")
    few = Toy(ToySettings(inconsistency=0.9))
    with pytest.raises(Exception, match="the canvas has grown to"):
        fill(few, [Canvas.completion([1, 2], few.max_length - 2)], "elastic", more=5)


# -- the table -------------------------------------------------------------------------------------


def test_a_plug_in_is_listed_and_never_the_default() -> None:
    assert describe_strategies()["doubting"].startswith("draft above a low threshold")
    assert fill(crooked(), [Canvas.completion([1], 2)])[0].forwards == 2


def test_a_class_that_is_defined_first_is_not_the_default_of_its_process() -> None:
    """Our classes come first, in one order, although modules of ours are imported later than the user's class is defined."""
    code = (
        "from dlm_eval.decoding.strategy import STRATEGIES, Strategy, default_strategy\n"
        "class Mine(Strategy, name='mine'):\n    processes = ('uniform', 'canvas', 'gaussian', 'absorbing')\n"
        "print([default_strategy(p) for p in ('absorbing', 'uniform', 'gaussian', 'canvas')], STRATEGIES.names()[-2:])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said == "['confidence', 'rewrite', 'euler', 'renoise'] ['mine', 'ddpm_cache']\n"


def test_a_class_that_is_defined_again_has_its_new_options() -> None:
    """As in a notebook; 'speed' is what `sweep` draws as one curve."""
    for speed in (True, False):
        code = (
            "class Again(Unmasking, name='again'):\n"
            f"    rate: float = option(1.0, help='', speed={speed})\n"
        )
        made = dataclass(frozen=True, kw_only=True)
        names = {
            "Unmasking": Unmasking,
            "option": option,
            "dataclass": made,
            "__name__": "__main__",
        }
        exec(f"@dataclass\n{code}", names)
        assert ("rate" in speed_settings("again")) == ("rate" in speed_settings()) == speed


def test_trace_steps_name_positions_only_if_they_moved() -> None:
    steps: list[TraceStep] = []
    fill(crooked(), [Canvas.completion([1], 3)], trace=lambda _, step: steps.append(step))
    assert [step.positions for step in steps] == [(), (), ()]


BROKEN = '''
from dataclasses import dataclass

from dlm_eval.decoding import Query, Unmasking, highest


@dataclass(frozen=True)
class Two:
    draw: object

    def __call__(self, logits, payload):
        token, score = self.draw(logits, payload)
        return token, score


@dataclass(frozen=True, kw_only=True)
class Broken(Unmasking, name="broken_op"):
    """unpacks two of the three numbers"""

    reads = "probability"

    def query(self, view, op, model):
        return Query(Two(op))

    def commit(self, view):
        return highest(view.score, 1)
'''


def test_a_fault_of_a_users_file_names_its_line(tmp_path: Path, tiny: Any) -> None:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    with left_as_it_was(STRATEGIES), pytest.raises(SampleError) as error:
        fill(tiny, [Canvas.completion([1], 2)], f"{path}:Broken")
    line = BROKEN.splitlines().index("        token, score = self.draw(logits, payload)") + 1
    assert str(error.value).endswith(
        f"ValueError: too many values to unpack (expected 2) (in broken.py, line {line})"
    )


# -- memory on the host ----------------------------------------------------------------------------


def patient_by_hand(model: Any, canvas: Canvas, patience: int) -> tuple[list[int], int]:
    """The tokens and forwards of the second example, from all candidates of all steps."""
    tokens = torch.tensor([model.mask_id if o else t for t, o in zip(canvas.tokens, canvas.open, strict=True)])  # fmt: skip
    history: list[torch.Tensor] = []
    while (tokens == model.mask_id).any():
        log_p = model.logits(tokens[None])[0].log_softmax(-1)
        log_p[:, model.mask_id] = -torch.inf
        best, found = log_p.max(-1)
        history.append(found)
        left = (tokens == model.mask_id).nonzero()[:, 0]
        last = torch.stack(history[-patience:])
        same = (last == last[-1]).all(0) & torch.tensor(len(last) == patience)
        write = [i for i in left.tolist() if same[i]]
        write.append(left[best[left].argmax()].item())
        tokens[write] = found[write]
    hole = [t for t, o in zip(tokens.tolist(), canvas.open, strict=True) if o]
    return hole, len(history)


@pytest.mark.parametrize("patience", [1, 2, 3, 100])
def test_the_example_with_memory_remembers(patience: int, tmp_path: Path, tiny: Any) -> None:
    (tmp_path / "patient.py").write_text(PATIENT, encoding="utf-8")
    canvases = [Canvas.completion(prompt, 8) for prompt in prompts(tiny)]
    chosen = f"{tmp_path / 'patient.py'}:Patient"
    found = fill(tiny, canvases, chosen, patience=patience)
    wanted = [patient_by_hand(tiny, canvas, patience) for canvas in canvases]
    assert [(list(one.tokens), one.forwards) for one in found] == wanted
    assert {one.forwards for one in found} == ({1} if patience == 1 else {n for _, n in wanted})


def test_the_example_with_memory_resumes_finished_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "patient.py"
    file.write_text(PATIENT, encoding="utf-8")
    run = ["--model", "tiny", "--tasks", "demo_word_problem", "-o", str(tmp_path / "out"), "--verbosity", "ERROR"]  # fmt: skip
    chosen = ["--decode", f"strategy={file}:Patient,patience=3"]
    assert main([*run, *chosen, "--limit", "2"]) == 0
    for text, known in ((PATIENT, 2), (PATIENT + "# edited\n", 0)):
        file.write_text(text, encoding="utf-8")
        capsys.readouterr()
        assert main([*run, *chosen, "--limit", "3", "--dry_run"]) == 0
        assert f"{known} of 3 requests are known" in capsys.readouterr().out
