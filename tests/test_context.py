"""What a model sees of a prompt that does not fit: never nothing, and the same for all choices of a question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlm_eval import evaluate
from dlm_eval.errors import SampleError
from dlm_eval.harness.requests import Hole, Length, choice_canvases, hole_canvas
from dlm_eval.models.families.toy import Toy, ToySettings

SHORT = {"max_length": 16}


@pytest.fixture
def toy() -> Toy:
    return Toy(ToySettings(max_length=16))


@pytest.mark.parametrize("bos", [False, True])
def test_04_a_prompt_is_never_cut_to_nothing(toy: Toy, bos: bool) -> None:
    toy.needs_bos = bos
    room = toy.max_length - bos
    assert (
        len(
            hole_canvas(
                toy, "abcdef" * 9, room - 1, Hole(Length(room - 1), ""), "", "truncate"
            ).canvas
        )
        == toy.max_length
    )
    for canvas in (
        lambda: hole_canvas(toy, "abcdef" * 9, room, Hole(Length(room), ""), "", "truncate"),
        lambda: hole_canvas(toy, "abc", room, Hole(Length(room), ""), "", "truncate"),
        lambda: choice_canvases(toy, [("abcdef", "b" * room)], "", "truncate")[0],
    ):
        with pytest.raises(SampleError, match=f"{room} open positions leave nothing of the prompt"):
            canvas()
    assert (
        len(hole_canvas(toy, "", room, Hole(Length(room), ""), "", "truncate").canvas)
        == toy.max_length
    )
    assert len(choice_canvases(toy, [("", "b" * room)], "", "truncate")[0].canvas) == toy.max_length


def test_04_the_text_behind_a_hole_is_never_cut_to_nothing(toy: Toy) -> None:
    with pytest.raises(SampleError, match="leave nothing of the text after the hole"):
        hole_canvas(toy, "", toy.max_length, Hole(Length(toy.max_length), "abc"), "", "truncate")
    kept = hole_canvas(
        toy, "", toy.max_length - 2, Hole(Length(toy.max_length - 2), "abc"), "", "truncate"
    ).canvas
    assert kept.tokens[-2:] == tuple(toy.encode("ab"))


def test_04_choices_of_a_question_share_their_context(toy: Toy) -> None:
    pairs = [("abcdef" * 3, text) for text in ("a", "abcd", "ab")]
    prepared = choice_canvases(toy, pairs, "", "truncate")
    contexts = {p.canvas.tokens[: p.canvas.open.index(True)] for p in prepared}
    assert contexts == {tuple(toy.encode("abcdef" * 3)[-(toy.max_length - 4) :])}
    assert {p.truncated for p in prepared} == {18 + 4 - toy.max_length}
    # as acc_mutual_info asks: no context to cut
    bare = choice_canvases(toy, [("", "a"), *pairs], "", "truncate")[0]
    assert bare.truncated == 0 and all(bare.canvas.open)
    with pytest.raises(SampleError, match="22 tokens do not fit"):
        choice_canvases(toy, pairs, "", "error")


def own_task(folder: Path, name: str, kind: str, **fields: Any) -> str:
    (folder / f"{name}.jsonl").write_text(
        json.dumps({"q": "abc" * 20, "choices": ["a", "abcdef"], "gold": 1}) + "\n"
    )
    yaml = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "output_type": kind, "test_split": "test", "doc_to_text": "{{q}}", "target_delimiter": "", **fields,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(json.dumps(yaml))
    return name


def test_04_in_a_run_it_is_the_samples_error(tmp_path: Path) -> None:
    name = own_task(
        tmp_path, "t_long", "generate_until", doc_to_target="x", metric_list=[{"metric": "exact_match"}],
        generation_kwargs={"until": []},
    )  # fmt: skip
    run = {
        "include_path": str(tmp_path),
        "verbosity": "ERROR",
        "bootstrap_iters": 0,
        "model_args": SHORT,
    }
    results = evaluate("toy", [name], decode={"gen_length": 16}, **run)
    assert "leave nothing of the prompt" in results["samples"][name][0]["error"]
    assert results["dlm_eval"]["cost"][name]["errors"] == 1
    assert (
        evaluate("toy", [name], decode={"gen_length": 15}, **run)["dlm_eval"]["cost"][name][
            "errors"
        ]
        == 0
    )


@pytest.mark.parametrize("estimator", ["auto", "auto,stop_at_error_rate=0.05"])
def test_04_choices_in_a_run_see_one_context(tmp_path: Path, estimator: str) -> None:
    name = own_task(
        tmp_path, "t_pick", "multiple_choice", doc_to_choice="choices", doc_to_target="gold",
        metric_list=[{"metric": "acc"}],
    )  # fmt: skip
    results = evaluate(
        "toy",
        [name],
        estimator=estimator,
        include_path=str(tmp_path),
        verbosity="ERROR",
        model_args=SHORT,
    )
    assert results["samples"][name][0]["truncated"] == 2 * (60 + 6 - 16)


def test_04_a_length_that_no_task_asked_for_is_not_used(tmp_path: Path) -> None:
    """lm-eval writes 256 into a YAML without generation settings; toy has 16 positions, of which half are written."""
    name = own_task(
        tmp_path,
        "t_bare",
        "generate_until",
        doc_to_target="x",
        metric_list=[{"metric": "exact_match"}],
    )
    results = evaluate(
        "toy",
        [name],
        include_path=str(tmp_path),
        verbosity="ERROR",
        bootstrap_iters=0,
        model_args=SHORT,
    )
    assert results["dlm_eval"]["cost"][name]["errors"] == 0
    assert results["dlm_eval"]["tasks"][name]["gen_length"] == 8
