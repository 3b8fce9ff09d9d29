"""Decoders that claim to write the tokens of the one-token decoder do, under equal random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_autoregressive import uneven

from dlm_eval import Canvas, UserError, decoding, load_model
from dlm_eval.canvas import BLANK
from dlm_eval.models.families.toy import Toy, ToySettings

CANVASES = 1000
FULL = pytest.mark.full
WHOLE = {"early_exit": False}


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = uneven(tmp_path_factory.mktemp("nemotron") / "uneven")
    return load_model("nemotron", pretrained=folder, attention="causal")


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy(ToySettings(vocab=6, inconsistency=0.9, seed=3))


def random_canvases(model: Any, count: int, longest: int) -> list[Canvas]:
    """Random tokens with holes anywhere, one or several."""
    rng = np.random.default_rng(18)
    usable = [t for t in range(model.vocab_size) if t != model.mask_id]
    canvases = []
    for number in range(count):
        length = int(rng.integers(2, longest + 1))
        is_open = rng.random(length) < rng.uniform(0.3, 1.0)
        is_open[0] = False
        is_open[-1] |= not is_open.any()
        tokens = np.where(is_open, BLANK, rng.choice(usable, length))
        canvases.append(Canvas(tuple(map(int, tokens)), tuple(map(bool, is_open)), str(number)))
    return canvases


def answers(model: Any, canvases: list[Canvas], **options: Any) -> list[Any]:
    """Tokens and their probabilities when written."""
    found = decoding.fill(model, canvases, **{**WHOLE, **options})
    return [
        (filling.tokens, np.nan_to_num(filling.confidence).round(4).tolist()) for filling in found
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("draft_steps", [4, *(pytest.param(n, marks=FULL) for n in (1, 2, 9))])
def test_freedave_on_a_thousand_canvases(toy: Toy, draft_steps: int, temperature: float) -> None:
    canvases = random_canvases(toy, CANVASES, 10)
    plain = answers(toy, canvases, strategy="confidence", temperature=temperature)
    draft = answers(
        toy, canvases, strategy="freedave", draft_steps=draft_steps, temperature=temperature
    )
    unequal = [number for number in range(CANVASES) if plain[number] != draft[number]]
    assert not unequal, f"{len(unequal)} canvases, the first is {canvases[unequal[0]]}"


@pytest.mark.parametrize(
    "options",
    [
        {"block_length": 5},
        {"guidance": 1.5},
        {"logits_eos_inf": True, "temperature": 0.7, "top_k": 5},
        {"confidence_eos_eot_inf": True},
        {"early_exit": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
def test_freedave_on_networks(shared: Path, family: str, options: dict[str, Any]) -> None:
    blocks = {"block_length": 4} if family == "sdar" else {}
    folder = str(shared / "goldens" / family)
    model = load_model(family, pretrained=folder, dtype="float32", device="cpu", **blocks)
    if blocks and {"block_length", "guidance"} & set(options):
        pytest.skip("its blocks are its own, and its rows under guidance run whole")
    canvases = random_canvases(model, 20, 20)
    if "block_length" in options:  # a schedule needs blocks of equal length
        canvases = [Canvas.completion(canvas.tokens[:1], 10) for canvas in canvases]
    # SDAR's schedule counts given tokens of a block, so that it writes several open ones at once.
    one = {"threshold": 1.0, "strategy": "threshold"} if blocks else {"strategy": "confidence"}
    plain = answers(model, canvases, **one, **options)
    assert plain == answers(model, canvases, strategy="freedave", draft_steps=3, **options)


def test_rounds_and_rows_are_counted(toy: Toy) -> None:
    """One draft that is right halves the rounds; rows are those of all drafts."""
    sure = Toy(ToySettings(vocab=6, inconsistency=0.0, seed=3))
    canvas = Canvas.completion([1, 2], 8)
    (plain,) = decoding.fill(sure, [canvas], "confidence", **WHOLE)
    (draft,) = decoding.fill(sure, [canvas], "freedave", draft_steps=4, **WHOLE)
    assert plain.forwards == plain.steps == 8 and draft.tokens == plain.tokens
    assert draft.steps < 8 < draft.forwards <= 1 + 4 * draft.steps
    most = decoding.resolve({"strategy": "freedave", "draft_steps": 4})
    assert draft.forwards <= most.strategy.most_forwards(sure, canvas, most)
    (one,) = decoding.fill(sure, [canvas], "freedave", draft_steps=1, **WHOLE)
    assert (one.tokens, one.forwards, one.steps) == (plain.tokens, 8, 8)


def test_an_approximate_cache_is_refused() -> None:
    with pytest.raises(UserError, match="'freedave' .*leave cache 'prefix' out"):
        decoding.resolve({"strategy": "freedave", "cache": "prefix"})


# -- self-speculation of autoregressive models -----------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "block_n", "gen_block_size": 3},
        {"strategy": "linear_spec", "draft_length": 4},
        pytest.param({"strategy": "block_n", "gen_block_size": 8}, marks=FULL),
        pytest.param({"strategy": "linear_spec", "draft_length": 16}, marks=FULL),
        pytest.param({"strategy": "linear_spec", "threshold": 0.3}, marks=FULL),
    ],
    ids=str,
)
def test_self_speculation_on_a_thousand_canvases(
    nemotron: Any, options: dict[str, Any], temperature: float
) -> None:
    canvases = random_canvases(nemotron, CANVASES, 10)
    if options["strategy"] == "linear_spec":  # for a hole at the end of a text
        canvases = [
            Canvas.completion(canvas.tokens[: canvas.open.index(True)], sum(canvas.open), str(i))
            for i, canvas in enumerate(canvases)
        ]
    plain = answers(nemotron, canvases, strategy="left_to_right", temperature=temperature)
    draft = answers(nemotron, canvases, temperature=temperature, **options)
    unequal = [number for number in range(CANVASES) if plain[number] != draft[number]]
    assert not unequal, f"{len(unequal)} canvases, the first is {canvases[unequal[0]]}"


def test_guesses_that_are_not_verified_change_tokens(nemotron: Any) -> None:
    """The first unequal canvas is printed in docs/reference/decoding-samplers.md."""
    canvases = random_canvases(nemotron, CANVASES, 10)
    plain = answers(nemotron, canvases, strategy="left_to_right")
    unseen = answers(nemotron, canvases, strategy="block_n", gen_block_size=3, verify_num_specs=1)
    unequal = [number for number in range(CANVASES) if plain[number][0] != unseen[number][0]]
    assert (len(unequal), unequal[0]) == (92, 13)
    assert canvases[13].tokens[:6] == (136, 85, BLANK, BLANK, BLANK, 206)
    assert [one[13][0] for one in (plain, unseen)] == [
        (124, 43, 40, 43, 43, 42),
        (124, 43, 40, 40, 2, 25),
    ]


@pytest.mark.parametrize(
    "options",
    [{"guidance": 1.5}, {"temperature": 0.7, "top_k": 5, "top_p": 0.9}, {"logits_eos_inf": True}],
    ids=str,
)
@pytest.mark.parametrize("strategy", ["block_n", "linear_spec"])
def test_self_speculation_under_other_settings(
    nemotron: Any, strategy: str, options: dict[str, Any]
) -> None:
    canvases = [Canvas.completion([266, token], 12, str(token)) for token in range(30, 50)]
    plain = answers(nemotron, canvases, strategy="left_to_right", **options)
    assert plain == answers(nemotron, canvases, strategy=strategy, **options)


def test_rounds_of_self_speculation_are_counted(nemotron: Any) -> None:
    """Fewer rounds than tokens; a round of `linear_spec` is two rows, the first one is one."""
    canvas = Canvas.completion([266, 35, 36], 40)
    (plain,) = decoding.fill(nemotron, [canvas], "left_to_right", **WHOLE)
    (block,) = decoding.fill(nemotron, [canvas], "block_n", **WHOLE)
    (linear,) = decoding.fill(nemotron, [canvas], "linear_spec", draft_length=4, **WHOLE)
    assert plain.tokens == block.tokens == linear.tokens and plain.forwards == 40
    assert block.steps < 40 and block.forwards == block.steps + 1
    assert linear.steps < 40 and linear.forwards == 2 * linear.steps - 1


def test_the_authors_rule_at_a_temperature_is_not_the_models_distribution() -> None:
    """Why `block_n` has another: a most probable guess, accepted with min(1, p / q), else (p - q)+."""
    p, q = np.array([0.5, 0.5]), np.array([0.6, 0.4])
    guess = int(q.argmax())
    accept = min(1.0, p[guess] / q[guess])
    rest = np.clip(p - q, 0, None)
    theirs = accept * np.eye(2)[guess] + (1 - accept) * rest / rest.sum()
    assert theirs[0] == pytest.approx(5 / 6) and p[0] == 0.5
    # with a guess that is drawn from q, the rule does give p
    drawn = sum(
        q[x] * (min(1, p[x] / q[x]) * np.eye(2)[x] + (1 - min(1, p[x] / q[x])) * rest / rest.sum())
        for x in range(2)
    )
    assert drawn == pytest.approx(p)


# -- SDLM's self-speculative decoding --------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("many", [4, *(pytest.param(n, marks=FULL) for n in (1, 2, 9))])
def test_self_speculative_on_a_thousand_canvases(toy: Toy, many: int, temperature: float) -> None:
    canvases = random_canvases(toy, CANVASES, 10)
    options = {"n_future_tokens": many, "temperature": temperature}
    plain = answers(toy, canvases, strategy="longest_prefix", only_first_token_keep=True, **options)
    guessed = answers(toy, canvases, strategy="self_speculative", **options)
    unequal = [number for number in range(CANVASES) if plain[number] != guessed[number]]
    assert not unequal, f"{len(unequal)} canvases, the first is {canvases[unequal[0]]}"


@pytest.mark.parametrize("many", [None, pytest.param(8, marks=FULL)])
@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=FULL), 0.7])
def test_self_speculative_on_a_thousand_texts_of_sdlm(
    shared: Path, many: int | None, temperature: float
) -> None:
    folder = shared / "goldens/families-2026/sdlm"
    if not folder.is_dir():
        pytest.skip("no recordings of SDLM")
    own = {"tokenizer": shared / "goldens/llada", "mask_id": 313, "dtype": "float32"}
    model = load_model("sdlm", pretrained=folder, **own)
    rng = np.random.default_rng(24)
    canvases = [
        Canvas.completion(
            rng.integers(0, 298, rng.integers(1, 12)).tolist(), int(rng.integers(1, 13))
        )
        for _ in range(CANVASES)
    ]
    options = {"n_future_tokens": many, "temperature": temperature}
    first = {"strategy": "longest_prefix", "only_first_token_keep": True}
    plain = decoding.fill(model, canvases, **first, **options, **WHOLE)
    guessed = decoding.fill(model, canvases, "self_speculative", **options, **WHOLE)
    unequal = [
        number
        for number, (one, other) in enumerate(zip(plain, guessed, strict=True))
        if one.tokens != other.tokens
        or not np.allclose(one.confidence, other.confidence, rtol=1e-4, atol=1e-6)
    ]
    assert not unequal, f"{len(unequal)} canvases, the first is {canvases[unequal[0]]}"
