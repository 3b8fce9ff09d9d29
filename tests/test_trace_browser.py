"""The page of `dlm-eval trace` under real keys and clicks in headless Chromium: masked text, infilling, rewriting, other processes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
import test_models_ar2diff
import test_models_ddlm
from browser import Browser, find_browser

from dlm_eval import Canvas, load_model
from dlm_eval.cli import main
from dlm_eval.decoding import resolve
from dlm_eval.reports.trace.page import page
from dlm_eval.reports.trace.recording import Recording, record

WHERE, COLOUR = (
    "document.getElementById('where').textContent",
    "document.getElementById('canvas').dataset.colour",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = find_browser()
    if found is None:
        pytest.skip("no browser: neither chromium nor google-chrome is installed")
    with Browser(found, tmp_path_factory.mktemp("profile")) as one:
        yield one


def recorded(infill: bool = False, **settings: Any) -> Recording:
    toy = load_model("toy", vocab=6, inconsistency=0.7)
    canvas = Canvas.infill(toy.encode("abca"), 12, toy.encode("fed") if infill else ())
    return record(toy, canvas, resolve({"early_exit": False, **settings}), seed=4)


def opened(browser: Browser, recording: Recording, folder: Path, place: str = "") -> None:
    file = folder / f"{len(list(folder.iterdir()))}.html"
    file.write_text(page(recording), encoding="utf-8")
    browser.open(file.as_uri() + place)


def kinds(browser: Browser, kind: str) -> list[int]:
    """Positions of the tokens of a class."""
    found: list[int] = browser.value(
        f"[...document.querySelectorAll('#canvas .{kind}')].map(e => +e.dataset.position)"
    )
    return found


def test_slider_buttons_and_keys(browser: Browser, tmp_path: Path) -> None:
    recording = recorded(steps=6)
    opened(browser, recording, tmp_path, "#step=0")
    assert browser.value(WHERE) == "start: 12 open" and len(kinds(browser, "mask")) == 12
    browser.press("ArrowRight")
    assert browser.value(WHERE).startswith("step 0 (1 of 6)") and kinds(browser, "new") == sorted(
        recording.steps[0].written
    )
    browser.click("#next")
    assert browser.value(WHERE).startswith("step 1 (2 of 6)") and kinds(browser, "new") == sorted(
        recording.steps[1].written
    )
    browser.press("End")
    assert browser.value(WHERE).startswith("step 5") and browser.value(
        "document.getElementById('next').disabled"
    )
    browser.press("ArrowLeft")
    browser.click("#previous")
    assert browser.value(WHERE).startswith("step 3 (4 of 6)")
    browser.press("Home")
    assert browser.value("+document.getElementById('slider').value") == 0
    browser.click("#slider", at=0.5)
    assert browser.value("+document.getElementById('slider').value") == 3 and browser.value(
        WHERE
    ).startswith("step 2")
    texts = browser.value(
        "[...document.querySelectorAll('#canvas .token')].map(e => e.textContent)"
    )
    shown = {
        p: t
        for p, t in enumerate(recording.steps[2].tokens)
        if p in recording.open and not recording.steps[2].open[p]
    }
    assert texts == [recording.pieces[shown[p]][0] for p in sorted(shown)]


def test_play_runs_to_the_end_and_can_be_stopped(browser: Browser, tmp_path: Path) -> None:
    opened(browser, recorded(steps=12), tmp_path, "#step=9")
    browser.press(" ")
    assert browser.value("document.getElementById('play').textContent") == "stop"
    browser.wait_for("document.getElementById('play').textContent === 'play'")
    assert browser.value(WHERE).startswith("step 11 (12 of 12)")
    browser.click("#play")  # from the end it begins again
    browser.wait_for("+document.getElementById('slider').value === 2")
    browser.click("#play")
    held = browser.value("+document.getElementById('slider').value")
    assert browser.value("document.getElementById('play').textContent") == "play" and held < 12


def test_colours_and_the_history_of_a_token(browser: Browser, tmp_path: Path) -> None:
    recording = recorded(steps=6)
    opened(browser, recording, tmp_path)
    assert browser.value(COLOUR) == "step"
    browser.press("c")
    assert (
        browser.value(COLOUR) == "confidence"
        and browser.value("document.getElementById('most').textContent") == "100 %"
    )
    browser.click("input[value=step]")
    assert browser.value(COLOUR) == "step"
    colours = browser.value(
        "new Set([...document.querySelectorAll('#canvas .token')].map(e => getComputedStyle(e).backgroundColor)).size"
    )
    assert colours == 6  # one for each step
    place = recording.steps[0].written[0]
    browser.click(f'[data-position="{place}"]')
    told = browser.value("document.getElementById('details').textContent")
    assert (
        told.startswith(f"position {place}: ")
        and f"{100 * recording.steps[0].confidence[0]:.1f} %" in told
    )
    browser.click('[data-position="0"]')
    assert browser.value("document.getElementById('details').textContent").endswith("given")
    for key, position in (("j", 1), ("j", 2), ("k", 1)):
        browser.press(key)
        assert browser.value("document.getElementById('details').textContent").startswith(
            f"position {position}: "
        )


def test_infilling_shows_both_sides(browser: Browser, tmp_path: Path) -> None:
    recording = recorded(infill=True, steps=4)
    opened(browser, recording, tmp_path, "#step=2")
    assert kinds(browser, "given") == [0, 1, 2, 3, 16, 17, 18]
    assert kinds(browser, "mask") == [
        p for p, is_open in enumerate(recording.steps[1].open) if is_open
    ]
    assert not browser.value("document.getElementById('key-erased').checkVisibility()")


def test_masking_again_is_shown(browser: Browser, tmp_path: Path) -> None:
    recording = recorded(strategy="remask", steps=10, eta=0.4, temperature=1.0)
    step = next(k for k, one in enumerate(recording.steps) if one.erased)
    opened(browser, recording, tmp_path, f"#step={step + 1}")
    assert kinds(browser, "erased") == sorted(recording.steps[step].erased)
    assert "masked again" in browser.value(WHERE)
    assert browser.value("document.getElementById('key-erased').checkVisibility()")
    browser.press("End")
    assert kinds(browser, "rewritten")


def test_a_rewriting_model_marks_what_changed(browser: Browser, tmp_path: Path) -> None:
    """`dlm-eval trace --model ar2diff` without a strategy: its process chooses, and only tokens that changed are new."""
    folder = test_models_ar2diff.checkpoint(tmp_path / "model", build.llama(is_causal=True))
    options = ["--prompt", "then the hen", "--length", "10", "--decode", "steps=4,temperature=0.05"]
    files = ["--html", str(tmp_path / "a.html"), "--json", str(tmp_path / "a.json")]
    assert (
        main(
            [
                "trace",
                "--model",
                "ar2diff",
                "--model_args",
                f"pretrained={folder}",
                *options,
                *files,
            ]
        )
        == 0
    )
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["settings"]["strategy"] == "rewrite" and len(data["steps"]) == 4
    for k, step in enumerate(data["steps"]):
        browser.open((tmp_path / "a.html").as_uri() + f"#step={k + 1}")
        browser.wait_for(f"{WHERE}.startsWith('step {k} ')")
        assert kinds(browser, "new") == (data["open"] if k == 0 else sorted(step["replaced"]))
        kept = len(data["open"]) - len(step["replaced"]) if k else 0
        assert (f"{kept} kept" in browser.value(WHERE)) == (kept > 0)
    assert kinds(browser, "mask") == []


def test_an_embedding_diffusion_is_traced_with_its_own_sampler(
    browser: Browser, tmp_path: Path
) -> None:
    folder = test_models_ddlm.checkpoint(tmp_path / "model", test_models_ddlm.network())
    options = [
        "--prompt",
        "then the hen",
        "--length",
        "6",
        "--decode",
        "steps=5,halt=fixed,halt_threshold=4",
    ]
    files = ["--html", str(tmp_path / "a.html"), "--json", str(tmp_path / "a.json")]
    assert (
        main(["trace", "--model", "ddlm", "--model_args", f"pretrained={folder}", *options, *files])
        == 0
    )
    data = json.loads((tmp_path / "a.json").read_text())
    assert (
        data["settings"]["strategy"] == "euler"
        and data["filling"]["exit"] == "fixed"
        and len(data["steps"]) == 4
    )
    browser.open((tmp_path / "a.html").as_uri())
    assert "ended: fixed" in browser.value("document.getElementById('facts').textContent")
    assert len(kinds(browser, "token")) == 6


def test_a_thousand_steps_still_have_bars(browser: Browser, tmp_path: Path) -> None:
    recording = recorded(steps=6)
    many = [dataclasses.replace(recording.steps[0], step=k) for k in range(1000)]
    opened(browser, dataclasses.replace(recording, steps=tuple(many)), tmp_path)
    assert browser.value("document.querySelector('#bars i').getBoundingClientRect().width") > 0
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
