"""D2F writes what its authors' code wrote (tests/goldens/d2f.json says how it was recorded)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_decoders import BOTH, loaded

from dlm_eval import Canvas, UserError, fill, load_model
from dlm_eval.canvas import BLANK
from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.samplers.d2f import NoMask

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "d2f.json").read_text())
OPTIONS = (
    "block_size", "block_add_threshold", "decoded_token_threshold", "skip_threshold",
    "sampling_strategy",
)  # fmt: skip
NEVER = 10**6  # no token


@BOTH
def test_tokens_and_forwards_equal_the_authors(shared: Path, model: str) -> None:
    """Blocks behind an end of text are not begun: theirs are not in the text, ours stay open."""
    record, network = GOLDEN[model], loaded(shared / "goldens" / model)
    shorter = 0
    for case in record["cases"]:
        (found,) = fill(
            network, [Canvas.completion(case["prompt"], case["length"])], "d2f", early_exit=False,
            logits_temp=1 / record["logits_scale"],
            eos_token_id=case["eos"] if case["eos"] >= 0 else NEVER,
            **{name: case[name] for name in OPTIONS},
        )  # fmt: skip
        count = len(case["tokens"])
        assert list(found.tokens[:count]) == case["tokens"], case
        assert set(found.tokens[count:]) <= {BLANK}
        assert found.forwards == case["forwards"]
        shorter += count < case["length"]
    assert shorter >= 5


def test_a_block_does_not_see_later_ones() -> None:
    """On `tiny` as well: the first block is the same whatever length the hole has."""
    model = load_model("tiny", dtype="float32", device="cpu")
    prompt = model.encode("Anna went to")
    options: dict[str, Any] = {"block_size": 4, "early_exit": False, "eos_token_id": NEVER}
    texts = [
        fill(model, [Canvas.completion(prompt, n)], "d2f", **options)[0].tokens for n in (4, 8, 18)
    ]
    assert texts[0] == texts[1][:4] == texts[2][:4] and texts[1] == texts[2][:8]
    assert BLANK not in texts[2]  # also in a last block that is shorter


def test_the_mask_is_never_written() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [4.0, 1.0, 0.0, 2.0]])
    token, logprob, score = NoMask(Draw(), mask=1)(logits, torch.zeros(2))
    assert token.tolist() == [3, 0]
    without = logits[0, [0, 2, 3]].log_softmax(-1)[2]
    assert torch.allclose(logprob, torch.stack([without, logits[1].log_softmax(-1)[0]]).double())
    assert torch.equal(score, logprob)


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("toy", {"guidance": 1.0}, "guidance is not used"),
        ("toy", {"block_length": 4}, "divides the hole"),
        ("toy", {"cache": "dual"}, "no approximate cache"),
        ("toy", {"skip_threshold": 1.5}, "skip_threshold"),
    ],
)
def test_refusals(model: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fill(load_model(model), [Canvas.completion([1], 4)], "d2f", **settings)
