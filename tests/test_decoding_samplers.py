"""Samplers of the reverse process (SEDD, MDLM, BD3LM, ReMDM, P2, Dream's batches): recorded steps, enumeration, plain loops."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dlm_eval.canvas import Canvas, Filling
from dlm_eval.decoding import DecodeSettings, Unmasking, fill, resolve
from dlm_eval.decoding.draw import Draw, restrict
from dlm_eval.decoding.filling import most_forwards
from dlm_eval.decoding.samples import mean_logprob, seen_part
from dlm_eval.decoding.step import Query, StepState
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.requests import HOLE, Hole, Length
from dlm_eval.models import load_model, packaged_asset
from dlm_eval.models.denoiser import Geometric, LogLinear
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.rng import Noise

ALPHA = 1e-3  # of every statistical test here; seeds are fixed
QUANTILES = 40000


def golden(shared: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(
        (shared / "goldens" / name / "golden.json").read_text(encoding="utf-8")
    )
    return record


def load(shared: Path, name: str) -> Any:
    return load_model(
        name, pretrained=str(shared / "goldens" / name), dtype="float32", device="cpu"
    )


def crooked(vocab: int = 6) -> Toy:
    return Toy(ToySettings(vocab=vocab, inconsistency=0.9, seed=3))


def asked_at(model: Any, settings: DecodeSettings, step: int, steps: int) -> Query:
    """What a step asks of the model at temperature 1."""
    at, yes, none = np.array([0]), np.array([True]), np.empty(0)
    view = StepState(step, steps, 0, 0, None, settings.eps, at, at, yes, Noise("0" * 64), at, none)
    assert isinstance(settings.strategy, Unmasking)
    return settings.strategy.query(view, Draw(temperature=1.0), model)


def step_law(model: Any, tokens: list[int], at: int, asked: Query) -> tuple[np.ndarray, float]:
    """The probability of writing each token at a position, as the reader draws over all quantiles, and that of leaving it open."""
    row = torch.tensor([tokens])
    if asked.time:
        logits = (asked.head or model.logits)(
            row, None, torch.tensor([at]), torch.tensor([asked.time])
        )[0]
    else:
        logits = model.logits(row, None, torch.tensor([at]))[0]
    payload = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    token, _, score = asked.op(logits.expand(QUANTILES, -1), payload)
    chance = min(1.0, math.exp(float(score[0]) if asked.log_chance is None else asked.log_chance))
    return np.bincount(token, minlength=model.vocab_size) / QUANTILES * chance, 1 - chance


def fits(seen: np.ndarray, truth: np.ndarray) -> bool:
    """Whether counts follow `truth`, cells with few expected counts taken together."""
    expected = truth / truth.sum() * seen.sum()
    few = expected < 5
    seen, expected = (
        np.append(seen[~few], seen[few].sum()),
        np.append(expected[~few], expected[few].sum()),
    )
    keep = expected > 0
    return bool(stats.chisquare(seen[keep], expected[keep]).pvalue > ALPHA)


# -- SEDD ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "recorded"), [("analytic", "analytic"), ("euler", "euler_unnormalised")]
)
def test_sedd_step(shared: Path, strategy: str, recorded: str) -> None:
    record, model = golden(shared, "sedd"), load(shared, "sedd")
    part = record["sampler_step"]
    assert (part["t"], part["step_size"]) == (0.6, 0.1)
    settings = resolve({"strategy": strategy, "temperature": 1.0, "eps": 0.0})
    asked = asked_at(model, settings, 4, 10)
    tokens = record["log_scores"]["input_ids"][part["row"]]
    law, stays = step_law(model, tokens, part["position"], asked)
    truth = np.maximum(part[recorded], 0)  # the authors' draw never takes an entry below zero
    truth = truth / truth.sum()
    assert abs(stays - truth[model.mask_id]) < 1e-5
    assert np.abs(law[: model.mask_id] - truth[: model.mask_id]).max() < 2 / QUANTILES


def test_sedd_removes_what_noise_is_left(shared: Path) -> None:
    record, model = golden(shared, "sedd"), load(shared, "sedd")
    part = record["sampler_step"]
    settings = resolve({"strategy": "analytic", "temperature": 1.0, "eps": part["denoiser_t"]})
    asked = asked_at(model, settings, 10, 10)
    law, stays = step_law(
        model, record["log_scores"]["input_ids"][part["row"]], part["position"], asked
    )
    assert stays == 0
    assert (
        np.abs(law[: model.mask_id] - np.array(part["denoiser_normalised"])).max() < 2 / QUANTILES
    )


def transitions(
    model: Any, rows: list[list[int]], strategy: str, step: int, steps: int
) -> np.ndarray:
    """[rows, L, V] the law of each position after the step, in the authors' own terms (staggered score times transition)."""
    tokens, grid = torch.tensor(rows), torch.linspace(1, 1e-5, steps + 1, dtype=torch.float64)
    noise, mask = LogLinear(), model.mask_id
    sigma = noise.sigma(float(grid[step]))
    score = model.log_scores(tokens, torch.full((len(rows),), sigma)).double().exp().numpy()
    law = np.zeros_like(score)
    if step == steps:
        law[..., :mask] = score[..., :mask]
    elif strategy == "analytic":
        gone = sigma - noise.sigma(float(grid[step + 1]))
        law[..., :mask] = math.exp(gone) * score[..., :mask] * (1 - math.exp(-gone))
        law[..., mask] = math.exp(gone) + (1 - math.exp(gone)) * score.sum(-1)
    else:
        rate = noise.rate(float(grid[step])) * float(grid[step] - grid[step + 1])
        law[..., :mask] = rate * score[..., :mask]
        law[..., mask] = 1 - law[..., :mask].sum(-1)
    law = np.maximum(law, 0)
    return law / law.sum(-1, keepdims=True)


@pytest.mark.parametrize("strategy", ["analytic", "euler"])
def test_sedd_samples_follow_the_enumerated_chain(shared: Path, strategy: str) -> None:
    """Two open tokens between clamped ones, three steps and the denoising one: joint law by enumeration against samples (chi-square)."""
    model, steps, count = load(shared, "sedd"), 3, 3000
    given, places, mask = [179, 0, 110, 0, 42], (1, 3), 280

    def row(a: int, b: int) -> list[int]:
        return [given[0], a, given[2], b, given[4]]

    both, joint = 1.0, np.zeros((mask, mask))
    first, second = np.zeros(mask), np.zeros(mask)  # mass where only one of the two is written
    for step in range(steps + 1):
        rows = [
            row(mask, mask),
            *(row(y, mask) for y in range(mask)),
            *(row(mask, y) for y in range(mask)),
        ]
        law = transitions(model, rows, strategy, step, steps)
        one, two = law[0, places[0]], law[0, places[1]]
        after_first, after_second = law[1 : mask + 1, places[1]], law[mask + 1 :, places[0]]
        joint += both * np.outer(one[:mask], two[:mask])
        joint += (
            first[:, None] * after_first[:, :mask] + (second[:, None] * after_second[:, :mask]).T
        )
        first = first * after_first[:, mask] + both * one[:mask] * two[mask]
        second = second * after_second[:, mask] + both * two[:mask] * one[mask]
        both *= one[mask] * two[mask]
    assert abs(joint.sum() - 1) < 1e-9
    canvases = [
        Canvas(tuple(row(-1, -1)), (False, True, False, True, False), f"draw {i}")
        for i in range(count)
    ]
    fillings = fill(
        model, canvases, strategy, steps=steps, eps=1e-5, temperature=1.0, early_exit=False
    )
    pairs = Counter(filling.tokens for filling in fillings)
    seen = np.zeros((mask, mask))
    for pair, number in pairs.items():
        seen[pair] = number
    assert (
        fits(seen.sum(1), joint.sum(1))
        and fits(seen.sum(0), joint.sum(0))
        and fits(seen.ravel(), joint.ravel())
    )
    assert not fits(seen.sum(1), joint.sum(0))  # the test can fail
    assert all(filling.forwards <= steps + 1 for filling in fillings)


def test_sedd_clamps_the_prompt_and_does_not_depend_on_company(shared: Path) -> None:
    model, steps = load(shared, "sedd"), []
    canvases = [
        Canvas.infill([5, 6, 7][: 1 + i % 3], 4 + i % 3, [8, 9][: i % 2], key=f"q{i}")
        for i in range(6)
    ]
    options = {"preset": "sedd", "steps": 6, "early_exit": False}
    together = fill(model, canvases, trace=lambda i, step: steps.append((i, step)), **options)
    for index, step in steps:
        canvas = canvases[index]
        assert all(
            t == c for t, c, o in zip(step.tokens, canvas.tokens, canvas.open, strict=True) if not o
        )
    alone = [fill(model, [canvas], **options)[0].tokens for canvas in canvases[::-1]]
    assert alone[::-1] == [filling.tokens for filling in together]
    assert all(model.mask_id not in filling.tokens for filling in together)


def test_noise_schedules() -> None:
    for schedule in (LogLinear(), Geometric(1e-4, 20.0)):
        for t in (0.1, 0.5, 0.9):
            slope = (schedule.sigma(t + 1e-6) - schedule.sigma(t - 1e-6)) / 2e-6
            assert schedule.rate(t) == pytest.approx(slope, rel=1e-5)
    assert Geometric(1e-4, 20.0).sigma(0) == pytest.approx(1e-4) and Geometric(1e-4, 20.0).sigma(
        1
    ) == pytest.approx(20)
    assert float(Geometric(1e-4, 20.0).at_share(torch.tensor([0.5]))[0]) == pytest.approx(
        math.log(2), rel=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph": {"type": "uniform"}}, "graph.type 'uniform'"),
        ({"noise": {"type": "cosine"}}, "noise 'cosine'"),
    ],
)
def test_sedd_refuses_what_it_cannot_do(
    shared: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    for file in (shared / "goldens" / "sedd").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load_model("sedd", pretrained=str(tmp_path), dtype="float32", device="cpu")


# -- MDLM ------------------------------------------------------------------------------------------


def test_mdlm_ddpm_step(shared: Path) -> None:
    record, model = golden(shared, "mdlm"), load(shared, "mdlm")
    part = record["ddpm_update"]
    assert (part["t"], part["dt"]) == (0.7, 0.1)
    tokens = record["logits"]["input_ids"][part["row"]]
    # one law, where a network is not told the time
    for strategy in ("ddpm", "ddpm_cache", "analytic", "euler"):
        settings = resolve({"strategy": strategy, "temperature": 1.0, "eps": 0.0})
        asked = asked_at(model, settings, 3, 10)
        assert asked.log_chance is not None and asked.time == 0  # known before anything is read
        law, stays = step_law(model, tokens, part["position"], asked)
        truth = np.array(part["normalised_transition_probabilities"])
        assert abs(stays - part["ddpm_cache_stays_masked_probability"]) < 1e-6
        assert np.abs(law[: model.mask_id] - truth[: model.mask_id]).max() < 2 / QUANTILES


def test_ddpm_takes_the_most_probable_token_where_noise_is_left() -> None:
    model, canvas = crooked(), Canvas.infill([1], 1, [2])
    best = int(model.logits(torch.tensor([[1, model.mask_id, 2]]))[0, 1].argmax())
    # With the grid ending at eps = 0.999 next to nothing is written before the noise is removed.
    tokens = {
        fill(model, [canvas], "ddpm", steps=2, eps=0.999, temperature=3.0, seed=s)[0].tokens[0]
        for s in range(9)
    }
    drawn = {
        fill(model, [canvas], "analytic", steps=2, eps=0.999, temperature=3.0, seed=s)[0].tokens[0]
        for s in range(9)
    }
    assert tokens == {best} and len(drawn) > 1


def test_ddpm_runs_no_forward_that_changes_nothing() -> None:
    model, canvases = crooked(), [Canvas.completion([1], 12, key=f"q{i}") for i in range(20)]
    engine = Engine(model)
    fillings = fill(
        model,
        canvases,
        "ddpm_cache",
        steps=300,
        eps=1e-5,
        temperature=1.0,
        early_exit=False,
        engine=engine,
    )
    assert all(filling.forwards == filling.steps <= 12 for filling in fillings)  # of 300 steps
    assert resolve({"strategy": "ddpm_cache"}) == resolve({"strategy": "ddpm"})
    assert engine.cost.rows <= sum(filling.forwards for filling in fillings)


def test_analytic_is_blind_on_models_of_tokens() -> None:
    filling = fill(
        crooked(),
        [Canvas.completion([1], 8)],
        "analytic",
        steps=200,
        temperature=1.0,
        early_exit=False,
    )[0]
    assert filling.forwards == filling.steps <= 8


# -- BD3LM -----------------------------------------------------------------------------------------


def test_first_hitting_samples_the_true_joint() -> None:
    """One position at a time in uniform order, drawn at temperature 1, is the joint of a consistent model (chi-square)."""
    model, length, count = Toy(ToySettings(vocab=2, seed=5)), 4, 2000
    asked = [Canvas.completion((), length, key=f"draw {i}") for i in range(count)]
    orders: Counter[tuple[int, ...]] = Counter()
    for block, positions in ((None, 4), (2, 2)):
        fillings = fill(
            model,
            asked,
            "first_hitting",
            block_length=block,
            temperature=1.0,
            early_exit=False,
            seed=1,
        )
        seen = Counter(filling.tokens for filling in fillings)
        texts = list(itertools.product(range(3), repeat=length))
        truth = np.array([math.exp(model.log_joint(text)) for text in texts])
        assert fits(np.array([seen[text] for text in texts]), truth)
        assert all(filling.forwards == filling.steps == length for filling in fillings)
        orders = Counter(filling.step[:positions] for filling in fillings)
        kinds = math.factorial(positions)
        assert len(orders) == kinds and fits(
            np.array(list(orders.values())), np.full(kinds, 1 / kinds)
        )
    assert all(max(f.step[:2]) < min(f.step[2:]) for f in fillings)  # block after block


def test_first_hitting_fills_bd3lm_block_by_block(shared: Path) -> None:
    model = load(shared, "bd3lm")
    block = model.block_length
    canvases = [
        Canvas.completion([5, 6, 7][: 1 + i % 3], 2 * block - 1 - i % 3, key=f"q{i}")
        for i in range(4)
    ]
    fillings = fill(model, canvases, preset="bd3lm", early_exit=False)
    for canvas, filling in zip(canvases, fillings, strict=True):
        # the authors' forwards too: one for each token
        assert filling.forwards == len(filling.tokens)
        blocks = [place // block for place in canvas.open_positions]
        order = [blocks[i] for i in np.argsort(filling.step)]
        assert order == sorted(order)
    timed = fill(model, canvases, "ddpm", steps_per_block=500, temperature=1.0, early_exit=False)
    assert all(filling.forwards <= len(filling.tokens) for filling in timed)


@pytest.mark.parametrize("strategy", ["ddpm", "remask"])
def test_the_first_token_of_a_later_block_is_drawn(strategy: str) -> None:
    """A shifted block-causal model writes it alone, at the same temperature as the others (at 50 hardly ever the most probable one)."""
    options = {
        "attention": "block",
        "block_length": 8,
        "shift": True,
        "mask_id": load_model("tiny").mask_id,
    }
    model = load_model(
        "generic", pretrained=str(packaged_asset("tiny")), probe=False, device="cpu", **options
    )
    block, best = 8, 0
    prompt = [model.bos_id if model.needs_bos else 5, 6, 7, 8, 9, 10, 11]
    for seed in range(6):
        steps: list[Any] = []
        canvas = Canvas.completion(prompt, 2 * block + 1)
        options = {
            "temperature": 50.0,
            "steps_per_block": 2,
            "eps": 0.99,
            "early_exit": False,
            "cache": "none",
        }
        fill(
            model,
            [canvas],
            strategy,
            seed=seed,
            trace=lambda _, step, kept=steps: kept.append(step),
            **options,
        )
        at = 2 * block
        written = next(number for number, step in enumerate(steps) if at in step.written)
        before = torch.tensor([steps[written - 1].tokens[: 3 * block]])
        best += int(model.logits(before)[0, at].argmax()) == steps[written].tokens[at]
    assert best < 3


def test_first_hitting_takes_no_steps() -> None:
    with pytest.raises(UserError, match="steps is not used by strategy 'first_hitting'"):
        resolve({"strategy": "first_hitting", "steps": 4})


# -- nucleus ---------------------------------------------------------------------------------------


def test_nucleus_of_mdlm_leaves_out_the_token_that_exceeds_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.95, 0.03, 0.01, 0.01]]).log()
    reach, within = restrict(logits, 0.9, 0), restrict(logits, 0.9, 0, "exclusive")
    assert (~reach.isneginf()).tolist() == [[True, True, True, False], [True, False, False, False]]
    assert (~within.isneginf()).tolist() == [
        [True, True, False, False],
        [True, False, False, False],
    ]


# -- ReMDM loop ------------------------------------------------------------------------------------


def test_remdm_loop_goes_through_its_phases() -> None:
    """alpha rises to alpha_on until t_on, tokens come and go until t_off, the rest is written after it (binomial z-tests)."""
    model, steps, count, length, eta = crooked(), 25, 80, 20, 0.05
    canvases = [Canvas.completion((), length, key=f"q{i}") for i in range(count)]
    events: dict[tuple[int, int], Any] = {}
    fillings = fill(
        model,
        canvases,
        preset="remdm_loop",
        steps=steps,
        eta=eta,
        trace=lambda i, s: events.update({(i, s.step): s}),
    )
    assert all(-1 not in filling.tokens for filling in fillings)
    still = [length] * count
    # (trials, hits, chance)
    chances: dict[str, list[tuple[int, int, float]]] = {"rise": [], "write": [], "mask": []}
    for step in range(steps):
        t = 1 - step / steps
        for i in range(count):
            event = events.get((i, step))
            written, erased = (len(event.written), len(event.erased)) if event else (0, 0)
            if t > 0.55:
                assert erased == 0
                # alpha = 2 (1 - t)
                chances["rise"].append((still[i], written, 0.04 * 2 / (1 - step * 0.04 * 2)))
            elif t > 0.05:
                chances["write"].append((still[i], written, eta * 0.9 / 0.1))
                chances["mask"].append((length - still[i], erased, eta))
            else:
                assert erased == 0
            still[i] += erased - written
    assert sum(still) == 0
    for trials in chances.values():
        mean, variance = (
            sum(n * p for n, _, p in trials),
            sum(n * p * (1 - p) for n, _, p in trials),
        )
        assert mean > 100
        assert abs(sum(hits for _, hits, _ in trials) - mean) / math.sqrt(
            variance
        ) < stats.norm.ppf(1 - ALPHA / 2)


# -- P2 --------------------------------------------------------------------------------------------


def plain_p2(
    model: Toy, canvas: Canvas, steps: int, eta: float, kappa: Any
) -> tuple[list[int], int]:
    """P2 with self-planning in plain words, from the paper's definition; also how many tokens were masked again."""
    tokens = [model.mask_id if o else t for t, o in zip(canvas.tokens, canvas.open, strict=True)]
    places, again = canvas.open_positions, 0
    for i in range(1, steps + 1):
        scores, candidates = (
            model.logits(torch.tensor([tokens]))[0].double().log_softmax(-1).max(-1)
        )
        planner = {
            p: float(scores[p]) * (1.0 if tokens[p] == model.mask_id else eta) for p in places
        }
        masked = sorted(places, key=lambda p: planner[p])[
            : int(np.float32(len(places)) * np.float32(1 - kappa(i / steps)))
        ]
        for p in places:
            if p in masked:
                again += tokens[p] != model.mask_id
                tokens[p] = model.mask_id
            elif tokens[p] == model.mask_id:
                tokens[p] = int(candidates[p])
    return [tokens[p] for p in places], again


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
@pytest.mark.parametrize(
    ("schedule", "kappa"),
    [("linear", lambda t: t), ("cosine", lambda t: 1 - math.cos(t * math.pi / 2))],
)
def test_p2_is_its_definition(eta: float, schedule: str, kappa: Any) -> None:
    model, again = crooked(), 0
    for i in range(6):
        canvas = Canvas.infill([i % 6], 10, [(i + 1) % 6] if i % 2 else (), key=f"q{i}")
        filling = fill(model, [canvas], "p2", steps=5, schedule=schedule, p2_eta=eta)[0]
        tokens, masked = plain_p2(model, canvas, 5, eta, kappa)
        assert list(filling.tokens) == tokens
        again += masked
    assert (again > 0) == (eta > 0)  # eta 0 trusts what is written


# -- Dream's batches -------------------------------------------------------------------------------


def test_batch_mean_quota_reproduces_dreams_padded_batch(shared: Path) -> None:
    record, model = golden(shared, "dream"), load(shared, "dream")
    batch = record["diffusion_generate_left_padded_batch"]
    for case in batch["cases"]:
        settings = case["settings"]
        canvases = [
            Canvas.completion(
                [t for t, real in zip(row, valid, strict=True) if real], settings["max_new_tokens"]
            )
            for row, valid in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        options = {
            "preset": f"dream_{settings['alg']}",
            "steps": settings["steps"],
            "early_exit": False,
        }
        lengths = (settings["max_new_tokens"],) * len(canvases)
        fillings = fill(model, canvases, batch_mean_quota=lengths, **options)
        assert [list(filling.tokens) for filling in fillings] == case["tokens"]


def test_batch_mean_quota_reproduces_dream_on_unequal_holes(shared: Path) -> None:
    """The authors' tokens, wherever their code wrote one: its last step leaves some of the longer hole masked."""
    record = json.loads(
        (Path(__file__).parent / "goldens" / "dream_batch_mean.json").read_text(encoding="utf-8")
    )
    model, differs = load(shared, "dream"), 0
    for case in record["cases"]:
        canvases = [
            Canvas.infill(row["prefix"], row["length"], row["suffix"]) for row in case["rows"]
        ]
        options = {"preset": f"dream_{case['alg']}", "steps": case["steps"], "early_exit": False}
        lengths = tuple(row["length"] for row in case["rows"])
        for filling, row in zip(
            fill(model, canvases, batch_mean_quota=lengths, **options), case["rows"], strict=True
        ):
            pairs = [
                (ours, theirs)
                for ours, theirs in zip(filling.tokens, row["tokens"], strict=True)
                if theirs >= 0
            ]
            assert len(pairs) >= row["length"] - 4 and all(ours == theirs for ours, theirs in pairs)
        own = [filling.tokens for filling in fill(model, canvases, **options)]
        differs += any(
            a != b
            for f, row in zip(own, case["rows"], strict=True)
            for a, b in zip(f, row["tokens"], strict=True)
            if b >= 0
        )
    assert differs > 0  # a quota of one's own gives other tokens


def test_batch_mean_quota_of_unequal_holes() -> None:
    """Every hole writes floor(mean of open positions x (1 - s/t)), and it matters: another quota than a hole's own."""
    model, lengths, steps = crooked(), (6, 14), 5
    canvases = [Canvas.completion([1], n, key=f"q{n}") for n in lengths]
    events: list[tuple[int, Any]] = []
    options = {"steps": steps, "schedule": "timestep", "early_exit": False}
    together = fill(
        model,
        canvases,
        batch_mean_quota=lengths,
        trace=lambda i, s: events.append((i, s)),
        **options,
    )
    grid, open_ = torch.linspace(1, 1e-3, steps + 1), np.array(lengths)
    for step in range(steps):
        quota = (
            int(np.float32(open_.mean()) * (1 - grid[step + 1] / grid[step]))
            if step < steps - 1
            else max(open_)
        )
        written = [
            sum(len(s.written) for i, s in events if i == index and s.step == step)
            for index in range(2)
        ]
        assert written == [min(quota, n) for n in open_]
        open_ = open_ - np.array(written)
    own = fill(model, canvases, **options)
    assert [f.step for f in own] != [f.step for f in together]
    with pytest.raises(UserError, match="batch_mean_quota"):
        resolve({"batch_mean_quota": (4, 4)})


# -- lengths that are tried ------------------------------------------------------------------------


def test_lengths_keep_the_most_probable_filling_of_a_hole_inside_a_text() -> None:
    model = load_model("tiny", dtype="float32", device="cpu")
    texts = (("The dog ", " home."), ("a = ", "\nprint(a)"), ("Once ", ""))
    canvases = [
        Canvas.infill(model.encode(head), 5, model.encode(tail) if tail else [], key=head)
        for head, tail in texts
    ]
    sizes = (2, 3, 7)
    found = fill(model, canvases, lengths=sizes)
    for (head, tail), canvas, filling in zip(texts, canvases, found, strict=True):
        tried = [
            fill(model, [Canvas.infill(model.encode(head), n, model.encode(tail) if tail else [], key=head)])[0]
            for n in sizes
        ]  # fmt: skip
        special = {-1, model.bos_id, model.pad_id, *model.eos_ids}
        best = max(tried, key=lambda one: mean_logprob(seen_part(model, one, ()), special))
        assert filling.tokens == best.tokens
        assert filling.forwards == sum(one.forwards for one in tried)
        assert filling.forwards <= (most_forwards(model, canvas, resolve({"lengths": sizes})) or 0)
    # the hole's own length is ignored, and batches change nothing
    other = [
        Canvas.infill(model.encode(h), 9, model.encode(t) if t else [], key=h) for h, t in texts
    ]
    assert [f.tokens for f in fill(model, other[::-1], lengths=sizes)[::-1]] == [
        f.tokens for f in found
    ]


def test_lengths_that_cannot_be_tried_are_one_line() -> None:
    model = load_model("tiny", dtype="float32", device="cpu")
    ids = model.encode("abc")
    with pytest.raises(SampleError, match="needs one hole"):
        fill(model, [Canvas.holes(ids, 1, [ids], ids)], lengths=(2, 3))
    with pytest.raises(SampleError, match="leave no room for a hole of 999"):
        fill(model, [Canvas.infill(ids, 2, ids)], lengths=(999,))
    with pytest.raises(UserError, match="exclude each other"):
        fill(model, [Canvas.infill(ids, 2, ids)], lengths=(2,), length_beam=2)
    for wrong in ("two", (0,), (4, -1)):
        with pytest.raises(UserError, match="lengths"):
            resolve({"lengths": wrong})
    kept = [
        f for f in fill(model, [Canvas.infill(ids, 2, ids)], lengths=(3, 999)) if len(f.tokens) == 3
    ]
    assert len(kept) == 1  # those that fit are tried


def test_tokens_behind_the_end_of_a_text_do_not_count() -> None:
    """Nobody sees what is behind the first end-of-text token or the first stop string."""
    model = load_model("tiny", dtype="float32", device="cpu")
    eos, (full_stop,) = model.eos_ids[0], model.encode(".")
    tokens = (5, eos, 6, 7, -1)
    filling = Filling(tokens, 5, 5, confidence=(0.5, 0.9, 0.1, 0.1, float("nan")))
    assert seen_part(model, filling, ()).tokens == (5, eos)[:1]
    assert mean_logprob(seen_part(model, filling, ())) == pytest.approx(math.log(0.5))
    stopped = Filling((5, full_stop, 6), 3, 3, confidence=(0.5, 0.25, 0.01))
    assert seen_part(model, stopped, (".",)).tokens == (5, full_stop)
    assert seen_part(model, stopped, ("!",)) == stopped
    # the filling with the best text is kept, not the one with the best tokens behind it
    toy = Toy(ToySettings(vocab=5, seed=11))
    canvas, sizes = Canvas.completion([1], 4), (2, 4, 8)
    tried = [fill(toy, [Canvas.completion([1], n)], early_exit=False)[0] for n in sizes]
    special = {-1, toy.bos_id, toy.pad_id, *toy.eos_ids}
    best = max(tried, key=lambda one: mean_logprob(seen_part(toy, one, ()), special))
    assert fill(toy, [canvas], lengths=sizes, early_exit=False)[0].tokens == best.tokens


@pytest.mark.parametrize("how", [{"length_beam": 2}, {"lengths": (4, 8)}])
def test_a_holes_own_length_refuses_nothing_where_others_are_tried(how: dict[str, Any]) -> None:
    """Steps and blocks are those of each length; a block that a model cannot have is still refused."""
    settings = resolve({"steps": 8, "block_length": 4, **how}, length=3)
    settings.check(5)
    assert not settings.uses_own_length
    with pytest.raises(UserError, match="block_length '4' is not allowed"):
        settings.check(5, block=6)
    options = DecodeOptions({"steps": 8, "block_length": 4, **how})
    for hole in (Hole(Length(3)), Hole(Length(None), references=("a",))):
        kept = options.settings(options.request({HOLE: hole}), 3)
        assert (kept.steps, kept.block_length) == (8, 4)  # not those that fit 3
    model = load_model("tiny", dtype="float32", device="cpu")
    if "lengths" in how:
        (found,) = fill(
            model, [Canvas.completion(model.encode("a"), 3)], steps=8, block_length=4, **how
        )
        assert len(found.tokens) in how["lengths"]


@pytest.mark.parametrize("how", [{"length_beam": 2}, {"lengths": (4, 8)}])
def test_steps_are_kept_where_the_hole_has_another_length(how: dict[str, Any]) -> None:
    settings = resolve({"strategy": "confidence", "steps": 4, **how})
    assert settings.canonical(4, "absorbing", None).steps == 4
    plain = resolve({"strategy": "confidence", "steps": 4})
    assert plain.canonical(4, "absorbing", None).steps is None
