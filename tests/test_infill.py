from __future__ import annotations

import json

import pytest
from lm_eval.api.task import ConfigurableTask

from dlm_eval import evaluate
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.infill import InfillSpec, InfillTask
from dlm_eval.harness.requests import Hole, Length
from dlm_eval.harness.results import _joined

DOC = {"a": "one two", "b": " six", "n": 7, "names": ["x", "yy"], "nested": {"list": ["p", "q"]}}


def spec(**infill):
    return InfillSpec.from_metadata("t", {"infill": infill})


def config(tmp_path, **infill):
    file = tmp_path / "docs.jsonl"
    file.write_text(
        "".join(
            json.dumps({"a": f"start {i}", "b": f" end {i}", "m": "gap" * (i + 1)}) + "\n"
            for i in range(2)
        )
    )
    return {
        "task": "gap",
        "class": InfillTask,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "a",
        "doc_to_target": "m",
        "generation_kwargs": {"until": [], "steps": 4},
        "metadata": {"version": 1.0, "infill": infill},
    }


@pytest.mark.parametrize(
    ("infill", "hole"),
    [
        ({"length": 12}, Hole(Length(12))),
        ({"length": "{{n}}", "suffix": "{{b}}!"}, Hole(Length(7), " six!")),
        ({"length": 4, "special_tokens": "none"}, Hole(Length(4), special_tokens="none")),
        ({"length": "oracle", "reference": "a"}, Hole(Length(), "", ("one two",))),
        ({"length": "oracle+3", "reference": "names"}, Hole(Length(None, 3), "", ("x", "yy"))),
        ({"length": "oracle", "reference": "nested.list"}, Hole(Length(), "", ("p", "q"))),
        ({"length": "oracle", "reference": "{{b}}."}, Hole(Length(), "", (" six.",))),
        (
            {
                "length": "oracle",
                "reference": lambda doc: doc["names"],
                "measure": "in_place",
                "suffix": "",
            },
            Hole(Length(), "", ("x", "yy"), "in_place"),
        ),
    ],
)
def test_hole_of_a_document(infill, hole):
    assert spec(**infill).hole("t", DOC) == hole


@pytest.mark.parametrize(
    ("infill", "words"),
    [
        ({"length": "oracle", "refrence": "a"}, ["'refrence'", "'reference'"]),
        ({"length": "oracel", "reference": "a"}, ["'oracel'", "oracle+K"]),
        ({"length": 0}, ["'0'"]),
        ({"length": "oracle"}, ["needs a 'reference'"]),
        ({"length": "oracle", "reference": "a", "measure": "inplace"}, ["'inplace'", "'in_place'"]),
        ({"length": 3, "special_tokens": "nonne"}, ["'nonne'", "'none'"]),
        ({"suffix": "x"}, ["'length'"]),
        ({"length": 2, "suffix": 5}, ["suffix '5'", "template"]),
        ({"length": "oracle", "reference": ["a"]}, ["reference '['a']'", "a column"]),
        ({"length": 2, "between": []}, ["between '[]'", "a column"]),
        ({"length": 2, "between": 3}, ["between '3'", "!function"]),
    ],
)
def test_wrong_settings_are_told(infill, words):
    with pytest.raises(UserError) as error:
        spec(**infill)
    assert all(word in str(error.value) for word in ["task 't'", *words])


def test_a_task_without_settings_is_told():
    with pytest.raises(UserError, match=r"metadata\.infill"):
        InfillSpec.from_metadata("t", None)


def test_a_column_that_is_not_there_is_told():
    with pytest.raises(UserError, match="'nmaes' is not a column of the document: a, b, n"):
        spec(length="oracle", reference="nmaes").hole("t", DOC)


@pytest.mark.parametrize("value", [7, None, ["a", None], [1, 2], {"a": "b"}])
@pytest.mark.parametrize("setting", ["reference", "between"])
def test_what_is_no_text_costs_its_document(setting, value):
    one = spec(**{"length": 2, setting: "column"})
    with pytest.raises(SampleError, match=f"{setting} is .* a text or a list of texts"):
        one.hole("t", {"column": value})


@pytest.mark.parametrize("wrong", [{"suffix": "{{"}, {"suffix": "{{a.b.c}}"}, {"between": "m2"}])
def test_a_wrong_first_document_is_the_tasks_fault(tmp_path, wrong):
    with pytest.raises(UserError) as error:
        InfillTask(config=config(tmp_path, length=2, **wrong))
    assert "\n" not in str(error.value)


def test_requests_carry_the_hole_of_their_document(tmp_path):
    task = InfillTask(config=config(tmp_path, length="oracle", suffix="{{b}}", reference="m"))
    task.set_config("num_fewshot", 0)
    task.build_all_requests()
    assert [request.args for request in task.instances] == [
        (
            f"start {i}",
            {"until": [], "steps": 4, "hole": Hole(Length(), f" end {i}", ("gap" * (i + 1),))},
        )
        for i in range(2)
    ]
    assert task.config.generation_kwargs == {"until": [], "steps": 4}


def test_requests_in_the_list_form_of_lm_eval_0_5(tmp_path, monkeypatch):
    original = ConfigurableTask.construct_requests
    monkeypatch.setattr(
        ConfigurableTask, "construct_requests", lambda *args, **kwargs: [original(*args, **kwargs)]
    )
    task = InfillTask(config=config(tmp_path, length=5))
    (request,) = task.construct_requests(task.eval_docs[0], "start 0", metadata=("gap", 0, 1))
    assert request.args == ("start 0", {"until": [], "steps": 4, "hole": Hole(Length(5))})


def test_a_function_stands_by_name_in_the_results(tmp_path):
    task = InfillTask(config=config(tmp_path, length="oracle", reference=middle))
    assert task.config.metadata["infill"]["reference"].endswith("test_infill.middle")
    assert task.infill.hole("gap", task.eval_docs[1]).references == ("gapgap",)


def middle(doc):
    return doc["m"]


@pytest.mark.parametrize("steps", [16, 7])
def test_settings_of_a_task_are_those_of_all_its_lengths(tmp_path, steps):
    """16 steps do not fit holes of 5 to 10 tokens: the file says what was used, not that of the last hole.
    7 steps are one for each token of a hole of 7."""
    found = evaluate(
        "tiny", ["demo_story_infill"], limit=8, decode={"steps": steps}, output_path=str(tmp_path)
    )
    task = found["dlm_eval"]["tasks"]["demo_story_infill"]
    shortest, longest = map(int, task["gen_length"].split("-"))
    assert shortest < 7 < longest
    used = f"{shortest}-{min(steps, longest)}"
    assert task["decode"]["steps"] == task["steps"] == used
    assert task["decode"]["strategy"] == "confidence"


def test_values_that_no_order_has_are_told_one_by_one():
    assert _joined([7, None, 5]) == "5, 7, None" and _joined([["a"], ["a"]]) == ["a"]
    assert _joined([3, 9, 5]) == "3-9" and _joined({"b", "a"}) == "a, b" and _joined([4, 4]) == 4
