"""`dlm-eval trace`: the recording equals the filling, and no token can harm the terminal or the page."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dlm_eval import Canvas, fill, load_model
from dlm_eval.canvas import BLANK
from dlm_eval.cli import main
from dlm_eval.decoding import resolve
from dlm_eval.harness.trajectories import pieces
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.printable import printable
from dlm_eval.reports.pages.web import safe_json
from dlm_eval.reports.trace.page import page
from dlm_eval.reports.trace.recording import Recording, record
from dlm_eval.reports.trace.terminal import lines

NASTY = [
    "</script><b>&amp;",
    "\n",
    "\t",
    "\x1b[31m",
    "\u2028",
    "\u202e",
    "\x00",
    "\ud800",
    "<!--<script>",
    " é",
]
STRATEGIES = {
    "confidence": {"steps": 4},
    "random": {"strategy": "random", "temperature": 1.0},
    "rdm": {"strategy": "rdm", "steps": 5},
    "remask": {"strategy": "remask", "steps": 8, "eta": 0.5, "temperature": 1.0},
    "edit": {"strategy": "edit", "threshold": 0.3, "editing_threshold": 0.3},
    "blocks": {"block_length": 4, "steps": 4},
}


class Nasty(Toy):
    """The toy model with token texts that try to break out of a terminal or a page."""

    def decode(self, ids: Any) -> str:
        return "".join(NASTY[i] for i in ids if i < self.settings.vocab)


@pytest.fixture(scope="module")
def toy() -> Any:
    return load_model("toy", vocab=6, inconsistency=0.7)


@pytest.fixture(scope="module")
def nasty() -> Recording:
    model = Nasty(ToySettings(vocab=len(NASTY), inconsistency=1.0))
    canvas = Canvas.infill(range(len(NASTY)), 12, (0, 1))
    return record(
        model,
        canvas,
        resolve({"strategy": "remask", "steps": 6, "eta": 0.4, "temperature": 1.5}),
        seed=3,
    )


def replay(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns what stands at each open position at the end, from the steps alone."""
    now: dict[int, dict[str, Any]] = {}
    for step in data["steps"]:
        for p in step["erased"]:
            now.pop(p)
        for p, token, confidence in zip(
            step["written"], step["tokens"], step["confidence"], strict=True
        ):
            now[p] = {"token": token, "confidence": confidence, "step": step["step"]}
    return [now.get(p, {"token": BLANK, "confidence": None, "step": -1}) for p in data["open"]]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_steps_add_up_to_the_filling(name: str, toy: Any) -> None:
    settings = STRATEGIES[name]
    canvas = Canvas.infill(toy.encode("abca"), 8, toy.encode("fed"))
    data = json.loads(
        json.dumps(record(toy, canvas, resolve(settings), seed=5).plain(), allow_nan=False)
    )
    (filling,) = fill(toy, [canvas], seed=5, **settings)
    found = replay(data)
    assert [entry["token"] for entry in found] == list(filling.tokens) == data["filling"]["tokens"]
    assert [entry["step"] for entry in found] == list(filling.step) == data["filling"]["step"]
    assert data["filling"]["confidence"] == [
        None if math.isnan(c) else c for c in filling.confidence
    ]
    assert all(
        entry["confidence"] == pytest.approx(c)
        for entry, c in zip(found, filling.confidence, strict=True)
        if entry["step"] >= 0
    )
    assert (data["filling"]["forwards"], data["filling"]["exit"]) == (
        filling.forwards,
        filling.exit,
    )
    assert data["open"] == canvas.open_positions and data["start"][:4] == toy.encode("abca")


def test_rewritten_tokens_are_in_the_record(toy: Any) -> None:
    canvas = Canvas.completion(toy.encode("abca"), 8)
    erased = record(toy, canvas, resolve(STRATEGIES["remask"]), seed=1)
    assert sum(len(step.erased) for step in erased.steps) > 0 and "masked again" in "\n".join(
        lines(erased, colour=False)
    )
    edited = record(
        toy,
        canvas,
        resolve({"strategy": "edit", "threshold": 0.2, "editing_threshold": 0.05}),
        seed=0,
    )
    before = edited.start
    for step, replaced in zip(edited.steps, edited.replaced(), strict=True):
        others = [p for p in step.written if before[p] not in (toy.mask_id, step.tokens[p])]
        assert list(replaced) == others
        before = step.tokens
    assert sum(map(len, edited.replaced())) > 0 and "replaced" in "\n".join(
        lines(edited, colour=False)
    )


class Rewriter(Toy):
    """A model of the uniform process: every step writes every position, most of them as they were."""

    process = "uniform"  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(ToySettings(vocab=4, seed=2))
        self.mask_id, self.vocab_size = -1, self.letters

    def logits(self, tokens: Any, valid: Any = None, positions: Any = None) -> Any:
        return super().logits(tokens, valid, positions)[..., : self.letters]


def test_a_token_that_is_written_again_is_not_new() -> None:
    model = Rewriter()
    recording = record(
        model,
        Canvas.completion([1, 2], 12),
        resolve({"strategy": "rewrite", "steps": 4, "temperature": 0.2}),
    )
    before: tuple[int, ...] | None = None
    for step, changed in zip(recording.steps, recording.changed(), strict=True):
        others = [p for p in recording.open if before is None or step.tokens[p] != before[p]]
        assert list(changed) == others and step.written == recording.open
        before = step.tokens
    assert any(len(changed) < 12 for changed in recording.changed())
    text = "\n".join(lines(recording, colour=False))
    assert text.count("‹") == 2 * sum(map(len, recording.changed())) and " kept" in text


def test_a_block_causal_model_fills_its_last_block_up() -> None:
    class Blocks(Toy):
        block_length = 4  # type: ignore[assignment]

    model = Blocks(ToySettings(vocab=6, inconsistency=0.5))
    canvas = Canvas.completion(model.encode("abc"), 7)
    recording = record(model, canvas, resolve({}), seed=0)
    assert len(recording.start) == 12 and recording.open == tuple(range(3, 12))
    assert [entry["token"] for entry in replay(recording.plain())][:7] == list(
        recording.filling.tokens
    )


def test_pieces_are_texts_and_names() -> None:
    model = load_model("tiny")
    word, line = model.encode(" apples\n")[0], model.encode("\n")[-1]
    found = pieces(model, [word, line, model.mask_id, model.eos_ids[0]])
    assert found[word][0].startswith(" ") and not found[word][1] and found[line] == ("\n", False)
    assert found[model.mask_id][1] and found[model.eos_ids[0]][1] and found[model.eos_ids[0]][0]


def test_nothing_in_a_terminal_line_is_obeyed(nasty: Recording) -> None:
    text = "\n".join(lines(nasty, colour=False))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800]", text)
    assert "\\u001b[31m" in text and "⏎" in text
    coloured = "\n".join(lines(nasty, colour=True))
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured).count("\x1b") == 0 and "\x1b[1;3" in coloured
    assert printable("a\tb") == "a⇥b"


def test_a_page_holds_any_token_and_no_script_but_its_own(nasty: Recording) -> None:
    text = page(nasty)
    text.encode("utf-8")
    assert len(re.findall(r"<script", text, re.I)) == len(re.findall(r"</script", text, re.I)) == 2
    assert not re.search(r"\son\w+\s*=\s*[\"']", text.split("<script>")[0]) and not re.search(
        r"(src|href)\s*=", text.split("<script>")[0]
    )
    assert "default-src 'none'" in text and "unsafe-inline" not in text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert json.loads(data) == json.loads(json.dumps(nasty.plain()))
    assert not set(data) & set("<>&\u2028\u2029")


def test_json_in_a_page_escapes_what_html_reads() -> None:
    hard = ["</script>", "<!--", "&lt;", "\u2028\u2029", "\x00", "\ud800"]
    assert json.loads(safe_json(hard)) == hard and not set(safe_json(hard)) & set(
        "<>&\u2028\u2029\x00\ud800"
    )


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(
        (
            path
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (path := shutil.which(name))
        ),
        None,
    )
    if found is None:
        pytest.skip("no browser: neither chromium nor google-chrome is installed")
    return found


def in_browser(browser: str, file: Path, place: str, profile: Path) -> str:
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--dump-dom",
    ]
    return subprocess.run(
        [browser, *options, file.as_uri() + place], capture_output=True, text=True, timeout=100
    ).stdout


def test_the_page_runs_in_a_browser(browser: str, nasty: Recording, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(nasty), encoding="utf-8")
    shown = in_browser(browser, file, "#step=2&colour=confidence", tmp_path / "profile")
    spans = re.findall(r'<span data-position="(\d+)" class="([^"]*)"', shown)
    assert [int(p) for p, _ in spans] == list(range(len(nasty.start)))
    step = nasty.steps[1]
    kinds = {int(p): set(kind.split()) for p, kind in spans}
    assert {p for p, kind in kinds.items() if "new" in kind} == set(step.written)
    assert {p for p, kind in kinds.items() if "erased" in kind} == set(step.erased)
    assert {p for p, kind in kinds.items() if "mask" in kind} == {
        p for p, is_open in enumerate(step.open) if is_open
    }
    canvas = re.search(r'<div id="canvas".*?</div>', shown, re.S)
    assert canvas is not None and 'data-colour="confidence"' in canvas[0]
    assert (
        html.escape(NASTY[0], quote=False) in canvas[0]
        and "<b>" not in canvas[0]
        and "U+001B" in canvas[0]
    )


def test_the_command_writes_page_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = [
        "trace",
        "--model",
        "toy",
        "--prompt",
        "abc",
        "--infill",
        "fed",
        "--length",
        "6",
        "--decode",
        "strategy=rdm",
        "steps=3",
    ]
    assert (
        main([*base, "--html", str(tmp_path / "a.html"), "--json", str(tmp_path / "a.json")]) == 0
    )
    assert str(tmp_path / "a.html") in capsys.readouterr().out and (
        tmp_path / "a.html"
    ).read_text().startswith("<!doctype html>")
    data = json.loads((tmp_path / "a.json").read_text())
    assert (
        data["settings"]["strategy"] == "rdm"
        and len(data["open"]) == 6
        and len(data["start"]) == 12
    )
    assert main([*base, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {k: v for k, v in again.items() if k != "filling"} == {
        k: v for k, v in data.items() if k != "filling"
    }
    assert main(base) == 0
    assert (
        "\x1b" not in (printed := capsys.readouterr().out)
        and "step 0" in printed
        and "‹" in printed
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(base) == 0 and "\x1b[1;3" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(base) == 0 and "\x1b" not in capsys.readouterr().out


WRONG = {
    "--length '0'": ["--length", "0"],
    "stepps.*steps": ["--decode", "stepps=3"],
    "samples '3'": ["--decode", "samples=3,temperature=1"],
    "steps '9'": ["--length", "4", "--decode", "steps=9"],
    "512": ["--length", "600"],
    "cannot be written": ["--html", "/proc/none/x.html"],
    "UTF-8": ["--infill", "\udcff"],
}


@pytest.mark.parametrize("expected", WRONG)
def test_a_mistake_is_one_line_and_exit_2(
    expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", "--model", "toy", "--prompt", "abc", *WRONG[expected]]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(expected, line), line
