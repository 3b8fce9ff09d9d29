"""Every entry of every packaged suite: it loads strictly, its metric knows right from wrong, its prompt is the recorded one, and it fits a model of 2048 positions.

Real documents come from ../shared/data, others are ours (tests/suite_data). Facts about entries that
the rules below do not fit are in tests/suite_truth/SUITE.yaml:

    ENTRY:
      gold: "#### {{answer}}"    what a perfect model writes (Jinja over the document; default: the task's target)
      wrong: "no"                a wrong answer
      wrong_below: 0.05          of the maximum: the score of a wrong answer is below it (default 0.5)
      maximum: 1.0               of the metric (default: 100 / scale)
      texts: [{text: "...", value: 0.5}, ...]    in place of gold and wrong: answers with known values; a list of
          texts is one for each of several answers, of which the last is repeated
      metadata: {infill: ...}    settings of the task with which it fits a model whose tokens are shorter than real ones
      exception: "why none of these can be said"
    checkpoint: {model: diffusionllm}    of the suite, if it needs another model than a LLaDA (suite_checkpoints.py)
    decode: {steps: 2}                   of the suite with such a model, to be quick
    estimator: "mask_count,max_forwards=2"    of the suite, to be quick, or if a LLaDA has no such scores
    positions: 8192                      of the LLaDA (default 2048): a real LLaDA's 4096 hold as much text
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from suite_answers import NAME
from suite_checkpoints import BUILDERS, POSITIONS, llada

from dlm_eval import evaluate
from dlm_eval.decoding.presets import preset_settings
from dlm_eval.errors import UserError
from dlm_eval.harness.dry_run import dry_run
from dlm_eval.harness.suite_check import problems
from dlm_eval.harness.suite_run import effective, plan_suite
from dlm_eval.harness.suites import Entry, Suite, suites

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from suite_prompts import STAND_IN, documents_for, load_entry, prompts_of, shared_data  # noqa: E402

TRUTH = ROOT / "tests" / "suite_truth"
DOCUMENTS, LEAVES = 3, 3  # of each entry: documents of a task, tasks of a group


def cases() -> list[Any]:
    """Every entry; all but one of each suite are marked full."""
    return [
        pytest.param(
            suite, entry, id=f"{suite.suite}-{entry.entry}",
            marks=[] if suite.suite == "demo" or entry is quick(suite) else [pytest.mark.full],
        )
        for suite in suites().values()
        for entry in suite.entries
    ]  # fmt: skip


def quick(suite: Suite) -> Entry:
    """The suite's first entry that is not MMLU, whose 57 tasks take a minute to load and run."""
    return next(entry for entry in suite.entries if not entry.entry.startswith("mmlu"))


every_entry = pytest.mark.parametrize(("suite", "entry"), cases())


@cache
def truth(suite: str) -> dict[str, Any]:
    path = TRUTH / f"{suite}.yaml"
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def facts(suite: Suite, entry: Entry) -> dict[str, Any]:
    return dict(truth(suite.suite).get(entry.entry) or {})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


@contextmanager
def available(entry: Entry) -> Iterator[None]:
    """Skips if this machine lacks the entry's documents, or the extra that its tasks need."""
    if entry.data == "hub":
        pytest.skip("its documents are only on the hub")
    if entry.data == "real" and not shared_data().is_dir() and not entry.task.startswith("demo"):
        pytest.skip("no shared data")
    try:
        yield
    except UserError as error:
        if entry.extra and f"dlm_eval[{entry.extra}]" in str(error):
            pytest.skip(str(error))
        raise


def loaded(entry: Entry, places: Path) -> dict[str, Any]:
    """The entry's tasks; skips as `available`."""
    with available(entry):
        return load_entry(entry, documents_for(entry, places))


def leaves(tasks: dict[str, Any]) -> dict[str, Any]:
    return dict(list(tasks["tasks"].items())[:LEAVES])


# -- (a) -------------------------------------------------------------------------------------------


@every_entry
def test_it_loads_strictly_and_its_prompts_are_the_recorded_ones(
    suite: Suite, entry: Entry, places: Path
) -> None:
    tasks = loaded(entry, places)
    assert not list(problems(entry, tasks))
    recorded = json.loads((TRUTH / "prompts.json").read_text())
    assert recorded[suite.suite][entry.entry] == prompts_of(entry, tasks)


@pytest.mark.parametrize("suite", suites().values(), ids=lambda suite: suite.suite)
def test_a_packaged_suite_cites_its_sources(suite: Suite) -> None:
    assert suite.about and suite.source and suite.models
    recorded = json.loads((TRUTH / "prompts.json").read_text())[suite.suite]
    for entry in suite.entries:
        assert entry.data == "hub" or entry.entry in recorded, "run scripts/suite_prompts.py"
        assert entry.data is not None and entry.sources, entry.entry
        assert not entry.published or "published" in entry.sources, entry.entry
        assert not (entry.conditions.decode and "decode" not in entry.sources), entry.entry
        assert set(entry.published) <= set(suite.models), entry.entry
    others = {"checkpoint", "decode", "estimator", "positions"}
    unknown = set(truth(suite.suite)) - {e.entry for e in suite.entries} - others
    assert not unknown


# -- (b), (c): right and wrong ---------------------------------------------------------------------


@every_entry
def test_gold_is_the_maximum_and_a_wrong_answer_is_not(
    suite: Suite, entry: Entry, places: Path, tmp_path: Path
) -> None:
    known = facts(suite, entry)
    if "exception" in known:
        pytest.skip(known["exception"])
    for task in leaves(loaded(entry, places)).values():
        if task.OUTPUT_TYPE == "generate_until":
            check_written(entry, task, known, tmp_path)
        elif task.OUTPUT_TYPE == "loglikelihood_rolling":
            check_rolled(entry, task)
        else:
            check_chosen(entry, task, tmp_path)


def check_written(entry: Entry, task: Any, known: dict[str, Any], folder: Path) -> None:
    if "texts" in known:
        for one in known["texts"]:
            assert of_texts(entry, task, one["text"], folder) == pytest.approx(one["value"])
        return
    most = known.get("maximum", 100 / entry.scale)
    assert of_texts(entry, task, known.get("gold"), folder) == pytest.approx(most, rel=1e-6)
    wrong = of_texts(entry, task, known.get("wrong", "qqq zzz"), folder)
    assert wrong < known.get("wrong_below", 0.5) * most


def of_texts(entry: Entry, task: Any, written: str | list[str] | None, folder: Path) -> float:
    """The entry's metric if the model writes these templates (None: the target) for each document."""
    from lm_eval.utils import apply_template

    count = entry.conditions.repeats or task.config.repeats
    templates = written if isinstance(written, list) else [written]
    templates = [*templates, *[templates[-1]] * (count - len(templates))]
    file = folder / "answers.jsonl"
    rows = []
    for number, doc in zip(range(DOCUMENTS), task.eval_docs, strict=False):
        texts = [target_of(task, doc) if t is None else apply_template(t, doc) for t in templates]
        rows.append({"doc_id": number, "resps": [str(text) for text in texts]})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = evaluate(
        "recorded", [task], model_args={"answers": str(file)}, limit=DOCUMENTS, bootstrap_iters=0,
        repeats=entry.conditions.repeats, confirm_run_unsafe_code=entry.code, verbosity="ERROR",
    )  # fmt: skip
    return value_of(entry, results)


def target_of(task: Any, doc: Any) -> Any:
    target = task.doc_to_target(doc)
    if task.config.doc_to_choice is not None and isinstance(target, int):
        return task.doc_to_choice(doc)[target]
    return target[0] if isinstance(target, (list, tuple)) else target


def value_of(entry: Entry, results: dict[str, Any]) -> float:
    assert not [s["error"] for own in results["samples"].values() for s in own if "error" in s]
    (scores,) = results["results"].values()
    keys = [
        key for key in scores if "," in key and "_stderr" not in key
        and entry.metric in (None, key.partition(",")[0]) and entry.filter in (None, key.partition(",")[2])
    ]  # fmt: skip
    return float(scores[keys[0]])


def check_chosen(entry: Entry, task: Any, folder: Path) -> None:
    """A model that prefers the right choice has the maximum; one that prefers the next has 0."""
    asked = evaluate(NAME, [task], limit=DOCUMENTS, num_fewshot=entry.conditions.num_fewshot, bootstrap_iters=0, verbosity="ERROR")  # fmt: skip
    (samples,) = asked["samples"].values()
    questions = {sample["doc_id"]: sample for sample in samples}.values()
    found = []
    for step in (0, 1):
        pairs = []
        for sample in questions:
            requests = [tuple(arguments[:2]) for arguments in sample["arguments"]]
            right = right_choice(task, sample["doc"], len(requests))
            if len(requests) > 1:
                pairs.append(requests[(right + step) % len(requests)])
            elif step == 0:
                pairs.append(requests[0])
        file = folder / "preferred.json"
        file.write_text(json.dumps(pairs))
        results = evaluate(
            NAME, [task], model_args={"answers": str(file)}, limit=DOCUMENTS, bootstrap_iters=0,
            num_fewshot=entry.conditions.num_fewshot, verbosity="ERROR",
        )  # fmt: skip
        found.append(value_of(entry, results))
    assert found == pytest.approx([100 / entry.scale, 0.0], abs=1e-6)


def right_choice(task: Any, doc: Any, count: int) -> int:
    """The number of the right choice, by the task's own fields."""
    if count == 1:
        return 0
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, (list, tuple)):
        gold = gold[0]
    if isinstance(gold, int):
        return gold
    return list(task.doc_to_choice(doc)).index(gold)


def check_rolled(entry: Entry, task: Any) -> None:
    """Perplexities of texts of 200 nats each, or of blocks of tokens of 200 nats each."""
    results = evaluate(NAME, [task], limit=DOCUMENTS, bootstrap_iters=0, verbosity="ERROR")
    if entry.metric == "token_perplexity":
        assert value_of(entry, results) == pytest.approx(math.exp(200), rel=1e-6)
        return
    texts = [str(task.doc_to_target(doc)) for doc, _ in zip(task.eval_docs, range(DOCUMENTS))]  # noqa: B905
    if entry.metric == "bits_per_character":
        bits = 200 / math.log(2) * len(texts) / sum(map(len, texts))
        assert value_of(entry, results) == pytest.approx(bits)
        return
    units = {"word_perplexity": sum(len(t.split()) for t in texts), "byte_perplexity": sum(len(t.encode()) for t in texts)}  # fmt: skip
    assert value_of(entry, results) == pytest.approx(
        math.exp(200 * len(texts) / units[str(entry.metric)]), rel=0.05
    )


# -- (d) -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Writes a LLaDA of random weights with a chat template and so many positions."""

    @cache
    def written(positions: int) -> Path:
        return llada(tmp_path_factory.mktemp("checkpoint"), positions)

    return written


SHORT = {"gen_length": 16, "steps": 4, "block_length": 16}


@every_entry
def test_it_runs_and_fits_2048_positions(
    suite: Suite, entry: Entry, places: Path, checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    own = truth(suite.suite).get("checkpoint")
    model = own["model"] if own else "llada"
    positions = truth(suite.suite).get("positions", POSITIONS)
    weights = BUILDERS[model](tmp_path / "model") if own else checkpoint(positions)
    arguments = {"pretrained": str(weights)}
    common = {
        "suite": suite, "tasks": entry.entry, "model": model, "model_args": arguments, "limit": 2,
        "data_dir": str(documents_for(entry, places)), "confirm_run_unsafe_code": True, "verbosity": "ERROR",
        "metadata": {**STAND_IN, **facts(suite, entry).get("metadata", {})},
    }  # fmt: skip
    if "estimator" in truth(suite.suite):
        common["estimator"] = truth(suite.suite)["estimator"]
    if "decode" in truth(suite.suite):
        common["decode"] = truth(suite.suite)["decode"]
    (whole,) = plan_suite({**common, "dry_run": True}).runs
    with available(entry):
        plan = dry_run(whole.settings)
    for task in plan.tasks:
        assert not task.refused and not task.truncated, (task.name, task.reasons)
    # at full length a CPU would take hours
    decode = effective(entry, model, {}).get("decode") or {}
    short = SHORT if "preset" in decode or "gen_length" in decode else {"gen_length": 16}
    if "steps_per_block" in (
        preset_settings(decode["preset"]) if "preset" in decode else {}
    ):  # it excludes `steps`
        short = {"gen_length": 16, "steps_per_block": 4}
    fixed = not own and not entry.task.startswith("demo")
    found = evaluate(**{**common, "decode": short} if fixed and entry.conditions.decode is not None else common)  # fmt: skip
    assert not found["entries"][entry.entry]["reason"]
    for results in found["runs"]:
        for name, cost in results["dlm_eval"]["cost"].items():
            assert name == "total" or (cost["errors"] == 0 and cost["truncated"] == 0), name
