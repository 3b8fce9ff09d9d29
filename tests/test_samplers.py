"""All samplers of the package: nothing but the canvas and the seed matters; and what each of them promises."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_models_esolm
import torch
from engine_jobs import comparable
from test_autoregressive import uneven

from dlm_eval import Canvas, UserError, fill, load_model
from dlm_eval.canvas import BLANK
from dlm_eval.decoding import (
    STRATEGIES,
    TraceStep,
    Unmasking,
    describe_strategies,
    fill_program,
    resolve,
)
from dlm_eval.decoding.checkpoints import State
from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.filling import fill_outcomes, most_forwards
from dlm_eval.decoding.samplers.credit import WithCredit
from dlm_eval.decoding.samplers.klass import WithDivergence
from dlm_eval.decoding.step import StepState
from dlm_eval.decoding.strategy import FillRequest
from dlm_eval.decoding.token_prior import count_tokens, read_prior
from dlm_eval.engine import Engine
from dlm_eval.jobs import Answer, FillJob
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.rng import Noise
from dlm_eval.workers.devices import parse_devices
from dlm_eval.workers.driver import start_workers
from dlm_eval.workers.messages import WorkerConfig

HERE = Path(__file__).parent
COUNTS = str(HERE / "data" / "token_counts.json")
# Options with which a sampler has something to do on a short text of `tiny`; a sampler without an
# entry runs with its defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "certainty_prior": {"sigma": 3.0, "num_transfer_tokens": 2, "block_length": 6},
    "klass": {"conf_threshold": 0.2, "kl_threshold": 0.3, "block_length": 6, "schedule": "even"},
    "pc_sampler": {"prior": COUNTS, "lambd": 0.25, "alpha": 10, "steps": 6},
    "linear_position": {"prior": COUNTS, "lambd": 0.5, "alpha": 10, "steps": 6},
    "credit": {"threshold": 0.5, "block_length": 6},
    "hierarchy": {"threshold": 0.5, "low_threshold": 0.2, "block_length": 6},
    "adablock": {"threshold": 0.4, "init_block_length": 5, "delimiter_threshold": 0.05},
    "multi_block": {"threshold": 1.5, "block_size": 4, "block_add_threshold": 0.3},
    "frechet": {"frechet_margin": -0.5, "block_length": 6},
    "prophet": {"answer_start": 2, "early_exit_thresholds": (4.0, 3.0, 2.0), "block_length": 4},
    "slowfast": {"k_exploration_steps": 2, "high_confidence_threshold": 0.4, "block_length": 6},
    "slowfast_dream": {"n_cycle_discovery_steps": 2, "conf_threshold_cycle_len_pred": 0.2},
    "localleap": {"threshold": 0.5, "relaxed_threshold": 0.2, "radius": 2, "block_length": 6},
    "wino": {"threshold": 0.2, "threshold_back": 0.3, "block_length": 6},
    "daedal": {"max_gen_length": 20, "high_conf_threshold": 0.3, "block_length": 6},
    "joint_threshold_indel": {"delete_token_id": 5, "split_token_id": 6},
    "block_n": {"gen_block_size": 4},
    "linear_spec": {"draft_length": 5},
    "longest_prefix": {"threshold": 0.2, "n_future_tokens": 3},
    "self_speculative": {"n_future_tokens": 3},
    "esolm": {"diffusion_steps": 4},
    "less": {"conf_threshold": 0.2, "drift_threshold": 0.3, "persistence_len": 1, "block_length": 6},
    "saber": {"block_length": 6},
    "rho_eos": {"max_gen_length": 20, "high_conf_threshold": 0.3, "block_length": 6},
    "less_dream": {"conf_threshold": 0.2, "drift_threshold": 0.3, "persistence_len": 1},
    "d2f": {"block_size": 4, "block_add_threshold": 0.3, "skip_threshold": 0.3},
}  # fmt: skip
SAMPLERS = [
    name
    for name in STRATEGIES.names()
    if STRATEGIES.find(name).__module__.startswith("dlm_eval.decoding.samplers.")
]
EACH = pytest.mark.parametrize("name", SAMPLERS)
# the quick suite asks at a temperature, where tokens are drawn too
WARM = pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.full), 0.7])


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_model("tiny", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def blocks(shared: Path) -> Any:
    folder = str(shared / "goldens" / "llada2")
    return load_model("llada2", pretrained=folder, dtype="float32", device="cpu", block_length=8)


@pytest.fixture(scope="module")
def autoregressive(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = uneven(tmp_path_factory.mktemp("nemotron") / "uneven")
    return load_model("nemotron", pretrained=folder, attention="causal")


def runs_on(model: Any, name: str) -> bool:
    settings = resolve(given(name))
    try:
        settings.strategy.refuse_model(model, settings)
    except UserError:
        return False
    return True


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An Eso-LM, which attends in the order of writing."""
    folder = test_models_esolm.checkpoint(tmp_path_factory.mktemp("eso"), model_length=64)
    return load_model("esolm", pretrained=folder, device="cpu")


@pytest.fixture
def host(name: str, tiny: Any, blocks: Any, autoregressive: Any, ordered: Any) -> Any:
    """`tiny`, or a model that is block-causal, autoregressive or attends in order, for a sampler that needs one."""
    models = (tiny, blocks, autoregressive, ordered)
    return next(model for model in models if runs_on(model, name))


def texts(model: Any) -> list[Canvas]:
    """Completions of 12 tokens, keyed."""
    prompts = ("the cat sat on the ", "Anna went to", "It was a", "He", "One day the old")
    return [
        Canvas.completion(model.encode(text), 12, key=f"q{i}") for i, text in enumerate(prompts)
    ]


def given(name: str, **more: Any) -> dict[str, Any]:
    options = {"strategy": name, **OPTIONS.get(name, {}), "early_exit": False, **more}
    if more.get("temperature"):
        try:
            resolve(options)
        except UserError:
            options["temperature"] = 0.0  # it takes the most probable tokens
    return options


def plain(fillings: Any) -> list[Any]:
    """Fillings that can be compared: without seconds; NaN, the confidence of what was not written, equals itself."""
    found = [comparable(Answer(filling, None, 0, 0.0)).value for filling in fillings]
    return [replace(filling, seconds=0.0) for filling in found]  # type: ignore[type-var]


# -- independence ----------------------------------------------------------------------------------


@WARM
@EACH
def test_answers_do_not_depend_on_batch_or_order(host: Any, name: str, temperature: float) -> None:
    canvases, options = texts(host)[:3], given(name, temperature=temperature)
    alone = plain(fill(host, [canvas], **options)[0] for canvas in canvases)
    assert any(filling.steps > 1 for filling in alone)
    small = 40 if host.attention == "full" else 140  # a row with a cache takes more
    for engine in (Engine(host, batch_rows=2), Engine(host, memory_tokens=small), Engine(host)):
        assert plain(fill(host, canvases, engine=engine, **options)) == alone
    assert plain(fill(host, canvases[::-1], **options))[::-1] == alone


@WARM
@EACH
def test_a_half_written_text_is_resumed_or_begun_anew(
    host: Any, name: str, temperature: float
) -> None:
    """Every state that is offered leads to the same answer; a sampler that keeps more offers none."""
    canvas, settings = texts(host)[0], resolve(given(name, temperature=temperature))
    states: list[State] = []
    request = FillRequest(
        host, canvas, settings, Noise.of(canvas, 0), offer=lambda state: states.append(state())
    )
    whole = Engine(host).drive([fill_program(request)])[0].answer
    assert isinstance(settings.strategy, Unmasking)
    keeps = settings.strategy.keeps_state
    assert bool(states) != keeps and (settings.why_no_checkpoint("absorbing") is None) != keeps
    for state in list(states):
        stored = State.of(json.loads(json.dumps(vars(state))))
        again = Engine(host).drive([fill_program(replace(request, begun=stored))])[0].answer
        assert plain([again]) == plain([whole])


def test_workers_write_the_same(tiny: Any) -> None:
    """All samplers at once, on two processes."""
    jobs = [
        FillJob(replace(canvas, key=f"{name} {heat} {canvas.key}"), resolve(given(name, temperature=heat)), 3)
        for name in SAMPLERS if runs_on(tiny, name) for heat in (0.0, 0.7) for canvas in texts(tiny)[:2]
    ]  # fmt: skip
    alone = Engine(tiny)
    expected = [
        [comparable(Answer(one.answer, None, 0, 0.0)).value for one in fill_outcomes(alone, [job.canvas], job.settings, 3)]
        for job in jobs
    ]  # fmt: skip
    found: dict[int, Answer] = {}
    pool = start_workers(WorkerConfig("tiny", {"dtype": "float32"}), parse_devices("cpu:2"))
    try:
        pool.run(jobs, found.__setitem__)
    finally:
        pool.close()
    assert [plain([found[index].value]) for index in range(len(jobs))] == expected


@EACH
def test_no_filling_runs_more_rows_than_the_plan_says(host: Any, name: str) -> None:
    """--dry_run knows a maximum, or says that it does not."""
    for canvas in texts(host)[:3]:
        settings = resolve(given(name), length=12)
        most = most_forwards(host, canvas, settings)
        found = fill(host, [canvas], **given(name))[0].forwards
        assert most is not None and found <= most


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("klass", {"schedule": "cosine", "conf_threshold": 0.9}),
        ("dmax", {"temperature": 0.7, "samples": 3, "rerank": "score"}),
        ("linear_position", {"temperature": 0.7, "steps": None, "steps_per_block": 30}),
        ("confidence", {"schedule": "cosine", "cache": "dllm"}),
        ("timestep", {"cache": "dkv", "cache_steps": 2}),
    ],
)
def test_the_plan_counts_steps_that_write_nothing_and_all_samples(
    name: str, more: dict[str, Any], tiny: Any, blocks: Any
) -> None:
    every = {"prompt_interval_steps": 4, "gen_interval_steps": 3, "transfer_ratio": 0.5}
    host = tiny if name != "dmax" else blocks
    options = {**given(name, **more), **(every if more.get("cache") == "dllm" else {})}
    if more.get("cache"):
        options["steps"] = 30  # more than positions
    if name == "klass":
        options |= {"block_length": None, "steps": 12}
    settings = resolve(options)
    for canvas in texts(host)[:3]:
        most = most_forwards(host, canvas, settings)
        (found,) = fill_outcomes(Engine(host), [canvas], settings)
        assert most is not None and found.rows <= most
        if more.get("cache"):  # all steps but the last ones run
            assert found.rows > 12


WHOLE_CANVAS = [
    name
    for name in SAMPLERS
    if STRATEGIES.find(name).shows_whole  # type: ignore[attr-defined]
]


@pytest.mark.parametrize("cache", ["prefix", "dual", "dllm", "dkv", "d2"])
@pytest.mark.parametrize("name", WHOLE_CANVAS)
def test_rows_that_no_cache_serves_are_refused_without_a_model(name: str, cache: str) -> None:
    every = {"prompt_interval_steps": 4, "gen_interval_steps": 3, "transfer_ratio": 0.5}
    own = {"dllm": every, "dkv": {"cache_steps": 4}}.get(cache, {})
    with pytest.raises(UserError, match=f"strategy '{name}' .*leave cache '{cache}' out"):
        resolve({"strategy": name, **OPTIONS.get(name, {}), "cache": cache, **own})


def test_what_shows_the_whole_canvas() -> None:
    """Samplers with rows of their own, which the caches do not know."""
    assert set(WHOLE_CANVAS) == {
        "block_n", "d2f", "daedal", "dmax", "esolm", "freedave", "joint_threshold_indel", "linear_spec", "prophet",
        "rho_eos", "saber", "saber_dream", "self_speculative", "slowfast", "slowfast_dream", "var_generate", "wino",
    }  # fmt: skip


def test_every_sampler_is_listed_with_a_whole_line() -> None:
    lines = describe_strategies()
    for name in SAMPLERS:
        about = STRATEGIES.find(name).__doc__ or ""
        assert about.strip().split("\n\n")[0] == lines[name]  # the first paragraph is one line


@EACH
def test_holes_inside_a_text_and_several_of_them_are_filled(host: Any, name: str) -> None:
    if resolve(given(name)).strategy.completes_only:
        pytest.skip("only for a hole at the end of a text")
    begin, end = host.encode("the cat sat on the "), host.encode(" and looked")
    inside = Canvas.infill(begin, 12, end, key="i")
    several = Canvas.holes(begin, 6, [end], begin, key="p")
    for canvas in (inside, several):
        found = fill(host, [canvas], **given(name))[0]
        assert BLANK not in found.tokens


CACHES: dict[str, dict[str, Any]] = {
    "prefix": {},
    "dual": {},
    "dllm": {"prompt_interval_steps": 4, "gen_interval_steps": 3, "transfer_ratio": 0.5},
    "dkv": {"cache_steps": 4},
    "d2": {"current_k": 4},
}


@pytest.mark.parametrize("cache", CACHES)
@EACH
def test_approximate_caches_work_or_are_refused(tiny: Any, name: str, cache: str) -> None:
    """Under approximate caches, too, no answer depends on its batch."""
    if not runs_on(tiny, name):
        pytest.skip("not for a model with full attention, which these caches are for")
    try:
        settings = given(name, cache=cache, **CACHES[cache])
        resolve(settings)
    except UserError as error:
        assert "cache" in str(error) and "\n" not in str(error)
        return
    canvases = texts(tiny)[:3]
    alone = plain(fill(tiny, [canvas], **settings)[0] for canvas in canvases)
    assert plain(fill(tiny, canvases, engine=Engine(tiny, batch_rows=2), **settings)) == alone
    assert all(BLANK not in filling.tokens for filling in alone)


# -- each ------------------------------------------------------------------------------------------


def test_klass_divergence_is_that_of_whole_distributions() -> None:
    """The op, step by step, against float64 distributions; unknown positions begin anew."""
    rng, op = np.random.default_rng(0), WithDivergence(Draw(logits_temp=0.5), 3)
    before, last, ring = None, np.zeros((4, 7)), np.zeros((4, 3))
    for step in range(5):
        logits = rng.normal(size=(4, 7)).astype(np.float32)
        known = torch.tensor([step > 0, step > 0, step > 0, step not in (0, 3)])
        if before is not None:
            before = before.masked_fill(~known[:, None], 0)
        token, logprob, _, now, largest, before = op(
            torch.tensor(logits), torch.zeros(4), before, known
        )
        last[~known], ring[~known] = 0, 0
        p = np.exp(2 * logits.astype(np.float64))
        p /= p.sum(-1, keepdims=True)
        truth = (p * (np.log(p + 1e-12) - np.log(last + 1e-12))).sum(-1)
        ring, last = np.concatenate([ring[:, 1:], truth[:, None]], -1), p
        assert np.allclose(now, truth, atol=1e-5) and np.allclose(largest, ring.max(-1), atol=1e-5)
        assert (token.numpy() == p.argmax(-1)).all() and before.dtype == torch.float32
        assert np.allclose(logprob, np.log(p.max(-1)), atol=1e-6)


def test_klass_tells_small_divergences_apart() -> None:
    """`min_kl` compares them: float32 would lose a divergence of 1e-6 among near-certain tokens."""
    rng, op = np.random.default_rng(3), WithDivergence(Draw(), 1)
    first = rng.normal(scale=4, size=(20, 300)).astype(np.float32)
    second = first + rng.normal(scale=2e-3, size=first.shape).astype(np.float32)
    known, payload = torch.ones(20, dtype=torch.bool), torch.zeros(20)
    *_, before = op(torch.tensor(first), payload, None, ~known)
    *_, now, _, _ = op(torch.tensor(second), payload, before, known)
    p, q = (torch.tensor(one).double().softmax(-1).numpy() for one in (second, first))
    truth = (p * (np.log(p + 1e-12) - np.log(q + 1e-12))).sum(-1)
    assert truth.max() < 1e-5 and np.abs(now.numpy() - truth).max() < 1e-11
    *_, again, _, _ = op(torch.tensor(first), payload, before, known)
    assert (again == 0).all()  # a distribution that has not changed


def test_klass_without_change_writes_all_at_its_second_stable_step() -> None:
    """Independent positions: their distributions never change, so D is 27, then 0."""
    model = Toy(ToySettings(vocab=3, seed=1))
    model.step[:] = model.start  # the chain forgets: all positions are independent
    steps: list[TraceStep] = []
    options = {"conf_threshold": 0.0, "kl_threshold": 1e-3, "kl_history_length": 2}
    fill(model, [Canvas.completion([0], 9)], "klass", trace=lambda _, s: steps.append(s),
         early_exit=False, **options)  # fmt: skip
    assert [len(step.written) for step in steps] == [1, 1, 7]
    chosen = {
        way: fill(model, [Canvas.completion([0], 9)], "klass", unmask_strategy=way, seed=5,
                  early_exit=False, **options)[0]
        for way in ("max_conf", "min_kl", "random")
    }  # fmt: skip
    assert all(filling.forwards == 9 for filling in chosen.values())
    assert chosen["random"].step != chosen["max_conf"].step


def test_credit_is_that_of_its_recursion() -> None:
    rng, op = np.random.default_rng(1), WithCredit(Draw(), 2.0, 0.5, 0.8)
    before, credit = None, np.zeros((3, 5))
    for step in range(4):
        logits = rng.normal(size=(3, 5)).astype(np.float32)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        credit *= 0.8
        credit[np.arange(3), p.argmax(-1)] += p.max(-1) ** 0.5
        fused = logits + 2.0 * np.log1p(credit)
        known = torch.full((3,), step > 0)
        token, logprob, _, before = op(torch.tensor(logits), torch.zeros(3), before, known)
        assert (token.numpy() == fused.argmax(-1)).all() and np.allclose(before, credit, atol=1e-6)
        total = np.log(np.exp(fused).sum(-1))
        assert np.allclose(logprob, fused.max(-1) - total, atol=1e-5)


def test_without_credit_it_is_the_threshold_sampler(tiny: Any) -> None:
    options = {"threshold": 0.5, "early_exit": False, "allow_mask": False}
    one = fill(tiny, texts(tiny), "credit", credit_alpha=0.0, **options)
    other = fill(tiny, texts(tiny), "threshold", **options)
    assert [f.tokens for f in one] == [f.tokens for f in other]
    with_credit = fill(tiny, texts(tiny), "credit", credit_alpha=3.0, **options)
    assert sum(f.forwards for f in with_credit) < sum(f.forwards for f in one)


def test_equal_blocks_are_the_threshold_sampler(tiny: Any) -> None:
    """AdaBlock without delimiters, and d3LLM's blocks one after the other, are known strategies."""
    options = {"early_exit": False}
    ours = fill(tiny, texts(tiny), "adablock", threshold=0.4, init_block_length=4,
                delimiter_threshold=2.0, **options)  # fmt: skip
    other = fill(tiny, texts(tiny), "threshold", threshold=0.4, block_length=4, **options)
    assert plain(ours) == plain(other)


def test_multi_block_fills_behind_the_end_of_the_text_at_once(tiny: Any) -> None:
    """Any token can play the end of the text: nothing else is written behind it."""
    canvas, options = texts(tiny)[0], given("multi_block")
    whole = fill(tiny, [canvas], **options)[0]
    end = whole.tokens[int(np.argmin(whole.step))]  # it is written first
    stopped = fill(tiny, [canvas], **options, early_stop=True, eos_token_id=end)[0]
    first = stopped.tokens.index(end)
    assert set(stopped.tokens[first:]) == {end} and stopped.forwards <= whole.forwards
    assert BLANK not in stopped.tokens


def test_frechet_equals_factor_for_equal_probabilities() -> None:
    """Corollary of the paper: with n equal probabilities 1 - e it writes n while (n + 1) e < 1."""
    cls = STRATEGIES.find("frechet")
    for e, most in ((0.11, 8), (0.21, 3), (0.051, 18)):
        view = fake_view(np.log(np.full(30, 1 - e)))
        assert cls(frechet_margin=0.0).commit(view).sum() == most
    uneven = fake_view(np.log(np.array([0.99, 0.98, 0.9, 0.3])))
    # 0.87 - 0.1 > 0.7, but 1.17 - 1 - 0.7 is not
    assert cls(frechet_margin=0.7).commit(uneven).tolist() == [True, True, True, False]
    assert cls(frechet_margin=0.9).commit(uneven).tolist() == [True, True, False, False]
    assert cls(frechet_margin=5.0).commit(uneven).tolist() == [True, False, False, False]


def fake_view(score: np.ndarray, position: np.ndarray | None = None) -> Any:
    at = np.arange(len(score)) if position is None else position
    yes, none = np.ones(len(score), dtype=bool), np.full(len(score), -np.inf)
    return StepState(0, 9, 0, 1, None, 0.0, at, at, yes, Noise("0" * 64), at, none, at, score, ())


def test_hierarchy_takes_the_best_of_each_run() -> None:
    cls = STRATEGIES.find("hierarchy")
    at = np.array([3, 4, 5, 8, 9, 12])
    view = fake_view(np.log(np.array([0.5, 0.7, 0.6, 0.3, 0.2, 0.45])), at)
    assert at[cls().commit(view)].tolist() == [4, 12]
    assert at[cls(low_threshold=0.0).commit(view)].tolist() == [4, 8, 12]
    assert at[cls(low_threshold=0.9).commit(view)].tolist() == [4]
    assert at[cls(low_threshold=0.9, threshold=0.55).commit(view)].tolist() == [4, 5]
    ties = fake_view(np.log(np.array([0.5, 0.5, 0.4, 0.3, 0.2, 0.45])), at)
    assert at[cls(low_threshold=0.48).commit(ties)].tolist() == [3, 4]


# -- the prior of PC-Sampler -----------------------------------------------------------------------


def test_pc_sampler_scores_as_its_formula_says() -> None:
    cls, at = STRATEGIES.find("pc_sampler"), np.array([7, 8, 11])
    p, token = np.array([0.5, 0.4, 0.9]), np.array([0, 9, 5])
    view = fake_view(np.log(p), at)
    view = view.with_candidates(token, np.log(p), ())
    frequency = np.array([0.4, 0.01, 0.05])  # token 9 is absent: 1 / 100
    score = np.exp(-0.25 * (at - 7)) * np.minimum(-p * np.log(frequency + 1e-9), 1.5)
    strategy = cls(prior=COUNTS, lambd=0.25, alpha=1.5)
    assert strategy.commit(view).tolist() == (score == score.max()).tolist()
    assert np.allclose(
        strategy.confidence(np.log(p), token), np.minimum(-p * np.log(frequency + 1e-9), 1.5)
    )


def test_a_prior_is_counted_and_its_digest_is_part_of_the_result(tiny: Any, tmp_path: Path) -> None:
    corpus = ["the cat sat", "the dog sat"]
    counted = count_tokens(tiny.encode, corpus)
    ids = [token for text in corpus for token in tiny.encode(text)]
    assert counted["num_token"] == len(ids)
    assert counted["p_baseline_dict"] == {
        str(token): ids.count(token) for token in sorted(set(ids))
    }
    path = tmp_path / "prior.json"
    path.write_text(json.dumps(counted))
    prior = read_prior(str(path))
    absent = next(token for token in range(999) if token not in ids)
    tokens = np.array([ids[0], absent, 10**6])
    assert np.allclose(prior.of(tokens), [ids.count(ids[0]) / len(ids), 1 / len(ids), 1 / len(ids)])
    one, two = (
        resolve({"strategy": "pc_sampler", "prior": file}).identity()["prior_sha256"]
        for file in (str(path), COUNTS)
    )
    assert len(one) == 64 and one != two
    with pytest.raises(UserError, match="no tokens to count"):
        count_tokens(tiny.encode, [])


def test_the_script_counts_files(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "a.txt").write_text("a b a")
    (tmp_path / "b.jsonl").write_text('{"body": "a b"}\n\n{"body": "b"}\n')
    out, folder = tmp_path / "prior.json", shared / "goldens" / "dream"
    command = [sys.executable, str(HERE.parent / "scripts" / "count_tokens.py")]
    words = ["--tokenizer", str(folder), "--key", "body", "--output", str(out)]
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]
    said = subprocess.run([*command, *words, *files], capture_output=True, text=True, check=True)
    model = load_model("dream", pretrained=str(folder), dtype="float32", device="cpu")
    ids = [token for text in ("a b a", "a b", "b") for token in model.encode(text)]
    found = json.loads(out.read_text())
    assert found == count_tokens(lambda text: ids, [""]) and str(len(ids)) in said.stdout
    assert read_prior(str(out)).total == len(ids)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "it has no p_baseline_dict"),
        ("{", "cannot be read"),
        ('{"num_token": 3, "p_baseline_dict": {"a": 1}}', "are not token ids"),
        ('{"num_token": 3, "p_baseline_dict": {}}', "are not token ids"),
        ('{"num_token": 3, "p_baseline_dict": {"1": 4}}', "whole numbers"),
        ('{"num_token": 3.5, "p_baseline_dict": {"1": 1}}', "whole numbers"),
        ('{"num_token": 3, "p_baseline_dict": {"1": 0}}', "whole numbers"),
        ('{"num_token": 3, "p_baseline_dict": {"99999999999": 1}}', "larger than any vocabulary"),
    ],
)
def test_a_file_that_is_no_prior_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as error:
        resolve({"strategy": "pc_sampler", "prior": str(path)})
    assert "\n" not in str(error.value)


# -- refusals --------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "adablock", "block_length": 4}, "block_length is not used by strategy 'adablock'"),
    ({"strategy": "multi_block", "steps": 4}, "decode steps is not used by strategy 'multi_block'"),
    ({"strategy": "multi_block", "steps_per_block": 4}, "steps_per_block is not used"),
    ({"strategy": "adablock", "cache": "dual"}, "has blocks of its own"),
    ({"strategy": "credit", "schedule": "even"}, "schedule is not used by strategy 'credit'"),
    ({"strategy": "hierarchy", "schedule": "even"}, "schedule is not used"),
    ({"strategy": "frechet"}, "needs frechet_margin=NUMBER"),
    ({"strategy": "pc_sampler"}, "needs prior=VALUE"),
    ({"strategy": "pc_sampler", "prior": "/nowhere/at/all"}, "prior '/nowhere/at/all' cannot be read"),
    ({"strategy": "klass", "unmask_strategy": "best"}, "unmask_strategy 'best' is not allowed"),
    ({"strategy": "klass", "kl_treshold": 1}, "did you mean 'kl_threshold'?"),
    ({"strategy": "multi_block", "convention": "sdar"}, "convention 'sdar' is not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "told"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_a_sampler_does_not_use_is_one_line(layer: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(layer)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_models_that_a_sampler_does_not_fit_are_refused(tmp_path: Path) -> None:
    class Blocks(Toy):
        block_length = 4  # type: ignore[assignment]

    class Uniform(Toy):
        process = "uniform"  # type: ignore[assignment]

    settings, canvas = ToySettings(vocab=6), Canvas.completion([1], 8)
    ask: list[tuple[Callable[[ToySettings], Toy], str, dict[str, Any], str]] = [
        (Blocks, "adablock", {}, "can only be decoded in its own blocks"),
        (Blocks, "multi_block", {}, "can only be decoded in its own blocks"),
        (Uniform, "klass", {}, "is not for models of process 'uniform'"),
    ]
    large = tmp_path / "large.json"
    large.write_text('{"num_token": 9, "p_baseline_dict": {"500": 9}}')
    ask.append((Toy, "pc_sampler", {"prior": str(large)}, "it must be of this model's tokenizer"))
    for make, name, options, told in ask:
        with pytest.raises(UserError, match=told) as error:
            fill(make(settings), [canvas], name, **options)
        assert "\n" not in str(error.value)


def test_klass_reads_its_own_block_of_a_block_causal_model() -> None:
    class Blocks(Toy):
        block_length = 4  # type: ignore[assignment]

    model = Blocks(ToySettings(vocab=6, inconsistency=0.7))
    options = {"conf_threshold": 0.3, "kl_threshold": 0.5, "early_exit": False}
    found = fill(model, [Canvas.completion([1], 11)], "klass", **options)[0]
    assert BLANK not in found.tokens and found.forwards <= 11
