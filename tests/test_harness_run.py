"""A run from the command line to the files: results, costs, invariances, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import DOCUMENTS, write_tasks

import dlm_eval
from dlm_eval import evaluate
from dlm_eval.errors import UserError

NAMES = ["t_choice", "t_last", "t_write", "t_roll", "t_infill"]
TOY = {"vocab": 6, "inconsistency": 0.5}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def run(tasks: Path, names: Any = "t_all", **settings: Any) -> dict[str, Any]:
    settings = {
        "model_args": TOY,
        "include_path": str(tasks),
        "bootstrap_iters": 10,
        "verbosity": "ERROR",
        **settings,
    }
    return evaluate("toy", names, **settings)


def answers(results: dict[str, Any], count: int | None = None) -> dict[str, list[Any]]:
    """What was answered, sample by sample, log-probabilities to nine digits (their last bits depend on the batch)."""

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return round(value, 9) if isinstance(value, float) else value

    return {
        name: [plain(sample["resps"]) for sample in samples[:count]]
        for name, samples in results["samples"].items()
    }


@pytest.fixture(scope="module")
def reference(tasks: Path) -> dict[str, Any]:
    return run(tasks)


def test_every_request_type_is_answered_and_costed(reference: dict[str, Any]) -> None:
    block = reference["dlm_eval"]
    assert {name for name in block["cost"] if name != "total"} == set(NAMES)
    for name in NAMES:
        cost = block["cost"][name]
        assert (
            cost["samples"] == len(DOCUMENTS)
            and cost["errors"] == 0
            and cost["forwards"] > 0
            and cost["tokens"] > 0
        )
        for sample in reference["samples"][name]:
            assert sample["forwards"] > 0 and sample["seconds"] > 0
    assert sum(block["cost"][n]["forwards"] for n in NAMES) == sum(
        s["forwards"] for n in NAMES for s in reference["samples"][n]
    )
    # short choices are exact
    assert all(e == 0.0 for s in reference["samples"]["t_choice"] for e in s["logprob_stderr"])


def test_the_device_ran_no_more_rows_than_were_asked_for(reference: dict[str, Any]) -> None:
    cost = reference["dlm_eval"]["cost"]
    assert cost["total"]["device_rows"] <= sum(cost[name]["rows"] for name in NAMES)


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": "auto"}])
def test_answers_do_not_depend_on_the_batch(
    tasks: Path, reference: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert answers(run(tasks, **settings)) == answers(reference)


def test_answers_do_not_depend_on_limit_samples_or_order(
    tasks: Path, reference: dict[str, Any]
) -> None:
    assert answers(run(tasks, limit=2)) == answers(reference, 2)
    assert answers(run(tasks, list(reversed(NAMES)))) == answers(reference)
    picked = run(tasks, "t_write", samples={"t_write": [3, 1]})
    assert [s["doc_id"] for s in picked["samples"]["t_write"]] == [1, 3]
    whole = answers(reference)["t_write"]
    assert answers(picked)["t_write"] == [whole[1], whole[3]]


def test_answers_depend_on_the_seed_when_they_are_sampled(tasks: Path) -> None:
    one, same, other = (
        run(tasks, "t_write", decode={"temperature": 1.0}, seed=s) for s in (1, 1, 2)
    )
    assert answers(one) == answers(same) != answers(other)


def test_files_are_lm_evals_with_our_block(tasks: Path, tmp_path: Path) -> None:
    results = run(tasks, limit=2, output_path=str(tmp_path))
    (file,) = tmp_path.glob("toy/results_*.json")
    saved = json.loads(file.read_text())
    assert saved["results"] == json.loads(json.dumps(results["results"]))
    assert saved["dlm_eval"]["fingerprint"] == results["dlm_eval"]["fingerprint"]
    assert {
        "config",
        "configs",
        "versions",
        "n-shot",
        "n-samples",
        "task_hashes",
        "model_name",
    } <= saved.keys()
    for name in NAMES:
        (lines,) = tmp_path.glob(f"toy/samples_{name}_*.jsonl")
        samples = [json.loads(line) for line in lines.read_text().splitlines()]
        assert (
            len(samples) == 2
            and {"doc", "resps", "forwards", "rows", "tokens", "seconds"} <= samples[0].keys()
        )
    assert not list(tmp_path.glob(".saving-*"))


def test_a_second_run_computes_nothing(tasks: Path, tmp_path: Path) -> None:
    first = run(tasks, output_path=str(tmp_path))
    second = run(tasks, output_path=str(tmp_path))
    assert first["dlm_eval"]["cost"]["total"]["device_rows"] > 0
    assert second["dlm_eval"]["cost"]["total"]["device_rows"] == 0
    assert first["results"] == second["results"]
    fresh = run(tasks, output_path=str(tmp_path), resume=False)
    assert fresh["dlm_eval"]["cost"]["total"]["device_rows"] > 0
    changed = run(tasks, "t_write", output_path=str(tmp_path), decode={"strategy": "left_to_right"})
    assert changed["dlm_eval"]["cost"]["total"]["device_rows"] > 0


def test_our_models_are_known_to_lm_eval_itself(tasks: Path, reference: dict[str, Any]) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    for arguments in ("vocab=6,inconsistency=0.5", {**TOY, "batch_size": 2}):
        out = lm_eval.simple_evaluate(
            "toy", arguments, tasks=["t_choice", "t_write"], task_manager=manager, bootstrap_iters=0
        )
        own = {name: answers(reference)[name] for name in ("t_choice", "t_write")}
        assert answers(out) == own
    from lm_eval.api.registry import model_registry

    assert "hf" in model_registry and "llada" in model_registry  # ours do not hide lm-eval's


def test_one_bad_sample_is_an_error_and_the_rest_goes_on(tmp_path: Path) -> None:
    documents = [*DOCUMENTS[:2], {**DOCUMENTS[2], "word": "a" * 600}, *DOCUMENTS[3:]]
    results = run(write_tasks(tmp_path, documents), ["t_last", "t_infill"])
    for name in ("t_last", "t_infill"):
        erred = [s for s in results["samples"][name] if "error" in s]
        assert len(erred) == 1 and "does not fit the model's 512 positions" in erred[0]["error"]
        assert results["dlm_eval"]["cost"][name]["errors"] == 1
        assert results["n-samples"][name]["effective"] == len(DOCUMENTS) - 1


def test_a_scorer_that_raises_costs_one_sample(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    yaml = (folder / "t_write.yaml").read_text()
    (folder / "t_write.yaml").write_text(yaml + "process_results: !function scorer.score\n")
    (folder / "scorer.py").write_text(
        "def score(doc, results):\n    if doc['text'] == 'fab':\n        raise KeyError('oops')\n    return {'exact_match': 1.0}\n"
    )
    results = run(folder, "t_write")
    assert [s.get("error") for s in results["samples"]["t_write"]].count(None) == len(DOCUMENTS) - 1
    assert results["results"]["t_write"]["exact_match,none"] == 1.0


def test_a_nan_from_the_model_is_an_error_of_its_sample(
    tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlm_eval.models.families.toy import Toy

    original = Toy.logits

    def poisoned(self: Toy, tokens: Any, valid: Any = None, positions: Any = None) -> Any:
        out = original(self, tokens, valid, positions)
        if bool((tokens == 5).any()):  # an 'f', which some documents have and some have not
            out[:] = float("nan")
        return out

    monkeypatch.setattr(Toy, "logits", poisoned)
    results = run(tasks, "t_write", batch_size=1, decode={"strategy": "left_to_right"})
    errors = {s["doc"]["text"]: s.get("error") for s in results["samples"]["t_write"]}
    assert "NaN" in errors["fab"] and errors["abcab"] is None


def test_the_version_is_in_the_results(reference: dict[str, Any]) -> None:
    assert reference["dlm_eval"]["version"] == dlm_eval.__version__


def test_unknown_settings_of_evaluate_are_refused(tasks: Path) -> None:
    with pytest.raises(UserError, match="limitt.*limit"):
        run(tasks, limitt=3)


def test_a_prompt_with_the_mask_tokens_text_is_an_error_not_a_hole(tmp_path: Path) -> None:
    documents = [
        {**DOCUMENTS[0], "text": "Anna had a <|mask|> hat."},
        {**DOCUMENTS[1], "text": "Anna had a red hat."},
    ]
    folder = write_tasks(tmp_path, documents)
    results = evaluate(
        "tiny",
        ["t_write", "t_choice"],
        include_path=str(folder),
        verbosity="ERROR",
        bootstrap_iters=0,
    )
    for name in ("t_write", "t_choice"):
        first, second = results["samples"][name]
        assert "mask token" in first["error"] and "error" not in second


def test_an_empty_continuation_is_an_error_and_an_empty_context_is_not() -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    lm = get_model("toy").create_from_arg_obj(TOY)
    pairs = [("abc", ""), ("", "abc"), ("", ""), ("abc", "d")]
    requests = [
        Instance("loglikelihood", {"pair": i}, pair, 0, ("t", i, 1)) for i, pair in enumerate(pairs)
    ]
    answers = lm.loglikelihood(requests)
    assert [record.error is None for record in lm.records] == [False, True, False, True]
    assert "empty" in lm.records[0].error and answers[0] == (float("-inf"), False)
    assert -30 < answers[1][0] < 0 and -30 < answers[3][0] < 0


def test_what_is_cut_is_counted(tmp_path: Path) -> None:
    documents = [DOCUMENTS[0], {**DOCUMENTS[1], "text": "abc" * 300}]
    results = run(write_tasks(tmp_path, documents), ["t_write", "t_last"])
    for name in ("t_write", "t_last"):
        assert [bool(s["truncated"]) for s in results["samples"][name]] == [False, True]
        assert results["dlm_eval"]["cost"][name]["truncated"] == 1
    strict = run(write_tasks(tmp_path, documents), "t_write", overlong="error")
    assert "do not fit" in strict["samples"]["t_write"][1]["error"]


def test_decide_is_for_the_questions_of_a_run_alone(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    both = run(
        folder, "t_choice,t_last", estimator="cubature,max_forwards=16,stop_at_error_rate=0.05"
    )
    assert not any("error" in line for lines in both["samples"].values() for line in lines)
    assert (
        answers(both)["t_last"]
        == answers(run(folder, "t_last", estimator="cubature,max_forwards=16"))["t_last"]
    )
    with pytest.raises(
        UserError,
        match=r"stop_at_error_rate is for multiple choice scored by acc, .*, and none of t_last is",
    ):
        run(folder, "t_last", estimator="cubature,max_forwards=16,stop_at_error_rate=0.05")


def test_decide_gives_the_same_answers_for_fewer_forwards(tmp_path: Path) -> None:
    long = [
        {**d, "choices": [" abcabcabcabc", " fedfedfedfed", " aabbccddeeff"]} for d in DOCUMENTS
    ]
    folder = write_tasks(tmp_path, long)
    full = run(folder, "t_choice", estimator="auto,max_forwards=64")
    decided = run(folder, "t_choice", estimator="auto,max_forwards=64,stop_at_error_rate=0.01")
    best = [
        [max(range(3), key=lambda i: s["filtered_resps"][i][0]) for s in r["samples"]["t_choice"]]
        for r in (full, decided)
    ]
    assert best[0] == best[1]
    cost = decided["dlm_eval"]["cost"]["t_choice"]
    assert (
        cost["forwards"]
        < full["dlm_eval"]["cost"]["t_choice"]["forwards"]
        <= cost["budget_forwards"]
        == 64 * 3 * len(long)
    )
    assert sum(s["forwards"] for s in decided["samples"]["t_choice"]) == cost["forwards"]
    assert all(s["logprob_kind"][0] == "lower bound" for s in decided["samples"]["t_choice"])


def test_questions_whose_scores_need_values_are_not_cut_short(tmp_path: Path) -> None:
    long = [
        {**d, "choices": [" abcabcabcabc", " fedfedfedfed", " aabbccddeeff"]} for d in DOCUMENTS
    ]
    folder = write_tasks(tmp_path, long)
    task = folder / "t_choice.yaml"
    task.write_text(
        task.read_text().replace("metric: acc,", "metric: brier_score,").replace("true}", "false}")
    )
    full = run(folder, "t_choice", estimator="auto,max_forwards=64")
    assert answers(
        run(folder, "t_choice", estimator="auto,max_forwards=64,precision=1e-9")
    ) == answers(full)
    loose = run(folder, "t_choice", estimator="auto,max_forwards=64,precision=0.5")["dlm_eval"][
        "cost"
    ]["t_choice"]
    assert 8 * 3 * len(long) <= loose["forwards"] < full["dlm_eval"]["cost"]["t_choice"]["forwards"]
    with pytest.raises(UserError, match="and none of t_choice is"):
        run(folder, "t_choice", estimator="auto,max_forwards=64,stop_at_error_rate=0.01")


def test_precision_settles_questions_and_ends_single_texts(tmp_path: Path) -> None:
    long = [
        {**d, "choices": [" abcabcabcabc", " fedfedfedfed", " aabbccddeeff"]} for d in DOCUMENTS
    ]
    folder = write_tasks(tmp_path, long)
    both = run(folder, "t_choice,t_roll", estimator="auto,max_forwards=64,precision=0.2")
    decided = run(folder, "t_choice", estimator="auto,max_forwards=64,stop_at_error_rate=0.05")
    assert answers(both)["t_choice"] == answers(decided)["t_choice"]
    alone = run(folder, "t_roll", estimator="auto,max_forwards=64,precision=0.2")
    assert answers(both)["t_roll"] == answers(alone)["t_roll"]
    few = run(folder, "t_choice,t_roll", estimator="auto,max_forwards=64,precision=0.2", limit=2)
    for task in ("t_choice", "t_roll"):  # of other documents the answers never depend
        assert answers(few)[task] == answers(both)[task][:2]


def test_long_texts_are_scored_in_windows(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path, [{**DOCUMENTS[0], "text": "abcdef" * 20}])
    options = {"model_args": {**TOY, "max_length": 32}, "estimator": "left_to_right"}
    whole, strided = run(folder, "t_roll", **options), run(folder, "t_roll", **options, stride=8)
    assert (
        whole["samples"]["t_roll"][0]["tokens"] == strided["samples"]["t_roll"][0]["tokens"] == 120
    )
    assert whole["results"]["t_roll"] != strided["results"]["t_roll"]
    with pytest.raises(UserError, match="stride '99'"):
        run(folder, "t_roll", **options, stride=99)


def test_costs_belong_to_their_documents_under_samples(tmp_path: Path) -> None:
    """lm-eval numbers requests among the chosen documents and logged samples among all."""
    options = {
        "include_path": str(write_tasks(tmp_path)),
        "verbosity": "ERROR",
        "bootstrap_iters": 0,
    }
    estimator = {"estimator": "pseudo"}  # a row per token
    whole = evaluate("toy", ["t_last"], **options, **estimator)["samples"]["t_last"]
    some = evaluate("toy", ["t_last"], samples={"t_last": [3, 1, 1]}, **options, **estimator)[
        "samples"
    ]["t_last"]
    assert [sample["doc_id"] for sample in some] == [1, 3]
    for sample in some:
        same = whole[sample["doc_id"]]
        assert [sample[key] for key in ("doc", "rows", "tokens")] == [
            same[key] for key in ("doc", "rows", "tokens")
        ]
