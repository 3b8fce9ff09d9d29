"""Likelihoods through the harness: the traps of text against independent sums over mask patterns, whole texts, and what one forward serves.

Elsewhere: splitting a pair, BOS and what is cut (test_harness_requests.py); an empty or an overlong continuation, the mask token spelled in a
prompt (test_harness_run.py); a half-precision head (test_models_loading.py); -inf and NaN in every estimator (test_likelihood_invariance.py).
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import models_builders as build
import pytest
import torch
from harness_tasks import DOCUMENTS, write_tasks
from lm_eval.api.instance import Instance

from dlm_eval import evaluate
from dlm_eval.budget import make_engine
from dlm_eval.canvas import Canvas
from dlm_eval.errors import UserError
from dlm_eval.harness.canvas_jobs import Options
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.lm import DiffusionLM
from dlm_eval.likelihood import parse_estimator, score, windows
from dlm_eval.models import load_model
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.reports.board.leaderboard import leaderboard
from dlm_eval.workers import InProcess

Logits = Callable[[torch.Tensor], torch.Tensor]


def harness(model: Any, estimator: str = "exact", **options: Any) -> DiffusionLM:
    settings = Options(parse_estimator(estimator), DecodeOptions(), quiet=True, **options)
    return DiffusionLM(model, InProcess(make_engine(model, "auto")), settings)


def ask(
    lm: DiffusionLM, pairs: Sequence[tuple[str, str]], one_question: bool = False
) -> list[float]:
    doc = {"question": 1}
    requests = [
        Instance(
            "loglikelihood",
            doc if one_question else {"pair": i},
            pair,
            i if one_question else 0,
            ("t", 0 if one_question else i, 1),
        )
        for i, pair in enumerate(pairs)
    ]
    return [answer[0] for answer in lm.loglikelihood(requests)]


def elbo(logits: Logits, mask_id: int, context: list[int], target: list[int]) -> float:
    """The ELBO, written out: sum over sizes k of 1/k times the mean, over sets of k hidden tokens, of their summed log-probabilities."""
    n, places, total = len(target), range(len(context), len(context) + len(target)), 0.0
    for k in range(1, n + 1):
        sums = []
        for hidden in itertools.combinations(places, k):
            row = torch.tensor([[*context, *target]])
            row[0, list(hidden)] = mask_id
            logs = logits(row)[0].double().log_softmax(-1)
            sums.append(sum(float(logs[i, target[i - len(context)]]) for i in hidden))
        total += sum(sums) / len(sums) / k
    return total


@torch.no_grad()
def shifted(network: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of a network whose output at i - 1 is about token i; its first position has none, and nobody may read it."""
    raw = network(input_ids=tokens).logits
    return torch.cat([torch.full_like(raw[:, :1], torch.nan), raw[:, :-1]], 1)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_model("tiny")


# -- boundaries ------------------------------------------------------------------------------------


def test_every_split_of_a_text_scores_the_tokens_of_the_whole(tiny: Any) -> None:
    text = "Anna had a red hat."
    whole = tiny.encode(text)
    cuts = range(8, len(text) - 1)
    found = ask(harness(tiny), [(text[:cut], text[cut:]) for cut in cuts])
    inside = 0
    for cut, logprob in zip(cuts, found, strict=True):
        head = tiny.encode(text[:cut].rstrip())
        given = next(
            (i for i, (a, b) in enumerate(zip(head, whole, strict=False)) if a != b), len(head)
        )
        inside += given < len(head)
        assert logprob == pytest.approx(
            elbo(tiny.logits, tiny.mask_id, whole[:given], whole[given:]), abs=1e-3
        )
    assert inside  # some cuts went through a token


# -- empty contexts and models that read one position to the left ----------------------------------


def test_an_empty_context_of_a_shift_model_is_its_bos(tmp_path: Path) -> None:
    folder, network = build.diffugpt(tmp_path)
    model = load_model("diffugpt", pretrained=folder)
    ids = model.encode("a hat")
    (found,) = ask(harness(model), [("", "a hat")])
    assert found == pytest.approx(
        elbo(lambda t: shifted(network, t), model.mask_id, [266], ids), abs=1e-3
    )
    assert math.isfinite(found)


def test_an_empty_context_without_any_bos_is_one_line() -> None:
    toy = Toy(ToySettings())
    toy.needs_bos, toy.bos_id = True, None  # type: ignore[assignment]
    with pytest.raises(UserError, match="cannot predict position 0 and its tokenizer has no BOS"):
        ask(harness(toy), [("", "abc")])
    with pytest.raises(UserError, match="no BOS"):
        harness(toy).loglikelihood_rolling(
            [Instance("loglikelihood_rolling", {}, ("abc",), 0, ("t", 0, 1))]
        )


@pytest.mark.parametrize("estimator", ["diffullama", "fast_dllm_v2"])
def test_a_score_of_a_part_of_a_text_is_no_perplexity(estimator: str) -> None:
    """One is a mean per token, the other the log-probability of the first token."""
    text = Instance("loglikelihood_rolling", {}, ("abc",), 0, ("t", 0, 1))
    with pytest.raises(UserError, match=f"'{estimator}' gives no log-probability of a whole text"):
        harness(Toy(ToySettings()), estimator).loglikelihood_rolling([text])


def test_a_continuation_fits_beside_the_bos_or_is_an_error() -> None:
    toy = Toy(ToySettings(max_length=16))
    toy.needs_bos = True
    lm = harness(toy, "left_to_right")
    fits, beyond, with_context = ask(lm, [("", "a" * 15), ("", "a" * 16), ("bcd", "a" * 15)])
    assert math.isfinite(fits) and beyond == with_context == -math.inf
    assert "hole of 16 tokens does not fit the model's 16 positions" in str(lm.records[1].error)
    assert "15 open positions leave nothing of the prompt" in str(lm.records[2].error)


# -- the head --------------------------------------------------------------------------------------


def test_choices_that_tie_in_bf16_do_not_tie() -> None:
    """Log-probabilities of a bfloat16 model stand apart where bfloat16 logits would be equal: the head multiplies in float32."""
    model = load_model("tiny", dtype="bfloat16")
    context = model.encode("Anna had a")
    canvases = [
        Canvas.continuation(context, [token], key="q") for token in range(4, model.vocab_size)
    ]
    found = torch.tensor([s.logprob for s in score(model, canvases)], dtype=torch.float64)
    row = torch.tensor([[*context, model.mask_id]])
    with torch.no_grad():
        halved = model.head(model.backbone(input_ids=row, use_cache=False).last_hidden_state)[
            0, -1, 4:
        ]
    assert halved.dtype == torch.bfloat16
    assert len(halved.unique()) < 0.9 * len(found)  # the trap is there
    assert len(found.unique()) > 0.99 * len(found)


def test_rows_that_no_token_has_take_their_share(tmp_path: Path) -> None:
    """Three of 272 rows have no token. The softmax is over all rows, as in the authors' code; the mask's own row is one of them."""
    folder, network = build.llada(tmp_path)
    model = load_model("llada", pretrained=folder)
    assert len(model.tokenizer_info.tokenizer) < model.vocab_size == build.VOCAB
    (found,) = ask(harness(model), [("a red", " hat")])
    context, target = model.encode("a red"), model.encode(" hat")

    def logits(row: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.as_tensor(network(input_ids=row).logits)

    assert found == pytest.approx(elbo(logits, build.MASK_ID, context, target), abs=1e-3)


# -- the mask inside real text ---------------------------------------------------------------------


def test_a_mask_that_is_a_word_is_context_and_target_like_any_other(tmp_path: Path) -> None:
    """DiffuGPT-S and DiffuLLaMA mask with an ordinary word. Where the text has that word it is no hole: it is visible, or scored."""
    folder, network = build.diffugpt(tmp_path, mask="the")
    model = load_model("diffugpt", pretrained=folder)
    context, target = model.encode("in the hat"), model.encode(" on the")
    assert model.mask_id in context and model.mask_id in target
    lm = harness(model)
    (found,) = ask(lm, [("in the hat", " on the")])
    expected = elbo(
        lambda row: shifted(network, row), model.mask_id, [model.bos_id, *context], target
    )
    assert found == pytest.approx(expected, abs=1e-3)
    assert lm.records[0].tokens == len(target) and lm.records[0].error is None
    rolled = lm.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, ("the hat",), 0, ("t", 0, 1))]
    )
    text = model.encode("the hat")
    assert rolled[0] == pytest.approx(
        elbo(lambda row: shifted(network, row), model.mask_id, [model.bos_id], text), abs=1e-3
    )


# -- what a number is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator", ["auto", "exact", "chain", "left_to_right", "duel", "auto,max_forwards=4"]
)
def test_guidance_makes_a_score(estimator: str) -> None:
    kinds, forwards = [], []
    for settings in (estimator, f"{estimator},cfg_scale=0.5"):
        lm = harness(Toy(ToySettings(inconsistency=0.5)), settings)
        ask(lm, [("ab", "cab"), ("ab", "dad")])
        roll(lm, "abcde")
        kinds.append(
            [(record.score.kind, (record.score.lower, record.score.upper)) for record in lm.records]
        )
        forwards.append(sum(record.rows for record in lm.records))
    assert {kind for kind, _ in kinds[0]} <= {"exact", "lower bound"}
    assert kinds[1] == [("score", (None, None))] * 3
    assert forwards[1] == 2 * forwards[0]  # each row has an unconditional twin


def impossible(
    self: Toy, tokens: Any, valid: Any = None, positions: Any = None, plain: Any = Toy.logits
) -> Any:
    """Logits of a toy that never writes an f."""
    out = plain(self, tokens, valid, positions)
    out[..., 5] = -torch.inf
    return out


def test_minus_infinity_stays_and_its_files_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "logits", impossible)
    out = tmp_path / "out"
    options = {
        "include_path": str(write_tasks(tmp_path)),
        "bootstrap_iters": 10,
        "verbosity": "ERROR",
        "output_path": str(out),
    }
    results = evaluate("toy", ["t_choice", "t_last", "t_roll"], **options)
    for name in ("t_choice", "t_last", "t_roll"):
        for sample in results["samples"][name]:
            texts = [str(a[-1]) for a in sample["arguments"]]
            logs = [r[0] if isinstance(r, tuple) else r for r in sample["filtered_resps"]]
            assert [log == -math.inf for log in logs] == ["f" in text for text in texts]
            assert "error" not in sample and all(
                e == 0.0
                for e, log in zip(sample["logprob_stderr"], logs, strict=True)
                if log == -math.inf
            )
    assert results["results"]["t_roll"]["word_perplexity,none"] == math.inf
    (file,) = out.glob("toy/results_*.json")
    assert json.loads(file.read_text())["results"]["t_roll"]["word_perplexity,none"] == math.inf
    for lines in out.glob("toy/samples_*.jsonl"):
        assert [json.loads(line) for line in lines.read_text().splitlines()]
    board = leaderboard([out])
    assert board[board["metric"].str.startswith("word_perplexity")]["value"].tolist() == [math.inf]


def test_decided_questions_with_an_impossible_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "logits", impossible)
    lm = harness(Toy(ToySettings()), "auto,stop_at_error_rate=0.05")
    found = ask(lm, [("ab", "cab"), ("ab", "fad"), ("ab", "fab")], one_question=True)
    assert math.isfinite(found[0]) and found[1] == found[2] == -math.inf


def test_nan_is_an_error_that_names_its_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Toy.logits

    def poisoned(self: Toy, tokens: Any, valid: Any = None, positions: Any = None) -> Any:
        out = plain(self, tokens, valid, positions)
        if bool((tokens[:, :3] == torch.tensor([5, 0, 1])).all(1).any()):  # begins with "fab"
            out[:] = float("nan")
        return out

    monkeypatch.setattr(Toy, "logits", poisoned)
    options = {
        "include_path": str(write_tasks(tmp_path)),
        "bootstrap_iters": 0,
        "verbosity": "ERROR",
        "output_path": str(tmp_path / "out"),
    }
    results = evaluate("toy", ["t_choice", "t_last", "t_roll"], batch_size=1, **options)
    for name in ("t_choice", "t_last"):
        erred = {s["doc"]["text"]: s["error"] for s in results["samples"][name] if "error" in s}
        assert list(erred) == ["fab"] and "NaN" in erred["fab"]
        assert (
            results["dlm_eval"]["cost"][name]["errors"] == 1
            and results["n-samples"][name]["effective"] == len(DOCUMENTS) - 1
        )
        (lines,) = (tmp_path / "out").glob(f"toy/samples_{name}_*.jsonl")
        saved = [json.loads(line) for line in lines.read_text().splitlines()]
        assert [(s["doc_id"], s["doc"]["text"]) for s in saved if "error" in s] == [(2, "fab")]


# -- whole texts -----------------------------------------------------------------------------------


def roll(lm: DiffusionLM, text: str) -> float:
    (found,) = lm.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {"page": text}, (text,), 0, ("t", 0, 1))]
    )
    return found


@pytest.mark.parametrize("stride", [None, 1, 5])
def test_a_long_text_of_a_markov_chain_is_exact_in_windows_with_past(stride: int | None) -> None:
    """One token of past is all that a Markov chain can use, so any stride that leaves some gives the truth; without, each window begins anew."""
    toy = Toy(ToySettings(max_length=8, seed=4))
    text = "abcdefdcbafedbca" * 2 + "abcdfeca"
    lm = harness(toy, "left_to_right", stride=stride)
    ids = toy.encode(text)
    alone = [ids[i : i + 8] for i in range(0, 40, 8)] if stride is None else [ids]
    assert roll(lm, text) == pytest.approx(sum(map(toy.log_joint, alone)), abs=1e-4)
    (record,) = lm.records
    assert (record.tokens, record.rows, record.score.stderr, record.score.kind) == (
        40,
        40,
        0.0,
        "exact",
    )


def test_every_window_of_a_shift_model_begins_with_its_bos(tmp_path: Path) -> None:
    model = load_model("diffugpt", pretrained=build.diffugpt(tmp_path)[0], max_length=12)
    text = "the hat on the hill in the rain"
    ids = model.encode(text)
    canvases = windows([model.bos_id, *ids], 12, 4, given=1)
    assert (
        all(canvas.tokens[0] == model.bos_id and not canvas.open[0] for canvas in canvases)
        and len(canvases) > 2
    )
    parts = score(model, canvases, "left_to_right")
    lm = harness(model, "left_to_right", stride=4)
    assert roll(lm, text) == pytest.approx(sum(part.logprob for part in parts), abs=1e-4)
    assert lm.records[0].tokens == len(ids)


def test_the_error_of_a_long_text_is_that_of_its_windows() -> None:
    toy = Toy(ToySettings(max_length=16, inconsistency=0.7))
    text = "abcdefdcbafedbca" * 3
    spread = []
    for seed in range(24):
        lm = harness(toy, "mask_count,max_forwards=6", seed=seed)
        spread.append((roll(lm, text), lm.records[0].score.stderr))
    values = torch.tensor(spread, dtype=torch.float64)
    # The reported error is within a factor of 2 of the spread of 24 runs (sample standard deviation: a factor of 1.5 at alpha = 0.004).
    assert 0.5 < float(values[:, 1].mean() / values[:, 0].std()) < 2


def test_an_empty_text_is_an_error_of_its_sample() -> None:
    lm = harness(Toy(ToySettings()))
    assert roll(lm, "") == -math.inf
    assert "nothing to score" in str(lm.records[0].error)


def test_stock_wikitext_on_a_page_of_ours(tmp_path: Path, tiny: Any) -> None:
    """lm-eval's own task: its three numbers from our log-likelihood, and nats per token beside them."""
    folder = tmp_path / "EleutherAI" / "wikitext_document_level"
    folder.mkdir(parents=True)
    files = "".join(
        f"  - {{split: {split}, path: test.jsonl}}\n" for split in ("train", "validation", "test")
    )
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: wikitext-2-raw-v1\n  data_files:\n{files}---\n"
    )
    page = " = A hat = \n \n Anna had a red hat . She lost it @-@ and Ben 's dog found it . \n" * 2
    (folder / "test.jsonl").write_text(json.dumps({"page": page}) + "\n")
    stock = Path(lm_eval.__file__).parent / "tasks" / "wikitext" / "wikitext.yaml"
    options = {
        "data_dir": str(tmp_path),
        "estimator": "left_to_right",
        "model_args": {"max_length": 64},
        "stride": 32,
        "verbosity": "ERROR",
    }
    results = evaluate("tiny", str(stock), **options)
    (sample,) = results["samples"]["wikitext"]
    text = sample["arguments"][0][0]
    assert "@-@" not in text
    small = load_model("tiny", max_length=64)
    ids = small.encode(text)
    head = [small.bos_id] if small.needs_bos else []
    parts = score(small, windows([*head, *ids], 64, 32, given=len(head)), "left_to_right")
    logprob = sum(part.logprob for part in parts)
    scores = results["results"]["wikitext"]
    assert scores["word_perplexity,none"] == pytest.approx(
        math.exp(-logprob / len(re.split(r"\s+", page))), rel=1e-5
    )
    assert scores["byte_perplexity,none"] == pytest.approx(
        math.exp(-logprob / len(page.encode())), rel=1e-5
    )
    assert scores["bits_per_byte,none"] == pytest.approx(
        -logprob / len(page.encode()) / math.log(2), rel=1e-5
    )
    assert sample["tokens"] == len(ids)
    assert sample["nats_per_token"] == pytest.approx(-logprob / len(ids), rel=1e-5)
    assert results["dlm_eval"]["cost"]["wikitext"]["nats_per_token"] == sample["nats_per_token"]


# -- what one forward serves -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [
        "auto",
        "llada",
        "chain,permutations=4",
        "duel,policy=confidence",
        "auto,stop_at_error_rate=0.05",
    ],
)
def test_one_forward_serves_the_single_token_choices_of_a_question(estimator: str) -> None:
    lm = harness(Toy(ToySettings()), estimator)
    found = ask(lm, [("abcde", letter) for letter in "abcd"], one_question=True)
    assert len(set(found)) == 4
    assert lm.pool.cost().rows == 1


@pytest.mark.parametrize("length", range(1, 8))
def test_decide_on_choices_of_every_small_length(length: int) -> None:
    """Where the first round holds all mask patterns, it is exact and the last one (two tokens once divided by a variance of 0)."""
    pairs = [("ab", letter * length) for letter in "acd"]
    toy = Toy(ToySettings(inconsistency=0.5))
    decided = harness(toy, "auto,stop_at_error_rate=0.05")
    found, exact = ask(decided, pairs, one_question=True), ask(harness(toy), pairs)
    assert not any(record.error for record in decided.records)
    assert max(range(3), key=found.__getitem__) == max(range(3), key=exact.__getitem__)
    if length <= 5:
        assert found == pytest.approx(exact, abs=1e-5)
