"""LESS writes what its authors' code wrote (tests/goldens/less.json says how it was recorded)."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_decoders import loaded

from dlm_eval import Canvas, UserError, fill, load_model
from dlm_eval.decoding import resolve
from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.filling import most_forwards
from dlm_eval.decoding.samplers.less import WithDrift, drift

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "less.json").read_text())


def test_tokens_and_forwards_equal_the_authors(shared: Path) -> None:
    model, accepted = loaded(shared / "goldens" / "llada"), 0
    for case in GOLDEN["cases"]:
        canvas = [Canvas.completion(case["prompt"], case["gen_length"])]
        names = ("block_length", "steps", "conf_threshold", "drift_threshold", "persistence_len")
        options: dict[str, Any] = {name: case[name] for name in names}
        options |= {"early_exit": False, "logits_temp": 1 / GOLDEN["logits_scale"]}
        (found,) = fill(model, canvas, "less", **options)
        assert list(found.tokens) == case["tokens"], case
        assert found.forwards == case["forwards"]
        (never,) = fill(model, canvas, "less", **{**options, "conf_threshold": 1.0})
        accepted += never.tokens != found.tokens or never.forwards != found.forwards
    assert accepted > len(GOLDEN["cases"]) // 3


def test_drift_by_hand() -> None:
    """Two tokens each, one of them shared; the rest is one outcome."""
    ids, other = torch.tensor([[3, 1], [3, 1]]), torch.tensor([[1, 7], [3, 1]])
    p, q = torch.tensor([[0.6, 0.3], [0.6, 0.3]]), torch.tensor([[0.5, 0.2], [0.6, 0.3]])

    def js(one: list[float], two: list[float]) -> float:
        pairs = list(zip(one, two, strict=True))
        middle = [(a + b) / 2 for a, b in pairs]
        sums = [sum(v * math.log(v / m) for v, m in zip(s, middle, strict=True) if v) for s in (one, two)]  # fmt: skip
        return sum(sums) / 2

    found = drift(ids, p, other, q).tolist()
    assert found[0] == pytest.approx(js([0.3, 0.6, 0.0, 0.1], [0.5, 0.0, 0.2, 0.3]), abs=1e-6)
    assert found[1] == pytest.approx(0, abs=1e-7)


def test_a_candidate_stays_if_it_was_one_in_all_steps_before() -> None:
    op = WithDrift(Draw(), 2)
    zero = torch.zeros(1)
    logits = [torch.eye(12)[[token]] * 5 for token in (4, 4, 4, 7, 7)]
    kept, known, found = None, torch.tensor([False]), []
    for each in logits:
        *_, stays, moved, kept = op(each, zero, kept, known)
        known = torch.tensor([True])
        found.append((bool(stays), round(float(moved), 3)))
    assert [stays for stays, _ in found] == [False, False, True, False, False]
    assert found[0][1] == 1 and found[1][1] == found[2][1] == 0 and found[3][1] > 0.3


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_no_filling_runs_more_rows_than_the_stated_maximum(guidance: float) -> None:
    """A step writes one token at least, and a block has no more steps than the schedule: the smaller of
    the two. If nothing is ever accepted the quotas alone are written, and it is reached."""
    model, fewer = load_model("toy", vocab=6, inconsistency=0.5), 0
    for n, block in itertools.product((1, 2, 6, 8), (None, 2)):
        blocks = -(-n // (block or n))
        for steps in [None, *range(blocks, n + 1, blocks)]:
            if block and n % block:
                continue
            options: dict[str, Any] = {"steps": steps, "block_length": block, "guidance": guidance}
            canvas = Canvas.infill(model.encode("ab"), n, model.encode("c"))
            rows = {}
            for accepted, accept in (
                (False, {"persistence_len": 9}),
                (True, {"conf_threshold": 0.2, "drift_threshold": 1, "persistence_len": 1}),
            ):
                settings = resolve({"strategy": "less", **options, **accept})
                most = most_forwards(model, canvas, settings)
                (found,) = fill(model, [canvas], "less", **options, **accept, early_exit=False)
                assert most is not None and found.forwards <= most, options
                rows[accepted] = found.forwards
                assert most == (steps or n) * (2 if guidance else 1)
            assert rows[False] == most
            fewer += rows[True] < most
    assert fewer > 5


def test_a_temperature_is_refused() -> None:
    with pytest.raises(UserError, match="temperature is not used by strategy 'less'"):
        fill(load_model("toy"), [Canvas.completion([1], 4)], "less", temperature=0.5)
