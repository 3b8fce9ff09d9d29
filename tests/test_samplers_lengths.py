"""Samplers that insert and delete positions: DAEDAL and LLaDA2.2's decoder, and LLaDA2.2's routing of blocks, as the authors' code and the released engine do it."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from harness_tasks import write_tasks
from torch import Tensor

from dlm_eval import evaluate
from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding import TraceStep, describe_strategy, fill, fill_program, resolve
from dlm_eval.decoding.checkpoints import State
from dlm_eval.decoding.filling import fits, most_forwards
from dlm_eval.decoding.strategy import FillRequest
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError, UserError
from dlm_eval.models import load_model
from dlm_eval.models.families.llada2 import BlockRouter, route_blocks
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.reports.trace.logged import find_logged
from dlm_eval.reports.trace.recording import record
from dlm_eval.reports.trace.terminal import lines
from dlm_eval.rng import Noise

INDEL = "joint_threshold_indel"


@cache
def loaded(family: str, folder: Path, **options: Any) -> Any:
    return load_model(family, pretrained=str(folder), dtype="float32", device="cpu", **options)


def read(shared: Path, *parts: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        shared.joinpath("goldens", *parts).read_text(encoding="utf-8")
    )
    return content


def traced(
    model: Any, prompt: Sequence[int], length: int, strategy: str, **options: Any
) -> tuple[Filling, list[TraceStep]]:
    steps: list[TraceStep] = []
    canvas = Canvas.completion(prompt, length)
    found = fill(model, [canvas], strategy, trace=lambda _, step: steps.append(step), **options)
    return found[0], steps


def same(filling: Filling) -> str:
    """All of a filling but its time; NaN equals NaN."""
    return str(replace(filling, seconds=0.0))


def distinct(values: Sequence[Any]) -> list[Any]:
    """The values without those that equal the one before."""
    return [value for value, _ in itertools.groupby(values)]


# -- DAEDAL ----------------------------------------------------------------------------------------


def daedal_options(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "initial_gen_length"}


def test_daedal(shared: Path) -> None:
    """Tokens, and length and masks at every forward. The authors run the hole twice if no end token fits behind it."""
    cases = read(shared, "decoders", "daedal_llada.json")
    model = loaded("llada", shared / "goldens" / "llada")
    grown = 0
    for case in cases["cases"]:
        settings, begin = case["settings"], len(case["prompt"])
        first = settings["initial_gen_length"]
        filling, steps = traced(
            model, case["prompt"], first, "daedal", early_exit=False,
            logits_temp=1 / cases["logits_scale"], **daedal_options(settings),
        )  # fmt: skip
        assert list(filling.tokens) == case["tokens"], settings
        canvases = [(len(step.tokens) - begin, sum(step.open)) for step in steps[:-1]]
        theirs = list(zip(case["lengths"], case["masked"], strict=True))
        assert [(first, first), *canvases] == distinct(theirs)
        assert filling.forwards == case["forwards"] - (len(theirs) - len(distinct(theirs)))
        assert len(theirs) - len(distinct(theirs)) <= 1
        grown += len(filling.tokens) > first
    assert grown > len(cases["cases"]) // 2


class Ending(Toy):
    """A toy that predicts `end` with the probability `sure` everywhere, token 1 with what is left."""

    def __init__(self, sure: float) -> None:
        super().__init__(ToySettings(vocab=5, inconsistency=0.9, seed=3))
        self.sure = sure

    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        found = super().logits(tokens, valid, positions)
        rest = (1 - self.sure) / 4
        chances = torch.full((found.shape[-1],), rest / 4, dtype=torch.float64)
        chances[self.eos_ids[0]] = self.sure
        chances[1] = 1 - self.sure - rest / 4 * (found.shape[-1] - 2)
        return chances.log().float().expand_as(found).clone()


@pytest.mark.parametrize(
    ("sure", "lengths"),
    [
        # sure of the end: 2 x 0.9 / 2 is above the threshold; 1 visible end token follows
        (0.9, [4, 5, 5, 5, 5]),
        # never the end: it grows by 3 to the maximum, then one token per step
        (0.2, [4, 7, *[10] * 10]),
    ],
)
def test_daedal_grows_as_long_as_no_end_is_in_sight(sure: float, lengths: list[int]) -> None:
    model = Ending(sure)
    filling, steps = traced(
        model, [1, 2], 4, "daedal", early_exit=False, eos_check_tokens=2, max_gen_length=10,
        expansion_factor=3, high_conf_threshold=1.0, block_length=4,
    )  # fmt: skip
    assert [4, *(len(step.tokens) - 2 for step in steps[:-1])] == lengths
    wanted = model.eos_ids[0] if sure > 0.5 else 1
    assert set(filling.tokens) == {wanted} and len(filling.tokens) == lengths[-1]
    assert filling.forwards == len(lengths)


# -- iLLaDA's var_generate -------------------------------------------------------------------------


def var_generate_by_hand(
    model: Any, prompt: list[int], length: int, block: int, steps: int, think: list[int],
    boost: float, power: float,
) -> list[int]:  # fmt: skip
    """LLaDA's decoder on one block after the other, the text ending with the block; `boost` at the first mask."""
    text = list(prompt)
    for _ in range(length // block):
        text += [model.mask_id] * block
        for step in range(steps):
            masks = [i for i, token in enumerate(text) if token == model.mask_id]
            logits = model.logits(torch.tensor([text]))[0]
            said, answer = False, text[len(prompt) :]
            for i in range(len(answer) - len(think) + 1):
                said = said or answer[i : i + len(think)] == think
            if think and boost and not said and masks:
                wanted = think[0]
                for known in range(1, len(think)):
                    if (
                        masks[0] - len(prompt) >= known
                        and text[masks[0] - known : masks[0]] == think[:known]
                    ):
                        wanted = think[known]
                share = (masks[0] - len(prompt) + 1) / length
                logits[masks[0], wanted] += boost * share**power
            count = block // steps + (step < block % steps)
            surest = logits.softmax(-1).max(-1).values
            order = sorted(masks, key=lambda i: -float(surest[i]))
            for i in order[:count]:
                text[i] = int(logits[i].argmax())
    return text[len(prompt) :]


def test_var_generate_is_its_plain_procedure(shared: Path) -> None:
    """And it is not the decoder that sees all masks."""
    model, rng = loaded("llada", shared / "goldens" / "llada"), np.random.default_rng(2)
    others = boosted = 0
    for number in range(12):
        prompt = rng.integers(0, 298, int(rng.integers(2, 12))).tolist()
        block = int(rng.choice([4, 6, 8]))
        steps, length = int(rng.integers(1, block + 1)), block * int(rng.integers(2, 4))
        think = rng.integers(0, 298, int(rng.integers(1, 4))).tolist() if number % 2 else []
        boost, power = float(rng.choice([3.0, 30.0])), float(rng.choice([1.0, 2.0]))
        options: dict[str, Any] = {"block_length": block, "steps_per_block": steps}
        ends = {"end_think_token_ids": tuple(think), "end_think_logit_boost": boost}
        ends["end_think_boost_power"] = power
        filling, _ = traced(
            model, prompt, length, "var_generate", early_exit=False, **options, **ends
        )
        expected = var_generate_by_hand(model, prompt, length, block, steps, think, boost, power)
        assert list(filling.tokens) == expected
        assert filling.forwards == steps * (length // block)
        plain, _ = traced(model, prompt, length, "confidence", early_exit=False, **options)
        others += list(plain.tokens) != expected
        boosted += any(expected[i : i + len(think)] == think for i in range(length)) and bool(think)
    assert others >= 6 and boosted >= 2


# -- LLaDA2.2's decoder ----------------------------------------------------------------------------


class Tables:
    """A block-causal denoiser made of tables: A of the token, P of the place, B and C of its neighbours in the text and in the block."""

    name, process, attention = "tables", "absorbing", "block"
    mask_is_regular_token = needs_bos = False
    bos_id, pad_id, max_length = None, 0, 4096

    def __init__(self, toy: dict[str, Any], block: int, eos: int | None) -> None:
        self.tables = {name: np.array(values) for name, values in toy["tables"].items()}
        self.mask_id, self.vocab_size, self.block_length = toy["mask"], toy["vocab"], block
        self.eos_ids = () if eos is None else (eos,)

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def apply_chat_template(self, messages: Any, add_generation_prompt: bool = True) -> str:
        return str(messages)

    def describe(self) -> dict[str, Any]:
        return {"family": self.name}

    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        found = torch.stack([self._row(row.numpy()) for row in tokens])
        if positions is None:
            return found
        return found[positions] if positions.dtype == torch.bool else found[:, positions]

    def _row(self, row: Any) -> Tensor:
        place = np.arange(len(row))
        total = self.tables["A"][row] + self.tables["P"][place % len(self.tables["P"])]
        total[1:] += self.tables["B"][row[:-1]]
        inside = place[:-1][(place[:-1] + 1) % self.block_length != 0]
        total[inside] += self.tables["C"][row[inside + 1]]
        return torch.from_numpy(total).float()


def indel_options(settings: dict[str, Any]) -> dict[str, Any]:
    others = ("block_size", "max_new_tokens")
    return {name: value for name, value in settings.items() if name not in others}


def writes_as_recorded(model: Any, case: dict[str, Any]) -> tuple[int, int]:
    """Compares an answer, and every input of every block; returns the inserted and deleted positions.

    Our forwards are those on another block than the one before, less one for each block that the last step changed: theirs runs it once more for its cache.
    """
    size, length = case["settings"]["block_size"], case["settings"]["max_new_tokens"]
    prompt = case["prompt"]
    filling, steps = traced(model, prompt, length, INDEL, **indel_options(case["settings"]))
    assert [token for token in filling.tokens if token != BLANK] == case["tokens"][:length]
    forwards, begin = 0, len(prompt) // size * size
    head = prompt[begin:]
    by_block: list[list[list[int]]] = []
    for number in range(len(case["blocks"])):
        start = head if number == 0 else []
        by_block.append([[*start, *[model.mask_id] * (size - len(start))]])
    for step in steps:
        shown = [step.tokens[i : i + size] for i in range(begin, len(step.tokens), size)]
        for own, now in zip(by_block, shown, strict=False):
            own.append(list(now))
    for own, block in zip(by_block, case["blocks"], strict=True):
        recorded, whole = block["canvases"], len(block["canvases"]) == block["forwards"]
        mine = distinct(own)
        assert mine[: len(distinct(recorded))] == distinct(recorded)[: len(mine)]
        if whole:
            assert mine == distinct(recorded)
        forwards += len(mine)
    assert forwards - len(by_block) <= filling.forwards <= forwards
    identities = [set(step.positions) for step in steps if step.positions]
    asked = -(-(len(prompt) + length) // size) * size
    inserted = len({one for ids in identities for one in ids if one >= asked})
    return inserted, sum(
        len(a - b) for a, b in itertools.pairwise([set(range(asked)), *identities])
    )


def test_indel_on_tables(shared: Path) -> None:
    changed = np.zeros(2, dtype=int)
    record = read(shared, "families-2026", "llada22_indel", "golden.json")
    for toy in record["toys"]:
        for case in toy["cases"]:
            model = Tables(toy, case["settings"]["block_size"], case["eos"])
            changed += writes_as_recorded(model, case)
    assert changed.min() > 100


def test_indel_on_a_network(shared: Path) -> None:
    record = read(shared, "families-2026", "llada22_indel", "golden.json")
    changed = np.zeros(2, dtype=int)
    for case in record["cases"]:
        size = case["settings"]["block_size"]
        model = loaded("llada2", shared / "goldens" / "llada2", block_length=size)
        changed += writes_as_recorded(model, case)
    assert changed.min() > 100


# -- LLaDA2.2's routing ----------------------------------------------------------------------------


def routed(shared: Path) -> Any:
    return loaded("llada2", shared / "goldens" / "families-2026" / "llada22_routing")


def test_blocks_are_routed_as_recorded(shared: Path) -> None:
    record = read(shared, "families-2026", "llada22_routing", "golden.json")
    for case in record["routing"]:
        logits, bias = torch.tensor(case["router_logits"]), torch.tensor(case["expert_bias"])
        experts = len(bias)
        config: Any = SimpleNamespace(
            num_experts_per_tok=case["top_k"], num_local_experts=experts, hidden_size=experts,
            routed_scaling_factor=1.0, n_group=2, topk_group=1, norm_topk_prob=False,
            expert_capacity=case["expert_capacity"], block_size=case["block_size"],
        )  # fmt: skip
        router = BlockRouter(config)
        router.weight.data, router.e_score_correction_bias = torch.eye(experts), bias
        _, weights, ids = router(logits[None])
        assert torch.equal(ids, torch.tensor(case["ids"]))
        assert torch.allclose(weights, torch.tensor(case["weights"]), atol=2e-7, rtol=0)


def test_padding_and_other_rows_take_no_part_in_a_block() -> None:
    """Rows of several lengths, padded on either side, have the experts that they have alone."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(length, 12, generator=generator) for length in (11, 4, 16, 1)]
    for left in (False, True):
        whole, valid = torch.full((4, 16, 12), 9.0), torch.zeros(4, 16, dtype=torch.bool)
        for i, row in enumerate(rows):
            own = slice(16 - len(row), None) if left else slice(len(row))
            whole[i, own], valid[i, own] = row, True
        place = (valid.long().cumsum(1) - 1).clamp(min=0)
        together = route_blocks(whole, place // 4, valid, capacity=5, top_k=2)
        for i, row in enumerate(rows):
            alone = route_blocks(row[None], torch.arange(len(row))[None] // 4, None, 5, 2)[0]
            assert torch.equal(together[i][valid[i]], alone)


def test_a_routed_network_gives_the_recorded_logits(shared: Path) -> None:
    """Alone, and right-padded in a batch. A network without the routing is far off."""
    model, record = routed(shared), read(shared, "families-2026", "llada22_routing", "golden.json")
    cases = record["logits"]["cases"]
    longest = max(len(case["input_ids"]) for case in cases)
    tokens = torch.full((len(cases), longest), model.pad_id)
    valid = torch.zeros_like(tokens, dtype=torch.bool)
    for i, case in enumerate(cases):
        own = case["input_ids"]
        tokens[i, : len(own)], valid[i, : len(own)] = torch.tensor(own), True
    together = model.logits(tokens, valid)
    for i, case in enumerate(cases):
        theirs, end = torch.tensor(case["logits"]), len(case["input_ids"])
        alone = model.logits(torch.tensor([case["input_ids"]]))[0]
        for found in (alone, together[i, :end]):
            assert (found[-len(theirs) :] - theirs).abs().max() < 2e-5
        assert case["capacity_effect"] > 1


def test_a_routed_network_is_decoded_as_recorded(shared: Path) -> None:
    model, record = routed(shared), read(shared, "families-2026", "llada22_routing", "golden.json")
    for case in record["decode"]["cases"]:
        writes_as_recorded(model, case)
        length, options = case["settings"]["max_new_tokens"], indel_options(case["settings"])
        plain, _ = traced(model, case["prompt"], length, INDEL, cache="none", **options)
        cached, _ = traced(model, case["prompt"], length, INDEL, **options)
        assert same(plain) == same(cached)
    # the ids that delete and split are the checkpoint's
    own = resolve({"strategy": INDEL})
    assert own.strategy._ids(model) == (model.delete_token_id, model.split_token_id) == (279, 280)  # type: ignore[attr-defined]


def changed_config(shared: Path, folder: Path, **values: Any) -> Path:
    shutil.copytree(shared / "goldens" / "families-2026" / "llada22_routing", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | values
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({}, {"block_length": 4}, "block_length '4' is not allowed.*routes blocks of 8"),
        ({"block_size": 12}, {}, "expert_capacity 6 and block_size 12.*power of two"),
        ({"block_size": None}, {}, "expert_capacity 6 and block_size None"),
        ({"expert_capacity": 3}, {}, "expert_capacity 3; it must be num_experts_per_tok 4 to num_experts 16"),
        ({"expert_capacity": 17}, {}, "expert_capacity 17"),
        ({"score_function": "softmax"}, {}, "score_function 'softmax'"),
    ],
)  # fmt: skip
def test_what_cannot_be_routed_is_refused(
    shared: Path, tmp_path: Path, values: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    folder = changed_config(shared, tmp_path / "changed", **values)
    with pytest.raises(UserError, match=message):
        load_model("llada2", pretrained=str(folder), dtype="float32", device="cpu", **options)


# -- independence ----------------------------------------------------------------------------------


def asked(shared: Path, name: str) -> tuple[Any, dict[str, Any], list[Canvas]]:
    """A model, settings, and canvases of several lengths whose lengths change."""
    rng = np.random.default_rng(1)
    if name == "daedal":
        model = loaded("llada", shared / "goldens" / "llada")
        options: dict[str, Any] = {
            "max_gen_length": 32, "expansion_factor": 4, "eos_check_tokens": 6, "block_length": 8,
            "high_conf_threshold": 0.8, "low_conf_threshold": 0.5, "eos_token_id": 112,
            "eos_confidence_threshold": 0.05, "logits_temp": 1 / 3, "early_exit": False,
        }  # fmt: skip
    elif name == "var_generate":
        model = loaded("llada", shared / "goldens" / "llada")
        options = {"temperature": 0.7, "block_length": 4, "end_think_token_ids": (7, 8)}
        options |= {"end_think_logit_boost": 4.0, "guidance": 0.5}
    else:
        model = routed(shared)
        options = {"edit_threshold": 0.2, "max_post_edit_steps": 4, "delete_token_id": 147}
        options["split_token_id"] = 8
    prompts = [rng.integers(0, 270, int(n)).tolist() for n in rng.integers(2, 14, 5)]
    canvases = [Canvas.completion(prompt, 8 + 4 * i) for i, prompt in enumerate(prompts)]
    return model, {"strategy": name, **options}, canvases


@pytest.mark.parametrize("name", ["daedal", "var_generate", INDEL])
def test_an_answer_depends_on_no_other_canvas(name: str, shared: Path) -> None:
    model, options, canvases = asked(shared, name)
    alone = [fill(model, [canvas], **options)[0] for canvas in canvases]
    engines = (None, Engine(model, batch_rows=1), Engine(model, batch_tokens=64))
    for engine in engines:
        found = fill(model, canvases[::-1], engine=engine, **options)[::-1]
        assert list(map(same, found)) == list(map(same, alone))
    settings = resolve(options)
    for canvas, filling in zip(canvases, alone, strict=True):
        most = most_forwards(model, canvas, settings)
        assert most is not None and filling.forwards <= most


@pytest.mark.parametrize("name", ["daedal", "var_generate"])
def test_a_half_filled_canvas_is_resumed(name: str, shared: Path) -> None:
    model, options, canvases = asked(shared, name)
    settings = resolve(options)
    for canvas in canvases[:2]:
        states: list[State] = []

        def offer(make: Any, states: list[State] = states) -> None:
            states.append(make())

        request = FillRequest(model, canvas, settings, Noise.of(canvas, 0), offer=offer)
        whole = Engine(model).drive([fill_program(request)])[0].answer
        assert len(states) > 2 and any(state.positions for state in states) == (name == "daedal")
        for state in list(states)[::3]:
            stored = State.of(json.loads(json.dumps(vars(state))))
            assert stored == state and fits(model, canvas, settings, stored)
            again = Engine(model).drive([fill_program(replace(request, begun=stored))])[0].answer
            assert same(again) == same(whole)


def test_indel_says_why_it_is_begun_anew() -> None:
    reason = resolve({"strategy": INDEL}).why_no_checkpoint("absorbing")
    assert reason == f"strategy '{INDEL}' keeps state between steps"
    assert resolve({"strategy": "daedal"}).why_no_checkpoint("absorbing") is None


@pytest.mark.parametrize("name", ["daedal", INDEL])
def test_a_trace_shows_all_positions(name: str, shared: Path) -> None:
    model, options, canvases = asked(shared, name)
    for canvas in canvases[:2]:
        shown = record(model, canvas, resolve(options))
        assert {len(step.tokens) for step in shown.steps} == {len(shown.start)}
        assert len(shown.start) > len(canvas) or name == INDEL
        json.dumps(shown.plain(), allow_nan=False)
        assert len(list(lines(shown, False))) > len(shown.steps)


# -- in a run --------------------------------------------------------------------------------------

RUN = {
    "strategy": "daedal", "max_gen_length": 20, "expansion_factor": 3, "eos_check_tokens": 4,
    "low_conf_threshold": 0.5, "block_length": 4, "early_exit": False,
}  # fmt: skip


def test_a_run_of_texts_that_grow(tmp_path: Path) -> None:
    """Plan, result, trajectories, their trace, and the journal: all have the answer as long as it became."""
    (tmp_path / "tasks").mkdir()
    settings: dict[str, Any] = {
        "include_path": str(write_tasks(tmp_path / "tasks")), "bootstrap_iters": 0, "decode": RUN,
        "model_args": {"vocab": 6, "inconsistency": 0.5}, "verbosity": "ERROR",
        "output_path": str(tmp_path / "out"), "log_trajectories": True, "log_samples": True,
    }  # fmt: skip
    plan = evaluate("toy", ["t_write"], dry_run=True, **settings)
    first = evaluate("toy", ["t_write"], **settings)
    cost, planned = first["dlm_eval"]["cost"]["t_write"], plan["tasks"]["t_write"]
    assert planned["forwards"] >= cost["forwards"] and planned["tokens"] == 20 * cost["requests"]
    samples = first["samples"]["t_write"]
    lengths = [len(sample["trajectory"][0]["tokens"]) for sample in samples]
    assert max(lengths) == 20 and min(lengths) > 8  # the task asks for 8
    again = evaluate("toy", ["t_write"], **settings)
    assert again["dlm_eval"]["cost"]["total"]["device_rows"] == 0
    assert [s["trajectory"] for s in again["samples"]["t_write"]] == [
        s["trajectory"] for s in samples
    ]
    found = find_logged(str(tmp_path / "out"))
    for logged, length in zip(found.trajectories("t_write"), lengths, strict=True):
        shown = found.recording(logged)
        assert len(shown.open) == length and len(list(lines(shown, False))) > len(shown.steps)


@pytest.mark.full
def test_devices_do_not_change_texts_that_grow(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    settings: dict[str, Any] = {
        "include_path": str(write_tasks(tmp_path / "tasks")), "bootstrap_iters": 0, "decode": RUN,
        "model_args": {"vocab": 6, "inconsistency": 0.5}, "verbosity": "ERROR",
    }  # fmt: skip
    one, two = (
        evaluate("toy", ["t_write"], devices=devices, **settings)["samples"]["t_write"]
        for devices in ("cpu:1", "cpu:2")
    )
    assert [s["filtered_resps"] for s in one] == [s["filtered_resps"] for s in two]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "daedal"}, "max_gen_length '2048' is not allowed; it must be at most the 256"),
        ({"strategy": "daedal", "max_gen_length": 64, "eos_token_id": 999}, "eos_token_id '999'"),
        ({"strategy": "daedal", "max_gen_length": 64, "cache": "dual"}, "no approximate cache"),
        ({"strategy": "daedal", "max_gen_length": 64, "steps": 4}, "steps is not used"),
        ({"strategy": INDEL}, "needs such a model"),
        ({"strategy": "var_generate", "cache": "prefix"}, "no approximate cache"),
        ({"strategy": "var_generate", "end_think_token_ids": (999,)}, r"end_think_token_ids '\[999\]'"),
    ],
)  # fmt: skip
def test_what_a_full_attention_model_refuses(
    shared: Path, options: dict[str, Any], message: str
) -> None:
    model = loaded("llada", shared / "goldens" / "llada")
    with pytest.raises(UserError, match=message):
        fill(model, [Canvas.completion([1, 2], 8)], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "daedal", "max_gen_length": 64}, "needs full attention"),
        ({"strategy": "var_generate"}, "needs full attention"),
        ({"strategy": INDEL}, "names no tokens that delete and split"),
        ({"strategy": INDEL, "delete_token_id": 3, "split_token_id": 3}, "another id"),
        ({"strategy": INDEL, "delete_token_id": 283, "split_token_id": 3}, "not the mask"),
        ({"strategy": INDEL, "temperature": 0.5}, "temperature is not used"),
        ({"strategy": INDEL, "block_length": 4}, "leave block_length out"),
    ],
)
def test_what_a_block_causal_model_refuses(
    shared: Path, options: dict[str, Any], message: str
) -> None:
    model = loaded("llada2", shared / "goldens" / "llada2", block_length=8)
    with pytest.raises(UserError, match=message):
        fill(model, [Canvas.completion([1, 2], 8)], **options)


def test_parts_of_a_routed_block_are_not_decoded(shared: Path) -> None:
    with pytest.raises(UserError, match="block_length '4' is not allowed.*routes blocks of 8"):
        fill(routed(shared), [Canvas.completion([1, 2], 8)], block_length=4)


def test_text_behind_the_hole_is_refused(shared: Path) -> None:
    _, options, _ = asked(shared, "daedal")
    model = loaded("llada", shared / "goldens" / "llada")
    with pytest.raises(SampleError, match="'daedal' fills a hole at the end of a text"):
        fill(model, [Canvas.infill([1, 2], 8, [3])], **options)
    with pytest.raises(SampleError, match="the hole has 40 positions, max_gen_length is 32"):
        fill(model, [Canvas.completion([1, 2], 40)], **options)


def test_they_are_described() -> None:
    for name, option in (("daedal", "expansion_factor"), (INDEL, "delete_token_id")):
        assert option in describe_strategy(name)["options"]
