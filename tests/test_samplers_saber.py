"""Saber writes what its authors' code wrote (tests/goldens/saber.json says how it was recorded)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_decoders import loaded

from dlm_eval import Canvas, UserError, fill, load_model
from dlm_eval.decoding.samplers.saber import Saber, surer_than_before

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "saber.json").read_text())


def test_tokens_positions_and_forwards_equal_the_authors(shared: Path) -> None:
    drawn = earlier = 0
    for case in GOLDEN["cases"]:
        begin, size = len(case["prompt"]), case["block_length"]
        written: list[list[int]] = []
        back: list[list[int]] = []

        def trace(
            _: int, step: Any, begin: int = begin, written: Any = written, back: Any = back
        ) -> None:
            written.append(sorted(at - begin for at in step.written))
            back.append(sorted(at - begin for at in step.erased))

        (found,) = fill(
            loaded(shared / "goldens" / case["model"]),
            [Canvas.completion(case["prompt"], case["gen_length"])],
            "saber", trace=trace, early_exit=False, logits_temp=1 / GOLDEN["logits_scale"],
            **{name: case[name] for name in ("block_length", "n", "temperature", "seed")},
        )  # fmt: skip
        assert list(found.tokens) == case["tokens"], case
        assert written == case["written"] and back == case["taken_back"]
        assert found.forwards == case["forwards"]
        drawn += case["temperature"] > 0
        earlier += any(
            min(lost) // size < max(new) // size
            for lost, new in zip(back, written, strict=True)
            if lost and new
        )
    assert min(drawn, earlier) >= 4  # tokens of earlier blocks are taken back too


def test_tokens_positions_and_forwards_equal_the_authors_for_dream(shared: Path) -> None:
    model, names = loaded(shared / "goldens" / "dream"), ("temperature", "top_p", "top_k", "seed")
    drawn = lost = 0
    for case in GOLDEN["dream"]["cases"]:
        begin = len(case["prompt"])
        steps: list[tuple[list[int], list[int]]] = []

        def trace(_: int, step: Any, begin: int = begin, to: Any = steps) -> None:
            both = (step.written, step.erased)
            to.append(tuple(sorted(at - begin for at in part) for part in both))

        (found,) = fill(
            model, [Canvas.completion(case["prompt"], case["gen_length"])], "saber_dream",
            trace=trace, early_exit=False, logits_temp=1 / case["logits_scale"],
            confidence_from=case["confidence_from"],
            **{name: case[name] for name in names if name in case},
        )  # fmt: skip
        assert list(found.tokens) == case["tokens"], case
        assert steps == list(zip(case["written"], case["taken_back"], strict=True))
        assert found.forwards == case["forwards"]
        drawn += case["temperature"] > 0
        lost += any(case["taken_back"])
    assert drawn >= 4 and lost >= 10


def test_what_is_written_and_taken_back_by_hand() -> None:
    strategy, never = Saber(n=2), -np.inf
    confidence, is_open = (
        np.array([0.9, 0.3, 0.6, 0.7, 0.2]),
        np.array([False, True, True, True, True]),
    )

    def written(before: list[float], where: list[bool] | None = None) -> list[int]:
        open_ = is_open if where is None else np.array(where)
        return np.flatnonzero(surer_than_before(confidence, open_, np.array(before), 2)).tolist()

    assert written([never] * 5) == [2, 3]  # nothing was written: the two best
    assert written([0.5, 0.1, never, never, never]) == [2, 3]  # above 0.3, which 0.3 is not
    assert written([0.2, 0.1, never, never, never]) == [1, 2, 3, 4]
    assert written([0.9, never, never, never, never]) == [2, 3]  # none is above
    assert written([0.9] * 5, [False, False, False, False, True]) == [4]

    gain = np.array([0.1, -0.2, np.inf, -0.1, 0.0])
    waits = np.array([False, False, False, False, True])
    for count, back in ((1, []), (2, [1]), (9, [1, 3]), (25, [0, 1, 3])):
        assert np.flatnonzero(strategy._taken_back(gain, waits, count)).tolist() == back
    assert not strategy._taken_back(gain, np.zeros(5, dtype=bool), 9).any()  # the block is full


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 4}, "steps is not used by strategy 'saber', which decides by itself"),
        ({"cache": "prefix"}, "takes back tokens of earlier blocks; it needs no approximate cache"),
        ({"n": 0}, "decode n '0' is not allowed"),
        ({"schedule": "even"}, "schedule is not used"),
        ({"strategy": "saber_dream", "steps": 4}, "steps is not used by strategy 'saber_dream'"),
        ({"strategy": "saber_dream", "block_length": 4}, "divides the hole into blocks by itself"),
        ({"strategy": "saber_dream", "cache": "d2"}, "takes back tokens anywhere in the hole"),
    ],
)
def test_refusals(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fill(load_model("toy"), [Canvas.completion([1], 4)], **{"strategy": "saber", **settings})
