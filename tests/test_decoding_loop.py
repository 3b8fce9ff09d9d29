"""The loop against truth (`toy`), against a plain loop without savings, and against its own batch mates."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.decoding import fill
from dlm_eval.decoding.step import StepState
from dlm_eval.decoding.strategies import EntropyBound
from dlm_eval.engine import Engine
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.rng import Noise

ALPHA = 1e-3  # of every statistical test here; seeds are fixed
STRATEGIES: list[dict[str, Any]] = [
    {"strategy": "confidence"},
    {"strategy": "margin"},
    {"strategy": "entropy"},
    {"strategy": "random"},
    {"strategy": "left_to_right"},
    {"strategy": "timestep", "steps": 20},
    {"strategy": "ddpm", "steps": 20},
    {"strategy": "analytic", "steps": 20},
    {"strategy": "first_hitting"},
    {"strategy": "threshold", "threshold": 0.6},
    {"strategy": "factor", "factor": 1.5},
    {"strategy": "entropy_bound", "entropy_bound": 0.5},
    {"strategy": "confidence", "schedule": "linear", "rescore": True, "steps": 20},
    {"strategy": "confidence", "schedule": "timestep", "steps": 20, "alg_temp": 0.3},
]
NAMES = ["-".join(str(v) for v in options.values()) for options in STRATEGIES]


def crooked(vocab: int = 6) -> Toy:
    """A toy whose orders disagree, as a trained network's do."""
    return Toy(ToySettings(vocab=vocab, inconsistency=0.7, seed=3))


def canvases(count: int = 8) -> list[Canvas]:
    """Completions and infillings of many lengths."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        prefix, length = rng.integers(0, 6, 1 + i % 5).tolist(), 4 + 4 * (i % 3)
        suffix = rng.integers(0, 6, i % 4).tolist() if i % 2 else ()
        made.append(Canvas.infill(prefix, length, suffix, key=f"q{i}"))
    return made


# -- truth -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["left_to_right", "random"])
def test_one_token_per_step_samples_the_true_joint(strategy: str) -> None:
    """On a consistent model any order of single tokens drawn at temperature 1 samples the joint exactly (chi-square)."""
    model = Toy(ToySettings(vocab=2, seed=5))
    length, count = 4, 2000
    asked = [Canvas.completion((), length, key=f"draw {i}") for i in range(count)]
    fillings = fill(model, asked, strategy, temperature=1.0, early_exit=False, seed=1)
    seen = Counter(filling.tokens for filling in fillings)
    texts = list(itertools.product(range(3), repeat=length))
    truth = np.array([math.exp(model.log_joint(text)) for text in texts])
    assert abs(truth.sum() - 1) < 1e-9
    assert _fits(np.array([seen[text] for text in texts]), truth)


def _fits(seen: np.ndarray, truth: np.ndarray) -> bool:
    """Whether counts follow `truth`, cells with few expected counts taken together."""
    expected = truth * seen.sum()
    few = expected < 5
    seen = np.append(seen[~few], seen[few].sum())
    expected = np.append(expected[~few], expected[few].sum())
    keep = expected > 0
    return bool(stats.chisquare(seen[keep], expected[keep]).pvalue > ALPHA)


def test_the_chi_square_can_fail() -> None:
    """The same test refuses samples drawn at another temperature."""
    model = Toy(ToySettings(vocab=2, seed=5))
    asked = [Canvas.completion((), 3, key=f"draw {i}") for i in range(1000)]
    fillings = fill(model, asked, "left_to_right", temperature=1.6, early_exit=False)
    seen = Counter(filling.tokens for filling in fillings)
    texts = list(itertools.product(range(3), repeat=3))
    truth = np.array([math.exp(model.log_joint(text)) for text in texts])
    assert not _fits(np.array([seen[text] for text in texts]), truth)


def test_random_keep_reveals_each_position_at_a_uniform_step() -> None:
    """With eps = 0, 1 - s/t makes every step equally likely for every position (chi-square)."""
    model = Toy(ToySettings(vocab=2))
    asked = [Canvas.completion((), 4, key=f"draw {i}") for i in range(600)]
    fillings = fill(model, asked, "timestep", steps=10, eps=0.0, early_exit=False)
    seen = Counter(step for filling in fillings for step in filling.step)
    assert _fits(np.array([seen[step] for step in range(10)]), np.full(10, 0.1))


def test_temperature_and_top_k_shape_a_single_draw() -> None:
    model, count = Toy(ToySettings(vocab=5, seed=2)), 1500
    asked = [Canvas.infill([1], 1, [2], key=f"draw {i}") for i in range(count)]
    logits = model.logits(torch.tensor([[1, model.mask_id, 2]]))[0, 1].double().numpy()[:6]
    warm = np.exp(logits / 2)
    seen = Counter(f.tokens[0] for f in fill(model, asked, temperature=2.0))
    assert _fits(np.array([seen[t] for t in range(6)]), warm / warm.sum())
    top = np.where(logits >= np.sort(logits)[-2], warm, 0)
    seen = Counter(f.tokens[0] for f in fill(model, asked, temperature=2.0, top_k=2))
    assert _fits(np.array([seen[t] for t in range(6)]), top / top.sum())


def test_top_p_keeps_the_smallest_set_that_exceeds_it() -> None:
    model = Toy(ToySettings(vocab=5, seed=2))
    probability = model.logits(torch.tensor([[1, model.mask_id, 2]]))[0, 1].softmax(-1).numpy()
    order = np.argsort(-probability)
    nucleus = set(
        order[: int(np.searchsorted(probability[order].cumsum(), 0.7, side="right")) + 1].tolist()
    )
    asked = [Canvas.infill([1], 1, [2], key=f"draw {i}") for i in range(500)]
    assert {f.tokens[0] for f in fill(model, asked, temperature=1.0, top_p=0.7)} == nucleus


# -- savings change nothing ------------------------------------------------------------------------


def plain_fill(model: Toy, canvas: Canvas, quotas: list[int]) -> list[int]:
    """The same procedure with a full forward every step and no savings: most probable candidates, a given quota."""
    tokens = [
        model.mask_id if is_open else token
        for token, is_open in zip(canvas.tokens, canvas.open, strict=True)
    ]
    waiting = set(canvas.open_positions)
    for quota in quotas:
        probability, candidate = (
            model.logits(torch.tensor([tokens]))[0].double().softmax(-1).max(-1)
        )
        for place in sorted(waiting, key=lambda i: (-float(probability[i]), i))[:quota]:
            tokens[place] = int(candidate[place])
            waiting.remove(place)
    return [tokens[i] for i in canvas.open_positions]


def test_steps_that_write_nothing_are_not_run() -> None:
    model = crooked()
    canvas = Canvas.completion([1, 2], 8)
    grid = torch.linspace(1, 1e-3, 41)
    left, quotas = 8, []
    for i in range(40):
        quotas.append(int(left * (1 - grid[i + 1] / grid[i])) if i < 39 else left)
        left -= quotas[-1]
    filling = fill(model, [canvas], steps=40, schedule="timestep", early_exit=False)[0]
    assert list(filling.tokens) == plain_fill(model, canvas, quotas)
    assert filling.forwards == filling.steps == sum(quota > 0 for quota in quotas) < 40


@pytest.mark.parametrize("options", STRATEGIES, ids=NAMES)
@pytest.mark.parametrize("block_length", [None, 4, 2])
def test_early_exit_leaves_visible_text_as_it_is(
    options: dict[str, Any], block_length: int | None
) -> None:
    model = crooked(vocab=2)  # a third of the letters ends the text
    options = {
        "steps": 12 if "steps" in options else None,
        **{k: v for k, v in options.items() if k != "steps"},
    }
    asked = [Canvas.completion([i % 2], 12, key=f"q{i}") for i in range(30)]
    short = fill(model, asked, block_length=block_length, temperature=0.8, **options)
    whole = fill(
        model, asked, block_length=block_length, temperature=0.8, early_exit=False, **options
    )
    for one, other in zip(short, whole, strict=True):
        assert _visible(model, one.tokens) == _visible(model, other.tokens)
        assert BLANK not in other.tokens
        assert all(a in (b, BLANK) for a, b in zip(one.tokens, other.tokens, strict=True))
    assert sum(f.forwards for f in short) < sum(f.forwards for f in whole)
    assert {f.exit for f in short} >= {"eos"} and {f.exit for f in whole} == {"full"}


def _visible(model: Toy, tokens: tuple[int, ...]) -> tuple[int, ...]:
    ends = [i for i, token in enumerate(tokens) if token in model.eos_ids]
    return tokens[: ends[0]] if ends else tokens


@pytest.mark.parametrize("strategy", ["confidence", "random", "left_to_right"])
def test_stop_strings_end_decoding(strategy: str) -> None:
    model = crooked(vocab=4)
    asked = [Canvas.completion([i % 4], 16, key=f"q{i}") for i in range(20)]
    until = ("ab", "d")
    short = fill(model, asked, strategy, temperature=1.0, until=until)
    whole = fill(model, asked, strategy, temperature=1.0, early_exit=False)
    for one, other in zip(short, whole, strict=True):
        texts = [
            model.decode(_visible(model, f.tokens[: (f.tokens + (BLANK,)).index(BLANK)]))
            for f in (one, other)
        ]
        cut = [min((t.split(stop)[0] for stop in until), key=len) for t in texts]
        assert cut[0] == cut[1]
    assert "stop" in {f.exit for f in short}
    assert sum(f.forwards for f in short) < sum(f.forwards for f in whole)


def test_end_of_text_inside_an_infill_ends_nothing() -> None:
    model = crooked(vocab=2)
    fillings = fill(
        model, [Canvas.infill([0], 6, [0], key=f"q{i}") for i in range(20)], temperature=1.0
    )
    assert any(model.eos_ids[0] in filling.tokens[:-1] for filling in fillings)
    assert all(filling.exit == "full" and BLANK not in filling.tokens for filling in fillings)


def test_blind_strategies_read_only_what_they_write() -> None:
    model, asked = crooked(), Canvas.completion([1], 12, key="q")
    for strategy in ("random", "left_to_right"):
        engine = CountingEngine(model)
        fill(model, [asked], strategy, steps=6, engine=engine, early_exit=False)
        assert engine.wanted == 12  # 2 for each of 6 steps; confidence reads 12 + 10 + 8 + ...
    engine = CountingEngine(model)
    fill(model, [asked], "confidence", steps=6, engine=engine, early_exit=False)
    assert engine.wanted == 12 + 10 + 8 + 6 + 4 + 2


def test_the_head_reads_wanted_positions_alone_also_under_guidance() -> None:
    model, asked, read = crooked(), Canvas.completion([1, 2, 3, 4], 24, key="q"), []
    logits = model.logits

    def counting(tokens: Any, valid: Any = None, positions: Any = None) -> Any:
        read.append((len(tokens), int(positions.sum())))
        return logits(tokens, valid, positions)

    model.logits = counting  # type: ignore[method-assign]
    fill(model, [asked], "left_to_right", steps=2, guidance=1.5, early_exit=False)
    assert read == [(2, 2 * 12)] * 2


@pytest.mark.parametrize("bound", [0.0, 0.3, 1.0, 5.0])
def test_entropy_bound_is_the_papers_rule(bound: float) -> None:
    """k = #{n : H_1 + ... + H_n - max(H_1, ..., H_n) <= bound} of the entropies in ascending order (arXiv 2505.24857)."""
    entropies = np.random.default_rng(0).exponential(0.4, 12)
    where, none = np.arange(12), np.empty(0)
    view = StepState(
        0,
        1,
        0,
        0,
        None,
        0.0,
        where,
        where,
        where >= 0,
        Noise("0" * 64),
        where,
        none,
        score=-entropies,
    )
    chosen = EntropyBound(entropy_bound=bound).commit(view)
    ranked = np.sort(entropies)
    count = int((ranked.cumsum() - np.maximum.accumulate(ranked) <= bound).sum())
    assert sorted(entropies[chosen]) == list(ranked[:count]) and count >= 1


class CountingEngine(Engine):
    """Counts wanted positions."""

    wanted = 0

    def _attempt(self, batch: Any, requests: Any) -> Any:
        self.wanted += sum(len(row.wanted) for _, row in requests)
        return super()._attempt(batch, requests)


# -- independence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", STRATEGIES, ids=NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_do_not_depend_on_company(options: dict[str, Any], temperature: float) -> None:
    model, asked = crooked(), canvases()
    options = {**options, "temperature": temperature, "early_exit": False}
    together = [f.tokens for f in fill(model, asked, **options)]
    assert [fill(model, [canvas], **options)[0].tokens for canvas in asked] == together
    backwards = fill(model, asked[::-1], engine=Engine(model, batch_rows=3), **options)
    assert [f.tokens for f in backwards][::-1] == together
    tight = fill(model, asked[2:6], engine=Engine(model, batch_tokens=20), **options)
    assert [f.tokens for f in tight] == together[2:6]


def test_seeds_and_keys_make_the_noise() -> None:
    model = crooked()
    one, two = Canvas.completion([1], 12, key="a"), Canvas.completion([1], 12, key="b")

    def draw(canvas: Canvas, seed: int) -> tuple[int, ...]:
        return fill(model, [canvas], temperature=1.0, seed=seed, early_exit=False)[0].tokens

    assert draw(one, 0) == draw(one, 0)
    assert len({draw(one, 0), draw(one, 1), draw(two, 0)}) == 3
    nameless = Canvas.completion([1], 12)
    assert draw(nameless, 0) == draw(Canvas.completion([1], 12), 0) != draw(one, 0)
