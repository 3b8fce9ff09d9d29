"""Votes over steps: texts and winners are those of the authors' code, of a loop in plain words and of enumeration."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_tasks import write_tasks
from recorded_decoders import loaded
from scipy import stats
from strategy_options import NEEDED

from dlm_eval import Canvas, UserError, evaluate, fill, load_model
from dlm_eval.answers import decode_answer, encode_answer
from dlm_eval.canvas import BLANK, Filling
from dlm_eval.cli import main
from dlm_eval.decoding import STRATEGIES, TraceStep, resolve
from dlm_eval.decoding.checkpoints import State
from dlm_eval.decoding.step_texts import StepTexts, unpacked
from dlm_eval.decoding.step_votes import StepWeight, heaviest, parse_weights
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError
from dlm_eval.jobs import Answer, Checkpoint, FillJob, drive_jobs
from dlm_eval.metrics import d1
from dlm_eval.models import packaged_asset
from dlm_eval.models.families.toy import Toy, ToySettings

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "midtruth.json").read_text())
TOY = {"vocab": 6, "inconsistency": 0.5}
CLASSES = {name: cls for name, cls in STRATEGIES.listed().items() if not isinstance(cls, str)}
VOTING = [
    name
    for name, cls in CLASSES.items()
    if "absorbing" in cls.processes
    and (cls(**NEEDED.get(name, {})).why_no_step_texts) is None
]  # fmt: skip


def step_texts_of(filling: Filling) -> list[tuple[int, ...]]:
    return unpacked(filling.step_texts, len(filling.tokens))


# -- against the authors' code ---------------------------------------------------------------------


def recorded_answer(tokens: Any, place: int) -> int | None:
    """Returns the answer that the recording reads: a number of the token at `place`, or none."""
    token = tokens[place]
    return None if token % 4 == 0 else token % 5


def test_texts_and_winners_equal_the_authors(shared: Path) -> None:
    model, moved = loaded(shared / "goldens" / "llada"), 0
    for case in GOLDEN["cases"]:
        canvas = [Canvas.completion(case["prompt"], case["gen_length"])]
        (found,) = fill(
            model, canvas, "confidence", case["steps"], case["block_length"], step_texts=True,
            guidance=case["cfg_scale"], logits_temp=1 / GOLDEN["logits_scale"],
        )  # fmt: skip
        assert list(found.tokens) == case["tokens"], case
        assert list(found.step_texts) == case["step_texts"]
        assert found.forwards == case["forwards"] * (2 if case["cfg_scale"] else 1)
        answers = [recorded_answer(text, case["place"]) for text in step_texts_of(found)]
        for rule in ("fixed", "linear", "exp"):
            assert heaviest(answers, StepWeight(rule, case["alpha"])) == case["votes"][rule]
        moved += case["votes"]["fixed"] != recorded_answer(case["tokens"], case["place"])
    assert moved >= 5


# -- against a loop in plain words -----------------------------------------------------------------


@pytest.mark.parametrize("name", VOTING)
def test_the_text_of_a_step_has_the_best_token_of_every_open_position(name: str) -> None:
    """At temperature 0, of every strategy that can keep the texts; and its tokens do not change."""
    model = load_model("toy", **TOY)
    canvas = Canvas.infill([1, 2], 8, [3])
    options: dict[str, Any] = {**NEEDED.get(name, {}), "early_exit": False, "seed": 4}
    if CLASSES[name].takes_block_length and not CLASSES[name].owns_blocks:
        options["block_length"] = 4
    (plain,) = fill(model, [canvas], name, **options)
    steps: list[TraceStep] = []
    (found,) = fill(
        model, [canvas], name, step_texts=True, trace=lambda _, s: steps.append(s), **options
    )
    assert replace(found, step_texts=(), seconds=0.0) == replace(plain, seconds=0.0)
    texts = step_texts_of(found)
    before = {
        0: TraceStep(
            -1, (1, 2, *[model.mask_id] * 8, 3), (False, False, *[True] * 8, False), (), ()
        )
    }
    before |= {step.step + 1: step for step in steps}
    read = 0
    seen = before[0]
    for number, text in enumerate(texts):
        seen = before.get(number, seen)
        best = model.logits(torch.tensor([seen.tokens]))[0].argmax(-1).tolist()
        wanted = [b if o else t for b, o, t in zip(best, seen.open, seen.tokens, strict=True)]
        wrote = number + 1 in before  # and so it has read
        same = texts[number - 1] if number else (BLANK,) * 8
        assert text == tuple(wanted[2:-1]) or (text == same and not wrote), (name, number)
        read += wrote
    assert read >= 2
    assert texts[-1] == found.tokens or BLANK in found.tokens


def test_the_vote_has_its_exact_distribution() -> None:
    """Three tokens from left to right at temperature 1; the answer is the last one.

    Its three candidates are drawn given 0, 1 and 2 tokens, so the winner's distribution is a sum
    over all texts. alpha = 1e-4, chi-square on 4000 texts for each weight; the seed is fixed.
    """
    model, count, vocab = Toy(ToySettings(vocab=3)), 4000, 4
    canvases = [Canvas.completion([1], 3, key=str(i)) for i in range(count)]
    fillings = fill(
        model, canvases, "left_to_right", temperature=1.0, step_texts=True, allow_mask=False,
        engine=Engine(model, batch_rows=512),
    )  # fmt: skip
    mask = model.mask_id

    def given(*tokens: int) -> torch.Tensor:
        row = torch.tensor([[1, *tokens, *[mask] * (3 - len(tokens))]])
        logits = model.logits(row)[0, 1:].double()
        logits[:, mask] = -torch.inf
        return logits.softmax(-1)

    weights = [StepWeight("fixed"), StepWeight("linear"), StepWeight("exp", 5.0)]
    shape = model.vocab_size, model.vocab_size  # the first token and the winner
    exact = {weight.label: np.zeros(shape) for weight in weights}
    start = given()
    some = [i for i in range(model.vocab_size) if i != mask]
    for x0, x1 in itertools.product(some, some):
        one, two = given(x0), given(x0, x1)
        path = float(start[0, x0] * one[1, x1])
        for answers in itertools.product(some, repeat=3):
            p = path * float(start[2, answers[0]] * one[2, answers[1]] * two[2, answers[2]])
            for weight in weights:
                exact[weight.label][x0, heaviest(answers, weight)] += p
    for weight in weights:
        seen = np.zeros(shape)
        for one in fillings:
            seen[one.tokens[0], heaviest([text[2] for text in step_texts_of(one)], weight)] += 1
        expected = exact[weight.label] * count
        possible = expected > 1e-9
        assert expected.sum() == pytest.approx(count) and not seen[~possible].any()
        assert possible.sum() == vocab**2 and expected[possible].min() > 5
        assert stats.chisquare(seen[possible], expected[possible]).pvalue > 1e-4, weight
    assert np.abs(exact["fixed"] - exact["exp5"]).max() > 0.01


# -- independence ----------------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, Any]] = {
    "blocks": {"steps": 12, "block_length": 6},
    "random": {"strategy": "random", "temperature": 0.8, "steps": 24, "block_length": 12},
    "ddpm": {"strategy": "ddpm", "temperature": 1.0, "steps": 12, "block_length": 12},
    "remask": {"strategy": "remask", "steps": 24, "temperature": 0.9, "eta": 0.1},
    "guided": {"guidance": 1.0, "steps": 8, "temperature": 0.5},
    "threshold": {"strategy": "threshold", "threshold": 0.3},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_batch_order_and_interruption_change_no_text(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model("toy", **TOY)
    settings = resolve({"step_texts": True, **SETTINGS[name]})
    jobs = [
        FillJob(Canvas.infill([i, 1], 24, [2] * (i % 3), str(i)), settings, 3) for i in range(4)
    ]

    def run(some: list[FillJob], rows: int, states: list[State] | None = None) -> list[Filling]:
        found: dict[int, Any] = {}
        monkeypatch.setenv("DLM_EVAL_CHECKPOINT_SECONDS", "inf" if states is None else "0")
        drive_jobs(
            Engine(model, batch_rows=rows), list(enumerate(some)),
            lambda number, answer: found.update({number: answer.value}),
            lambda _, checkpoint: None if states is None else states.append(checkpoint.state),
        )  # fmt: skip
        return [replace(found[number], seconds=0.0) for number in range(len(some))]

    whole = run(jobs, 64)
    assert all(one.step_texts for one in whole)
    assert [run([job], 1)[0] for job in jobs] == whole
    assert run(jobs[::-1], 3)[::-1] == whole
    states: list[State] = []
    run(jobs[:1], 1, states)
    assert len(states) > 2
    for state in (states[1], states[len(states) // 2], states[-1]):
        again = State.of(json.loads(json.dumps(vars(state))))
        assert run([replace(jobs[0], begun=Checkpoint(again, 0.0))], 1) == whole[:1]
    # of another program: with too few texts it is begun anew, which costs nothing but time
    cut = replace(states[-1], step_texts=states[-1].step_texts[:-1])
    lost = replace(states[-1], step_texts=())
    for odd in (cut, lost):
        assert run([replace(jobs[0], begun=Checkpoint(odd, 0.0))], 1) == whole[:1]


def test_a_journal_has_the_texts_and_no_word_of_them_if_they_are_off() -> None:
    model = load_model("toy", **TOY)
    canvas = [Canvas.completion([1, 2], 8)]
    (found,) = fill(model, canvas, step_texts=True)
    (plain,) = fill(model, canvas, early_exit=False)
    stored = encode_answer(Answer(found, None, 8, 0.0))
    again = decode_answer(json.loads(json.dumps(stored))).value
    assert (
        isinstance(again, Filling)
        and again.step_texts == found.step_texts
        and len(found.step_texts)
    )
    assert "step_texts" not in encode_answer(Answer(plain, None, 8, 0.0))["value"]
    assert "step_texts" not in resolve({"early_exit": False}).identity()
    assert resolve({"step_texts": True}).identity()["step_texts"] is True


def test_texts_are_packed_as_changes() -> None:
    kept = StepTexts(3)
    kept.end_step(np.array([9, 9, 9]), np.array([True] * 3))  # nothing is read yet
    kept.read(np.array([0, 2]), np.array([5, 7]))
    kept.end_step(np.array([9, 9, 9]), np.array([True] * 3))
    kept.end_step(np.array([5, 4, 9]), np.array([False, False, True]))
    assert list(kept.packed) == [0, 2, 0, 5, 2, 7, 1, 1, 4]
    texts = [(BLANK,) * 3, (5, BLANK, 7), (5, 4, 7)]
    assert unpacked(kept.packed, 3) == texts
    for odd in ((1,), (1, 3, 5), (-1,), (2, 0, 5), (1, -1, 5)):
        with pytest.raises(ValueError, match="the text of a step"):
            unpacked(odd, 3)


def test_too_many_texts_are_an_error_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlm_eval.decoding.step_texts.MOST", 20)
    with pytest.raises(SampleError, match="take more than 20 numbers; use fewer steps"):
        fill(load_model("toy", **TOY), [Canvas.completion([1, 2], 8)], step_texts=True)


# -- the vote --------------------------------------------------------------------------------------


def test_weights_and_ties_by_hand() -> None:
    answers = ["a", None, "b", "a", "b"]  # of equals the first
    assert heaviest(answers, StepWeight("fixed")) == "a"
    assert heaviest(answers, StepWeight("linear")) == "b"  # 0.2 + 0.8 against 0.6 + 1
    assert heaviest(answers, StepWeight("exp", 5.0)) == "b"
    assert heaviest(["a", "a", "a", "b"], StepWeight("exp", 1.0)) == "a"
    assert heaviest(["a", "a", "a", "b"], StepWeight("exp", 11.0)) == "b"
    assert heaviest([None, None], StepWeight("fixed")) is None
    assert heaviest([], StepWeight("fixed")) is None
    assert StepWeight("exp", 5.0)(2, 4) == pytest.approx(np.exp(2.5))
    labels = [weight.label for weight in parse_weights("fixed, linear,exp=5,exp=0.5")]
    assert labels == ["fixed", "linear", "exp5", "exp0.5"]


NUMBERS = """
task: t_numbers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{word}}}}"
generation_kwargs: {{until: ["e"], max_gen_toks: 8, do_sample: false}}
filter_list:
  - name: letter
    filter: [{{function: regex, regex_pattern: 'a([bcd])'}}, {{function: take_first}}]
  - name: text
    filter: [{{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
VOTE = "fixed,linear,exp=5"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    rows = [
        {"text": text, "word": word}
        for text in ("abc", "bad", "cab", "dab", "fed", "ace")
        for word in "bc"
    ]
    (folder / "numbers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "numbers.yaml").write_text(NUMBERS.format(data=folder / "numbers.jsonl"))
    plain = NUMBERS.format(data=folder / "numbers.jsonl").split("filter_list")[0]
    (folder / "texts.yaml").write_text(
        plain.replace("t_numbers", "t_texts")
        + "metric_list: [{metric: bleu, aggregation: bleu, higher_is_better: true}]\n"
    )
    return folder


def run(tasks: Path, **settings: Any) -> dict[str, Any]:
    base = {
        "model_args": TOY, "include_path": str(tasks), "bootstrap_iters": 2, "verbosity": "ERROR",
        "vote": VOTE, "decode": {"temperature": 1.5},
    }  # fmt: skip
    return evaluate("toy", ["t_numbers"], **{**base, **settings})


def test_a_run_scores_the_winners_and_the_final_text(tasks: Path) -> None:
    """By hand from the decoder's own texts, with both filters; the final text's metric is as ever."""
    results = run(tasks)
    plain = run(tasks, vote=None, decode={"temperature": 1.5, "early_exit": False})
    scores, before = results["results"]["t_numbers"], plain["results"]["t_numbers"]
    model = load_model("toy", **TOY)
    assert {key: scores[key] for key in before} == before
    assert results["dlm_eval"]["cost"]["t_numbers"]["forwards"] == plain["dlm_eval"]["cost"]["t_numbers"]["forwards"]  # fmt: skip
    differs = 0
    for sample in results["samples"]["t_numbers"]:
        assert sample["vote"].keys() == {"fixed", "linear", "exp5"}
        assert "exact_match_vote@fixed" in sample["metrics"]
        for label, answer in sample["vote"].items():
            shown = sample["filtered_resps"][0] if answer is None else answer
            assert sample[f"exact_match_vote@{label}"] == float(shown == sample["doc"]["word"])
            differs += answer not in (None, sample["filtered_resps"][0])
            assert answer != "[invalid]"
    assert differs >= 3 and model.vocab_size == 9
    for label in ("fixed", "linear", "exp5"):
        for name in ("letter", "text"):
            own = [s for s in results["samples"]["t_numbers"] if s["filter"] == name]
            mean = sum(s[f"exact_match_vote@{label}"] for s in own) / len(own)
            assert scores[f"exact_match_vote@{label},{name}"] == pytest.approx(mean)
    assert results["higher_is_better"]["t_numbers"]["exact_match_vote@linear"] is True
    assert results["dlm_eval"]["settings"]["vote"] == VOTE
    one, other = (r["dlm_eval"]["tasks"]["t_numbers"] for r in (results, run(tasks, vote="fixed")))
    assert one["scoring"] != other["scoring"] and one["configuration"] == other["configuration"]


def test_votes_are_those_of_the_decoders_texts(tasks: Path, tmp_path: Path) -> None:
    """From the tokens in the journal, through the model's texts and a regular expression of ours."""
    import re

    from dlm_eval.journal import StoredJournal

    results = run(tasks, output_path=str(tmp_path))
    (path,) = tmp_path.rglob("journal.sqlite")
    model, votes = load_model("toy", **TOY), set()
    for row in StoredJournal(path).export():
        filling = decode_answer(row["answer"]).value
        assert isinstance(filling, Filling)
        texts = []
        for tokens in step_texts_of(filling):
            stop = next(
                (i for i, t in enumerate(tokens) if t in (*model.eos_ids, BLANK)), len(tokens)
            )
            texts.append(model.decode(tokens[:stop]).split("e")[0])
        answers = [found[0] if (found := re.findall("a([bcd])", text)) else None for text in texts]
        votes.add(tuple(heaviest(answers, weight) for weight in parse_weights(VOTE)))
    logged = {
        tuple(s["vote"].values())
        for s in results["samples"]["t_numbers"]
        if s["filter"] == "letter"
    }
    assert logged == votes and len(votes) >= 3


def test_a_scorer_sees_a_text_like_any_other(tasks: Path) -> None:
    """It has every method of a text (`find` was once taken), also in the vote."""
    (tasks / "scorer.py").write_text(
        "def share(doc, results):\n    return {'share': results[0].find(doc['word']) + 0.0}\n"
    )
    text = NUMBERS.format(data=tasks / "numbers.jsonl").split("metric_list")[0]
    (tasks / "scorer.yaml").write_text(
        text.replace("t_numbers", "t_scorer")
        + "process_results: !function scorer.share\n"
        + "metric_list: [{metric: share, aggregation: mean, higher_is_better: true}]\n"
    )
    results = evaluate(
        "toy", ["t_scorer"], model_args=TOY, include_path=str(tasks), vote="fixed", verbosity="ERROR",
        bootstrap_iters=2,
    )  # fmt: skip
    for sample in results["samples"]["t_scorer"]:
        shown, word = sample["filtered_resps"][0], sample["doc"]["word"]
        assert sample["share"] == str(shown).find(word)
        assert sample["share_vote@fixed"] == (sample["vote"]["fixed"] or str(shown)).find(word)


FILTERS = """from lm_eval.api.filter import Filter

class Each(Filter):
    def apply(self, resps, docs):
        return [[self.of(text) for text in answers] for answers in resps]

class First(Each):
    def of(self, text):
        return text.split("e")[0][0]  # fails on an empty text

class Count(Each):
    def of(self, text):
        return text.count("b")

class All(Each):
    def of(self, text):
        return list(text)

def score(doc, results):
    return {"right": float(str(results[0]) > "2")}
"""


@pytest.mark.parametrize("kind", ["First", "Count", "All"])
def test_filters_that_fail_on_a_step_or_return_no_text(tasks: Path, kind: str) -> None:
    """A step on which they fail has no vote; the final metric is that of the run without votes."""
    own = write_own(tasks, f"t_{kind}", kind)
    results, plain = (own_task(tasks, own, vote) for vote in ("fixed", None))
    for sample, before in zip(results["samples"][own], plain["samples"][own], strict=True):
        assert ("error" in sample) == ("error" in before)
        assert sample["filtered_resps"] == before["filtered_resps"]
        if "error" in sample:  # the final text is empty
            assert kind == "First"
            continue
        assert sample["right"] == before["right"]
        won = sample["vote"]["fixed"]
        assert won is None or type(won) is {"First": str, "Count": int, "All": list}[kind]
        shown = before["filtered_resps"][0] if won is None else won
        assert sample["right_vote@fixed"] == float(str(shown) > "2")
    scores = results["results"][own]
    assert {key: scores[key] for key in plain["results"][own]} == plain["results"][own]
    assert any(s.get("vote", {}).get("fixed") is not None for s in results["samples"][own])


def write_own(tasks: Path, name: str, filter_class: str) -> str:
    """Writes a task with a filter and a scoring function of its own; returns its name."""
    (tasks / "filters.py").write_text(FILTERS)
    text = NUMBERS.format(data=tasks / "numbers.jsonl").split("filter_list")[0]
    filters = f"{{function: !function filters.{filter_class}}}, {{function: take_first}}"
    (tasks / f"{name}.yaml").write_text(
        text.replace("t_numbers", name)
        + f"filter_list: [{{name: own, filter: [{filters}]}}]\n"
        + "process_results: !function filters.score\n"
        + "metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]\n"
    )
    return name


def own_task(tasks: Path, name: str, vote: str | None) -> dict[str, Any]:
    return evaluate(
        "toy", [name], model_args=TOY, include_path=str(tasks), vote=vote, verbosity="ERROR",
        bootstrap_iters=2, decode={"temperature": 1.5, "early_exit": False},
    )  # fmt: skip


def test_other_weights_score_the_same_answers_again(tasks: Path, tmp_path: Path) -> None:
    first = run(tasks, output_path=str(tmp_path), vote="exp=5")
    again = run(tasks, output_path=str(tmp_path), vote="exp=5,linear", score_only=True)
    fresh = run(tasks, vote="exp=5,linear")
    assert again["results"]["t_numbers"] == fresh["results"]["t_numbers"]
    key = "exact_match_vote@exp5,letter"
    assert first["results"]["t_numbers"][key] == again["results"]["t_numbers"][key]


def test_shards_and_workers_vote_alike(tasks: Path, tmp_path: Path) -> None:
    words = ["--model", "toy", "--model_args", "vocab=6,inconsistency=0.5", "--tasks", "t_numbers"]
    words += ["--include_path", str(tasks), "--vote", VOTE, "--decode", "temperature=1.5"]
    for number in (1, 2):
        part = [*words, "--shard", f"{number}/2", "--output_path", str(tmp_path / "parts")]
        assert main(part) == 0
    assert main(["merge", str(tmp_path / "parts"), "--include_path", str(tasks), "-o", str(tmp_path / "all")]) == 0  # fmt: skip
    (file,) = (tmp_path / "all").rglob("results_*.json")
    merged = json.loads(file.read_text())["results"]["t_numbers"]
    whole = run(tasks)["results"]["t_numbers"]
    votes = {key: value for key, value in whole.items() if "_vote@" in key and "stderr" not in key}
    assert len(votes) == 6 and {key: merged[key] for key in votes} == votes
    workers = run(tasks, devices="cpu:2")["results"]["t_numbers"]
    assert {key: workers[key] for key in votes} == votes


# -- tasks that find the answer in their scoring, and mistakes -------------------------------------


def test_answers_of_d1_are_found_as_they_are_scored() -> None:
    from dlm_eval.metrics.answers import FINDERS

    number, boxed, sums = (
        FINDERS[f] for f in (d1.gsm8k_results, d1.math_results, d1.countdown_results)
    )
    assert number(r"so \boxed{12 apples}") == 12.0 == number("<answer>x 12</answer>")
    assert number("nothing") is None
    assert boxed(r"\boxed{\frac12}") == r"\frac12" and boxed("no box") == "no box"
    assert sums(r"\boxed{3*(4+1)=15}") == "3*(4+1)" and sums("no sum") is None
    doc = {"ground_truth": 12.0}
    for text in (r"so \boxed{12 apples}", "<answer>x 12</answer>", "nothing"):
        assert d1.gsm8k_results(doc, [text])["exact_match"] == float(number(text) == 12.0)


def test_a_d1_task_votes_over_its_numbers(tasks: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    rows = [{"question": f"{i} and {i}?", "ground_truth": 2.0 * i} for i in range(3)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = evaluate(
        "tiny", ["gsm8k_d1"], metadata={"answers": str(answers)}, vote="fixed,exp=11",
        decode={"gen_length": 16, "block_length": 8, "steps": 8}, verbosity="ERROR", bootstrap_iters=2,
    )  # fmt: skip
    assert results["results"]["gsm8k_d1"]["exact_match_vote@exp11,none"] == 0.0
    assert [s["vote"] for s in results["samples"]["gsm8k_d1"]] == [
        {"fixed": None, "exp11": None}
    ] * 3


@pytest.mark.parametrize(
    ("names", "settings", "words"),
    [
        (["t_numbers"], {"vote": "exp"}, "--vote 'exp' is not allowed; exp needs its alpha"),
        (["t_numbers"], {"vote": "exp=0"}, "a number above 0"),
        (["t_numbers"], {"vote": "linear=2"}, "only exp takes a number"),
        (["t_numbers"], {"vote": "fixd"}, "--vote 'fixd' is not known; did you mean 'fixed'"),
        (["t_numbers"], {"vote": "fixed,fixed"}, "has fixed twice"),
        (["t_numbers"], {"repeats": 4}, "--vote and --repeats exclude each other"),
        (["t_choice"], {}, "task 't_choice': it asks for likelihoods"),
        (["t_roll"], {}, "task 't_roll': it asks for likelihoods"),
        (["t_texts"], {}, "task 't_texts': it has no filter that finds an answer"),
        (["demo_story_infill"], {}, "its own scoring function does not say what the answer is"),
        (["demo_code_infill"], {"confirm_run_unsafe_code": True}, "are programs"),
        (["t_numbers"], {"decode": {"strategy": "credit"}}, "strategy 'credit': what it keeps"),
        (["t_numbers"], {"decode": {"strategy": "wino"}}, "strategy 'wino': its steps run rows"),
        (["t_numbers"], {"decode": {"cache": "dual"}}, "and cache 'dual' exclude each other"),
        (["t_numbers"], {"decode": {"early_exit": True}}, "and early_exit exclude each other"),
        (["t_numbers"], {"model_args": {"process": "uniform"}}, "strategy 'rewrite'"),
    ],
)
def test_mistakes_are_one_line(
    tasks: Path, names: list[str], settings: dict[str, Any], words: str
) -> None:
    base = {"include_path": str(tasks), "vote": "fixed", "verbosity": "ERROR"}
    with pytest.raises(UserError) as found:
        evaluate("toy", names, **{**base, **settings})
    assert words in str(found.value) and "\n" not in str(found.value)


def test_models_without_steps_are_refused(tasks: Path) -> None:
    with pytest.raises(UserError, match="--vote means nothing to --model 'hf'"):
        evaluate("hf", ["t_numbers"], include_path=str(tasks), vote="fixed")
    block = load_model(
        "generic", pretrained=str(packaged_asset("tiny")), dtype="float32", device="cpu",
        attention="block", block_length=8, probe=False,
    )  # fmt: skip
    with pytest.raises(UserError, match="without full attention, later blocks have no candidates"):
        fill(block, [Canvas.completion([1, 2], 8)], step_texts=True)
    gaussian = load_model("toy", process="uniform")
    with pytest.raises(UserError, match="step_texts .--vote. is not possible with strategy"):
        fill(gaussian, [Canvas.completion([1, 2], 8)], step_texts=True)
