"""Rho-EOS writes what its authors' code wrote (tests/goldens/rho_eos.json says how it was recorded)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded_decoders import loaded

from dlm_eval import Canvas, UserError, fill, load_model
from dlm_eval.canvas import BLANK
from dlm_eval.decoding.samplers.rho_eos import RhoEos
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "rho_eos.json").read_text())
NOT_OPTIONS = ("prompt", "gen_length", "tokens", "lengths", "open", "forwards", "logits_scale")


def options(case: dict[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in case.items() if name not in NOT_OPTIONS}
    return own | {"early_exit": False, "logits_temp": 1 / case["logits_scale"]}


def test_tokens_lengths_masks_and_forwards_equal_the_authors(shared: Path) -> None:
    model = loaded(shared / "goldens" / "llada")
    grown = shrunk = empty = drawn = cut = shares = unfinished = 0
    for case in GOLDEN["cases"]:
        begin, first = len(case["prompt"]), case["gen_length"]
        lengths: list[int] = []
        masks: list[int] = []

        def trace(_: int, step: Any, begin: int = begin, to: Any = (lengths, masks)) -> None:
            to[0].append(len(step.tokens) - begin)
            to[1].append(sum(step.open))

        canvas = Canvas.completion(case["prompt"], first)
        (found,) = fill(model, [canvas], "rho_eos", trace=trace, **options(case))
        assert list(found.tokens) == case["tokens"], case
        assert lengths == case["lengths"] and masks == case["open"]
        assert found.forwards == case["forwards"]
        changes = [b - a for a, b in zip([first, *lengths], lengths, strict=False)]
        grown += max(changes) > 0
        shrunk += min(changes) < 0
        empty += not found.tokens
        unfinished += BLANK in found.tokens  # max_gen_length steps are over
        drawn += case["temperature"] > 0
        shares += case["density"] == "share"
        written = [0, *(n - open_ for n, open_ in zip(lengths, masks, strict=True))]
        cut += any(b < a for a, b in zip(written, written[1:], strict=False))
    assert min(grown, shrunk, shares) >= 5 and min(empty, drawn, cut, unfinished) >= 2


def test_by_how_much_the_length_changes() -> None:
    """Tenths that the density is away from 0.4 to 0.6; the factor is at most 8."""
    by = {name: RhoEos(scheduler=name, expansion_factor=3) for name in ("const", "linear", "exp")}
    for density, tenths in ((0.0, 4), (0.05, 4), (0.15, 3), (0.25, 2), (0.35, 1), (0.39999, 1)):
        assert by["const"].change(density) == 3
        assert by["linear"].change(density) == 3 * tenths
        assert by["exp"].change(density) == 3 * 2 ** (tenths - 1)
    for density in (0.4, 0.5, 0.6):
        assert {strategy.change(density) for strategy in by.values()} == {0}
    assert by["exp"].change(0.65) == -3 and by["exp"].change(0.95) == -3 * 8
    far = RhoEos(low_density_threshold=0.95, high_density_threshold=1.0, expansion_factor=1)
    assert far.change(0.0) == 8  # and not 2 to the power of 9


def test_texts_of_changing_length_do_not_depend_on_their_batch(shared: Path) -> None:
    model = loaded(shared / "goldens" / "llada")
    settings = options(GOLDEN["cases"][0]) | {
        "low_density_threshold": 0.2, "high_density_threshold": 0.3, "density": "share",
        "expansion_factor": 2, "max_gen_length": 40, "temperature": 0.7,
    }  # fmt: skip
    canvases = [Canvas.completion(each["prompt"], 8) for each in GOLDEN["cases"][:8]]

    def plain(fillings: Any) -> list[Any]:
        return [(filling.tokens, filling.forwards, filling.step) for filling in fillings]

    alone = plain(fill(model, [canvas], "rho_eos", **settings)[0] for canvas in canvases)
    assert len({len(tokens) for tokens, _, _ in alone}) > 2
    for engine in (Engine(model, batch_rows=3), Engine(model, memory_tokens=64)):
        assert plain(fill(model, canvases, "rho_eos", engine=engine, **settings)) == alone
    assert plain(fill(model, canvases[::-1], "rho_eos", **settings))[::-1] == alone


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"low_density_threshold": 0.7},
            "low_density_threshold '0.7' is not allowed; it must be at",
        ),
        ({"scheduler": "power"}, "scheduler 'power' is not allowed"),
        ({"max_gen_length": 10**6}, "max_gen_length '1000000' is not allowed"),
        ({"max_gen_length": 8, "eos_token_id": 99}, "eos_token_id '99' is not allowed"),
        ({"max_gen_length": 8, "steps": 4}, "steps is not used by strategy 'rho_eos'"),
        ({"max_gen_length": 8, "cache": "dual"}, "changes the length of the canvas; it needs no"),
    ],
)
def test_refusals(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fill(load_model("toy"), [Canvas.completion([1], 4)], "rho_eos", **settings)


@pytest.mark.parametrize(
    ("canvas", "words"),
    [
        (Canvas.infill([1], 4, [2]), "fills a hole at the end of a text"),
        (Canvas.completion([1], 9), "the hole has 9 positions, max_gen_length is 8"),
    ],
)
def test_holes_that_it_does_not_fill(canvas: Canvas, words: str) -> None:
    with pytest.raises(SampleError, match=words):
        fill(load_model("toy"), [canvas], "rho_eos", max_gen_length=8)
