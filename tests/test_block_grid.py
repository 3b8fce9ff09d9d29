"""Where blocks begin, against counting them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dlm_eval import Canvas, UserError, fill, load_model
from dlm_eval.decoding import resolve
from dlm_eval.decoding.blocks import block_grid, split_blocks, whole_blocks
from dlm_eval.models.block_grid import BlockGrid
from dlm_eval.models.families.toy import Toy, ToySettings


class Blocks(Toy):
    """A model of blocks that does not say how long its prompt is."""

    block_length = 4  # type: ignore[assignment]


@pytest.mark.parametrize("length", range(1, 6))
def test_a_grid_by_counting(length: int) -> None:
    for begin in range(12):
        grid = BlockGrid(length, begin)
        first = begin % length
        bounds = sorted({0, *range(first, 40, length)})
        for place in range(30):
            own = max(bound for bound in bounds if bound <= place)
            behind = min(bound for bound in bounds if bound > place)
            assert (grid.floor(place), grid.end(place)) == (own, behind)
            missing = min(bound for bound in bounds if bound >= place) - place
            assert grid.missing(place) == missing or place == 0
        places = np.arange(30)
        numbers = grid.numbers(places)
        assert np.array_equal(
            np.nonzero(np.diff(numbers))[0] + 1, [b for b in bounds if 0 < b < 30]
        )
        assert grid.numbers(torch.arange(30)).tolist() == numbers.tolist()
        assert numbers[begin] == 0


def test_all_blocks_but_the_last_are_whole_behind_the_prompt() -> None:
    model = Blocks(ToySettings(vocab=6))
    for prompt in range(9):
        for hole in range(1, 10):
            canvas = Canvas.completion([1] * prompt, hole)
            for aligned in (True, False):
                settings = resolve({"align_inputs_to_blocks": aligned})
                grid = block_grid(model, canvas, settings)
                whole = whole_blocks(canvas, grid)
                found = [
                    positions.tolist()
                    for positions, _ in split_blocks(np.array(whole.open_positions), settings, grid)
                ]
                begin = 0 if aligned else prompt
                groups: dict[int, list[int]] = {}
                for place in whole.open_positions:
                    groups.setdefault((place - begin) // 4, []).append(place)
                assert found == list(groups.values())
                assert 0 <= len(whole) - len(canvas) < 4
                assert (len(whole) - begin) % 4 == 0
                if not aligned:
                    assert all(len(block) == 4 for block in found)


def test_blocks_from_the_prompts_end_are_refused_where_attention_counts_from_0() -> None:
    canvas = [Canvas.completion([1, 2], 4)]
    for model, reason in (
        (Blocks(ToySettings(vocab=6)), "counts its blocks from position 0"),
        (load_model("toy", vocab=6), "has no blocks"),
    ):
        told = (
            rf"align_inputs_to_blocks 'False' is for models .* {model.name} {reason}: leave it out"
        )
        with pytest.raises(UserError, match=told.replace("(", r"\(").replace(")", r"\)")) as error:
            fill(model, canvas, align_inputs_to_blocks=False)
        assert "\n" not in str(error.value)
