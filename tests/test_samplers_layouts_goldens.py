"""Samplers of 2025-26 write what their authors' code wrote on small random checkpoints: tokens, forwards, and the positions of each step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recorded_decoders import BOTH, recorded

from dlm_eval import decoding
from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.engine import Engine


def written(case: dict[str, Any]) -> list[list[int]]:
    """The positions of the authors' steps that wrote any."""
    return [sorted(step) for step in case["steps"] if step]


# -- Prophet, SlowFast, WINO -----------------------------------------------------------------------


@dataclass
class Traced:
    """What one of our fillings wrote and took back, step by step, and what it ran."""

    filling: Filling
    written: list[list[int]]
    erased: list[list[int]]
    positions_run: int


def traced(
    record: dict[str, Any], model: Any, case: dict[str, Any], canvas: Canvas, **options: Any
) -> Traced:
    """Positions are counted from the prompt's end. A step that changes nothing is not listed."""
    begin, steps, engine = len(case["prompt"]), [], Engine(model)
    filling = decoding.fill(
        model,
        [canvas],
        trace=lambda _, step: steps.append(step),
        engine=engine,
        logits_temp=1 / record["logits_scale"],
        early_exit=False,
        **options,
    )[0]
    return Traced(
        filling,
        [sorted(place - begin for place in step.written) for step in steps],
        [sorted(place - begin for place in step.erased) for step in steps],
        engine.cost.tokens,
    )


def constrained(prompt: list[int], length: int, constraints: dict[str, int] | None) -> Canvas:
    """The canvas whose hole has given tokens at these generated positions."""
    given = {len(prompt) + int(place): token for place, token in (constraints or {}).items()}
    tokens = [*prompt, *[BLANK] * length]
    for place, token in given.items():
        tokens[place] = token
    return Canvas(
        tuple(tokens), tuple(i >= len(prompt) and i not in given for i in range(len(tokens)))
    )


@BOTH
def test_prophet(shared: Path, model: str) -> None:
    """A forward of the authors that writes nothing (quota 0) gives the logits of the one before, so that ours does not run it."""
    record, network = recorded(shared, "prophet", model)
    early, idle = 0, 0
    for case in record["cases"]:
        settings = dict(case["settings"])
        length, constraints = settings.pop("gen_length"), settings.pop("constraints")
        canvas = constrained(case["prompt"], length, constraints)
        found = traced(record, network, case, canvas, strategy="prophet", **settings)
        open_ = [p - len(case["prompt"]) for p in canvas.open_positions]
        assert list(found.filling.tokens) == [case["tokens"][p] for p in open_], settings
        assert found.written == written(case), settings
        assert found.filling.forwards == len(written(case))
        triggered = case["exit_info"]["early_exit_triggered"]
        assert found.filling.exit == ("answer_gap" if triggered else "full")
        early, idle = early + triggered, idle + case["forwards"] - found.filling.forwards
    assert early and idle


@BOTH
def test_slowfast(shared: Path, model: str) -> None:
    """The authors' exploration goes on when nothing is open; those forwards are not run."""
    record, network = recorded(shared, "slowfast", model)
    name = {"llada": "slowfast", "dream": "slowfast_dream"}[model]
    cut = 0
    for case in record["cases"]:
        settings = dict(case["settings"])
        length = settings.pop("gen_length" if model == "llada" else "max_new_tokens")
        canvas = Canvas.completion(case["prompt"], length)
        found = traced(record, network, case, canvas, strategy=name, **settings)
        assert list(found.filling.tokens) == case["tokens"], settings
        assert found.written == written(case), settings
        assert found.filling.forwards == len(written(case))
        ran = [n for n, step in zip(case["lengths"], case["steps"], strict=True) if step]
        assert found.positions_run == sum(len(case["prompt"]) + n for n in ran)
        cut += sum(n < length for n in ran)
    assert cut


def test_wino(shared: Path) -> None:
    record, network = recorded(shared, "wino", "llada")
    for case in record["cases"]:
        settings = dict(case["settings"])
        canvas = Canvas.completion(case["prompt"], settings.pop("gen_length"))
        found = traced(record, network, case, canvas, strategy="wino", **settings)
        assert list(found.filling.tokens) == case["tokens"], settings
        assert found.filling.forwards == case["forwards"]
        assert found.written == [sorted(step) for step in case["steps"]], settings
        assert found.erased == [sorted(step) for step in case["revoked"]], settings
        assert any(found.erased)
        # the shadow of the block is run and counted too
        assert found.positions_run == case["forwards"] * (len(canvas) + settings["block_length"])
