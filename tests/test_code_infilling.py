"""HumanEval infilling: what the model is asked, what is run, and what counts; on problems of ours and on the real ones."""

from __future__ import annotations

import itertools
import json

import pytest
from lm_eval import evaluator
from lm_eval.api.model import LM

from dlm_eval import sandbox
from dlm_eval.errors import SampleError
from dlm_eval.harness.requests import Length
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.metrics import code

SETS = {
    "single_line": ("HumanEval-SingleLineInfilling", 1033),
    "multi_line": ("HumanEval-MultiLineInfilling", 5815),
    "random_span": ("HumanEval-RandomSpanInfilling", 1640),
    "random_span_light": ("HumanEval-RandomSpanInfillingLight", 164),
}
CARD = "---\nconfigs:\n{}---\n".format(
    "".join(
        f'- config_name: "{config}"\n  data_files:\n  - split: test\n    path: {config}/test.jsonl\n'
        for config, _ in SETS.values()
    )
)
PROBLEMS = [
    {
        "task_id": "ours/double",
        "entry_point": "double",
        "prompt": "def double(x):\n",
        "canonical_solution": "    y = x + x\n",
        "suffix": "    return y\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate('a') == 'aa'\n",
    },
    {
        "task_id": "ours/vowels",
        "entry_point": "vowels",
        "prompt": "import re\n\ndef vowels(text):\n    return len(re.findall('[",
        "canonical_solution": "aeiou]', text.l",
        "suffix": "ower()))\n",
        "test": "def check(candidate):\n    assert candidate('Ei') == 2\n    assert candidate('') == 0\n",
    },
    {
        "task_id": "ours/last",
        "entry_point": "last",
        "prompt": "def last(items):\n    '''The last item.'''\n",
        "canonical_solution": "    return items[-1]\n",
        "suffix": "",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 2\n",
    },
]


@pytest.fixture(scope="module")
def own_problems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    dataset = folder / "loubnabnl" / "humaneval_infilling"
    for config, _ in SETS.values():
        (dataset / config).mkdir(parents=True)
        lines = "".join(json.dumps(problem) + "\n" for problem in PROBLEMS)
        (dataset / config / "test.jsonl").write_text(lines)
    (dataset / "README.md").write_text(CARD)
    return folder


class Writer(LM):
    """A model that writes what ``answer(doc, repeat)`` says."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.asked = []

    def generate_until(self, requests):
        self.asked += requests
        seen = {}
        return [
            self.answer(request.doc, seen.setdefault(request.doc_id, itertools.count()))
            for request in requests
        ]

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def evaluate(name, data, answer, **options):
    loaded = load_tasks([name], data_dir=data)
    task = loaded["tasks"][name]
    for key, value in options.pop("config", {}).items():
        task.set_config(key, value)
    writer = Writer(answer)
    options = {"confirm_run_unsafe_code": True, "bootstrap_iters": 0} | options
    return evaluator.evaluate(writer, task_dict=loaded, **options), writer


def canonical(doc, _):
    return doc["canonical_solution"]


def wrong(doc, _):
    return "    raise ValueError\n"


# -- what is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_the_hole_and_its_surroundings_reach_the_model_exactly(own_problems, name):
    for form in ("oracle_length", "fixed_length"):
        _, writer = evaluate(f"humaneval_infilling_{name}_{form}", own_problems, canonical)
        for problem, request in zip(PROBLEMS, writer.asked, strict=True):
            context, arguments = request.args
            assert context == problem["prompt"]
            assert arguments["hole"].suffix == problem["suffix"]
            assert arguments["until"] == []
            if form == "oracle_length":
                assert arguments["hole"].length == Length()
                assert arguments["hole"].references == (problem["canonical_solution"],)
                assert (arguments["steps"], arguments["preset"]) == (32, "diffullama")
            else:
                assert arguments["hole"].length.tokens >= 32
                assert not arguments["hole"].references


def test_the_group_has_the_four_sets_with_oracle_lengths(own_problems):
    loaded = load_tasks(["humaneval_infilling"], data_dir=own_problems)
    assert set(loaded["tasks"]) == {f"humaneval_infilling_{name}_oracle_length" for name in SETS}
    assert all(task.UNSAFE_CODE for task in loaded["tasks"].values())


# -- what counts -----------------------------------------------------------------------------------


def test_the_program_is_human_evals():
    program = code.build_program(PROBLEMS[0], "    y = 2 * x\n")
    assert program == (
        "def double(x):\n    y = 2 * x\n    return y\n\n\n",
        "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate('a') == 'aa'\n\ncheck(double)",
    )
    plain = {key: value for key, value in PROBLEMS[2].items() if key != "suffix"}
    assert code.build_program(plain, "x") == code.build_program(PROBLEMS[2], "x")


@pytest.mark.parametrize(
    "passed", [[True], [False], [True, False], [False, True, True, False, False]]
)
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(passed):
    for k in range(1, len(passed) + 1):
        choices = list(itertools.combinations(passed, k))
        assert code.pass_at_k(passed, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_needs_k_samples():
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"pass@{k} needs"):
            code.pass_at_k([True, False], k)


def test_right_and_wrong_fillings_of_our_own_problems(own_problems):
    for name in ("single_line_oracle_length", "random_span_light_fixed_length"):
        for answer, value in ((canonical, 1.0), (wrong, 0.0), (lambda doc, _: "", None)):
            results, _ = evaluate(f"humaneval_infilling_{name}", own_problems, answer)
            found = results["results"][f"humaneval_infilling_{name}"]["pass@1,none"]
            assert found == (0.0 if value is None else value)


def test_samples_keep_what_was_written_and_whether_it_passed(own_problems):
    name = "humaneval_infilling_single_line_oracle_length"
    results, _ = evaluate(
        name,
        own_problems,
        lambda doc, _: canonical(doc, _) if "double" not in doc["task_id"] else "    y = 3\n",
    )
    samples = results["samples"][name]
    assert [sample["pass@1"] for sample in samples] == [0.0, 1.0, 1.0]
    assert [sample["filtered_resps"] for sample in samples] == [
        sample["resps"] for sample in samples
    ]
    assert samples[0]["resps"] == [["    y = 3\n"]]
    assert results["results"][name]["pass@1,none"] == pytest.approx(2 / 3)


def test_all_samples_of_a_document_count(own_problems):
    name = "humaneval_infilling_single_line_oracle_length"
    results, _ = evaluate(
        name,
        own_problems,
        lambda doc, turn: (canonical, wrong)[next(turn) % 2](doc, turn),
        config={"repeats": 4},
    )
    assert [sample["pass@1"] for sample in results["samples"][name]] == [0.5] * 3


def test_hostile_fillings_are_failed_samples_and_the_run_goes_on(own_problems):
    hostile = {
        "ours/double": "    import os\n    os._exit(0)\n",
        "ours/vowels": "]', '')) or exit(0)\ndef last():\n    raise SystemExit(0, '",
    }
    name = "humaneval_infilling_single_line_oracle_length"
    results, _ = evaluate(
        name, own_problems, lambda doc, _: hostile.get(doc["task_id"], canonical(doc, _))
    )
    assert [sample["pass@1"] for sample in results["samples"][name]] == [0.0, 0.0, 1.0]


def test_a_program_that_could_not_be_run_is_an_error_and_not_a_failure(monkeypatch):
    code.note_programs([], [])
    monkeypatch.setattr("dlm_eval.sandbox.link.HERE", "/nowhere")  # no server starts
    monkeypatch.setattr("dlm_eval.sandbox._default", sandbox.Sandbox("plain"))
    sandbox._default.kind, sandbox._default._protections = "plain", ("plain",)
    with pytest.raises(SampleError, match="sandbox error"):
        code.process_results(PROBLEMS[0], [PROBLEMS[0]["canonical_solution"]])


def test_nothing_runs_unless_asked_for(own_problems, monkeypatch):
    def refuse(programs, workers=None, limits=None):
        raise AssertionError("a program was run")

    name = "humaneval_infilling_single_line_oracle_length"
    monkeypatch.setattr(sandbox, "run_many", refuse)
    with pytest.raises(ValueError, match="unsafe"):
        evaluate(name, own_problems, canonical, confirm_run_unsafe_code=False)
    with pytest.raises(AssertionError, match="a program was run"):
        evaluate(name, own_problems, canonical)
    loaded = load_tasks([name], data_dir=own_problems)
    loaded["tasks"][name].override_metric("bypass")  # --predict_only
    evaluator.evaluate(Writer(canonical), task_dict=loaded, confirm_run_unsafe_code=True)


def test_no_token_stands_before_the_prefix(own_problems):
    """As in DiffuLLaMA's scripts, which encode without special tokens; the other form leaves it to the model."""
    for name, wanted in (("oracle", "none"), ("fixed", "model")):
        task = f"humaneval_infilling_single_line_{name}_length"
        loaded = load_tasks([task], data_dir=own_problems)["tasks"][task]
        loaded.build_all_requests(limit=1, rank=0, world_size=1)
        assert loaded.instances[0].args[1]["hole"].special_tokens == wanted


# -- the real problems -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "value", "limit"),
    [pytest.param(canonical, 1.0, 1033, marks=pytest.mark.full), (wrong, 0.0, 164)],
)
def test_all_1033_single_line_problems(shared, answer, value, limit):
    name = "humaneval_infilling_single_line_oracle_length"
    results, _ = evaluate(name, shared / "data", answer, limit=limit)
    assert results["n-samples"][name] == {"original": 1033, "effective": limit}
    assert results["results"][name]["pass@1,none"] == value


@pytest.mark.parametrize(
    ("name", "limit"), [("multi_line", 30), ("random_span", 30), ("random_span_light", 164)]
)
def test_problems_of_the_other_sets(shared, name, limit):
    config, count = SETS[name]
    name = f"humaneval_infilling_{name}_oracle_length"
    for answer, value in ((canonical, 1.0), (wrong, 0.0)):
        results, _ = evaluate(name, shared / "data", answer, limit=limit)
        assert results["n-samples"][name] == {"original": count, "effective": limit}, config
        assert results["results"][name]["pass@1,none"] == value
