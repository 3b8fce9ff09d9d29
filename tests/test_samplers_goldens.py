"""Samplers of 2025-26 write what their authors' code wrote on small random checkpoints: tokens, forwards, and the positions of each step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded_decoders import BOTH, recorded

from dlm_eval import decoding
from dlm_eval.canvas import BLANK, Canvas, Filling


def ours(
    record: dict[str, Any], model: Any, case: dict[str, Any], length: int, **options: Any
) -> tuple[Filling, list[list[int]]]:
    """Our filling, and the open positions that each step wrote, counted from the prompt's end."""
    begin, steps, before = len(case["prompt"]), [], set(range(length))

    def hook(_: int, step: decoding.TraceStep) -> None:
        steps.append(sorted(before & {place - begin for place in step.written}))
        before.difference_update(steps[-1])

    filling = decoding.fill(
        model,
        [Canvas.completion(case["prompt"], length)],
        trace=hook,
        logits_temp=1 / record["logits_scale"],
        **{"early_exit": False, **options},
    )[0]
    return filling, steps


def written(case: dict[str, Any]) -> list[list[int]]:
    """The positions of the authors' steps that wrote any."""
    return [sorted(step) for step in case["steps"] if step]


def tokens(filling: Filling, model: Any) -> list[int]:
    """Tokens, the mask token where nothing was written."""
    return [model.mask_id if token == BLANK else token for token in filling.tokens]


def only(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: settings[name] for name in names}


# -- KLASS -----------------------------------------------------------------------------------------


@BOTH
def test_klass(shared: Path, model: str) -> None:
    record, network = recorded(shared, "klass", model)
    names = ("conf_threshold", "kl_threshold", "kl_history_length", "unmask_strategy", "steps")
    left_open = 0
    for case in record["cases"]:
        settings = case["settings"]
        options = {"strategy": "klass", **only(settings, *names)}
        length = settings.get("gen_length", settings.get("max_new_tokens"))
        if model == "llada":
            options |= {"schedule": "even", "block_length": settings["block_length"]}
        filling, steps = ours(record, network, case, length, **options)
        assert tokens(filling, network) == case["tokens"], settings
        assert (filling.forwards, steps) == (case["forwards"], written(case)), settings
        left_open += filling.tokens.count(BLANK)
        assert filling.tokens.count(BLANK) == case.get("masks_left", 0)
    assert left_open or model == "llada"  # a step limit that leaves masks is among the cases


# -- PC-Sampler ------------------------------------------------------------------------------------


@BOTH
def test_pc_sampler_and_linear_position(shared: Path, tmp_path: Path, model: str) -> None:
    record, network = recorded(shared, "pc_sampler", model)
    prior = tmp_path / "prior.json"
    prior.write_text(json.dumps(record["baseline"]), encoding="utf-8")
    seen = set()
    for case in record["cases"]:
        settings = case["settings"]
        strategy = settings["function"].removeprefix("generate_with_")
        names = ("lambd", "alpha", "steps", "block_length")
        options = {"strategy": strategy, "prior": str(prior), **only(settings, *names)}
        filling, steps = ours(record, network, case, settings["gen_length"], **options)
        assert list(filling.tokens) == case["tokens"], settings
        assert (filling.forwards, steps) == (case["forwards"], written(case)), settings
        seen.add(strategy)
    assert seen == {"pc_sampler", "linear_position"}


# -- dInfer: CreditDecoding and hierarchy ----------------------------------------------------------


def unrolled(steps: list[list[int]], length: int, settings: dict[str, Any]) -> int:
    """The authors' forwards: they look at a block only after every few of them (ours are `steps`)."""
    size, forwards, at = settings["block_length"], 0, 0
    for begin in range(0, length, size):
        masks = min(size, length - begin)
        while masks > 0 and at < len(steps):
            rounds = max(min(masks // settings["expected_tpf"], settings["maximum_unroll"]), 1)
            for _ in range(rounds):
                forwards += 1
                if masks > 0:
                    masks, at = masks - len(steps[at]), at + 1
    return forwards


@pytest.mark.parametrize("decoder", ["credit", "hierarchy"])
@BOTH
def test_dinfer(shared: Path, model: str, decoder: str) -> None:
    """Up to the end of the block with the first end-of-text token, where the authors stop."""
    record, network = recorded(shared, decoder, model)
    names = {
        "credit": ("threshold", "credit_alpha", "boost_gamma", "decay_beta", "block_length"),
        "hierarchy": ("threshold", "low_threshold", "block_length"),
    }[decoder]
    unequal = exits = 0
    for case in record["cases"]:
        settings, theirs = case["settings"], case["tokens"]
        length, size, eos = settings["gen_length"], settings["block_length"], settings["eos_id"]
        options = {"strategy": decoder, **only(settings, *names)}
        filling, steps = ours(record, network, case, length, **options)
        end, stop = theirs.index(eos) if eos in theirs else None, length
        if end is not None:
            stop = min(length, (end // size + 1) * size)
        assert list(filling.tokens[:stop]) == theirs[:stop], settings
        before = [step for step in steps if step[0] < stop]
        authors = [[at for at in step if at < stop] for step in written(case)]
        assert before == [step for step in authors if step], settings
        assert unrolled(before, stop, settings) == case["forwards"], settings
        unequal += len(before) != case["forwards"]
        ends = [at for at, token in enumerate(theirs[:stop]) if token in network.eos_ids]
        if ends:
            visible, _ = ours(record, network, case, length, **options, early_exit=True)
            assert list(visible.tokens[: ends[0] + 1]) == theirs[: ends[0] + 1], settings
            assert visible.forwards <= filling.forwards
            exits += visible.exit == "eos"
    assert unequal or decoder == "hierarchy"  # some authors' forwards find a full block
    assert exits or model == "dream"


# -- AdaBlock --------------------------------------------------------------------------------------


@BOTH
def test_adablock(shared: Path, model: str) -> None:
    record, network = recorded(shared, "adablock", model)
    names = ("threshold", "delimiter_threshold", "delimiter_ids", "init_block_length")
    shorter = 0
    for case in record["cases"]:
        settings = case["settings"]
        options = {"strategy": "adablock", **only(settings, *names)}
        filling, steps = ours(record, network, case, settings["gen_length"], **options)
        assert list(filling.tokens) == case["tokens"], settings
        assert (filling.forwards, steps) == (case["forwards"], written(case)), settings
        shorter += any(size < settings["init_block_length"] for size in case["block_history"][:-1])
    assert shorter  # blocks that end at a delimiter are among the cases


# -- d3LLM -----------------------------------------------------------------------------------------


@BOTH
def test_multi_block(shared: Path, model: str) -> None:
    record, network = recorded(shared, "d3llm_multiblock", model)
    names = ("threshold", "block_size", "block_add_threshold", "early_stop", "eos_token_id")
    stopped = 0
    for case in record["cases"]:
        settings = case["settings"]
        options = {"strategy": "multi_block", "convention": model, **only(settings, *names)}
        filling, steps = ours(record, network, case, settings["max_new_tokens"], **options)
        assert list(filling.tokens) == case["tokens"], settings
        assert (filling.forwards, steps) == (case["forwards"], written(case)), settings
        stopped += settings["early_stop"] and settings["eos_token_id"] in case["tokens"]
    assert stopped
