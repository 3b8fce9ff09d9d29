"""What a review of identity, few-shot examples and checkpoints found."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import write_tasks
from test_generation_checkpoints import HOLE, filled, jobs_of, told
from test_run_identity import inline, run

from dlm_eval.answers import answer_jobs, journal_key
from dlm_eval.decoding.checkpoints import State
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError
from dlm_eval.harness.requests import choice_canvases
from dlm_eval.harness.sources import source
from dlm_eval.journal import Journal, checksum
from dlm_eval.models import load_model
from dlm_eval.workers import InProcess

HELPER = """LEAD = 'a'
def lead(doc):
    return LEAD + doc['t']
"""
FUNCTIONS = """
import functools
import review_helper
HEADER = 'abc'
PROMPT = HEADER + 'x'
TIMES = 5
class Base:
    def say(self, doc):
        return 'hi'
class Child(Base):
    pass
class Tool:
    def __init__(self, value):
        self.value = value
    def __call__(self, doc):
        return self.value
TOOL = Tool(7)
def build(n):
    return {'n': n}
TABLE = build(3)
def decorated(function):
    @functools.wraps(function)
    def other(doc):
        return function(doc) + '!'
    return other
def make(kind):
    def inner(doc):
        return kind + doc['t']
    return inner
def by_module(doc):
    return review_helper.lead(doc)
def by_import(doc):
    from review_helper import lead
    return lead(doc)
def by_constant(doc):
    return PROMPT
def by_table(doc):
    return TABLE['n']
def by_default(doc, times=TIMES):
    return doc['t'] * times
@decorated
def by_decorator(doc):
    return doc['t']
def by_base(doc):
    return Child().say(doc)
def by_object(doc):
    return TOOL(doc)
by_closure = make('x')
by_partial = functools.partial(make('q'))
def alone(doc):
    return doc['t']
"""


def sources(folder: Path, helper: str, functions: str) -> dict[str, str]:
    """Returns name -> what is known of a function's source, of a module in `folder` with a neighbour."""
    folder.mkdir()
    (folder / "review_helper.py").write_text(helper)
    (folder / "tasks_of_review.py").write_text(functions)
    spec = importlib.util.spec_from_file_location("tasks_of_review", folder / "tasks_of_review.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "review_helper", raising=False)
        spec.loader.exec_module(module)
        patch.delitem(sys.modules, "review_helper")
    names = [name for name in vars(module) if name.startswith("by_") or name == "alone"]
    found = {name: json.dumps(source(getattr(module, name)), sort_keys=True) for name in names}
    assert not any(str(folder) in text for text in found.values())
    return found


def test_02_a_functions_source_is_all_that_it_reads_of_its_author(tmp_path: Path) -> None:
    """Every edit below changes what some functions return: theirs is another source, and nobody else's."""
    before = sources(tmp_path / "before", HELPER, FUNCTIONS)
    assert before == sources(tmp_path / "again", HELPER, FUNCTIONS)
    edits = {
        ("LEAD = 'a'", "LEAD = 'b'"): {"by_module", "by_import"},
        ("return LEAD +", "return LEAD + 'z' +"): {"by_module", "by_import"},
        ("HEADER = 'abc'", "HEADER = 'abd'"): {"by_constant"},
        ("{'n': n}", "{'n': n + 1}"): {"by_table"},
        ("TIMES = 5", "TIMES = 6"): {"by_default"},
        ("+ '!'", "+ '?'"): {"by_decorator"},
        ("return 'hi'", "return 'ho'"): {"by_base"},
        ("Tool(7)", "Tool(8)"): {"by_object"},
        ("return self.value", "return self.value + 1"): {"by_object"},
        ("make('x')", "make('y')"): {"by_closure"},
        ("make('q')", "make('r')"): {"by_partial"},
    }
    for number, ((old, new), moved) in enumerate(edits.items()):
        assert (old in HELPER) != (old in FUNCTIONS)
        after = sources(
            tmp_path / str(number), HELPER.replace(old, new), FUNCTIONS.replace(old, new)
        )
        assert {name for name in before if before[name] != after[name]} == moved, old


def test_02_each_digest_is_moved_by_its_own_settings_alone(tmp_path: Path) -> None:
    """Examples change prompts, not scoring; what stands before a prompt is nothing to a text that is scored whole."""
    tasks = write_tasks(tmp_path)

    def moved(name: str, **settings: Any) -> set[str]:
        blocks = [
            run(name, include_path=str(tasks), limit=1, **more)["dlm_eval"]["tasks"][name]
            for more in ({}, settings)
        ]
        return {
            key
            for key in ("configuration", "fingerprint", "scoring")
            if blocks[0][key] != blocks[1][key]
        }

    assert moved("t_choice", num_fewshot=1) == {"configuration", "fingerprint"}
    assert moved("t_roll", system_instruction="abc", apply_chat_template=True) == set()
    assert moved("t_last", system_instruction="abc") == {"configuration", "fingerprint"}


def test_03_examples_in_columns_of_their_own_may_ask_the_same(tmp_path: Path) -> None:
    """`fewshot_config.samples` with templates of their own: an example that shows the document's question and answer is left out."""
    documents = [{"text": f"q{i}.", "choices": ["aa", "bb"], "answer": i % 2} for i in range(3)]
    samples = [
        {"q": "q0.", "a": "aa"},
        {"q": "q1.", "a": "aa"},
        {"q": "x2.", "a": "bb"},
        {"q": "x3.", "a": "aa"},
    ]
    own = {
        "samples": samples,
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "doc_to_choice": None,
        "sampler": "first_n",
    }
    results = run([inline(tmp_path, documents, num_fewshot=2, fewshot_config=own)])
    prompts = [sample["arguments"][0][0] for sample in results["samples"]["mine"]]
    assert prompts[0] == "x2. bb\n\nq1. aa\n\nq0."
    # q1 with another answer is another question
    assert prompts[1:] == [f"q0. aa\n\nq1. aa\n\nq{i}." for i in (1, 2)]
    assert results["dlm_eval"]["tasks"]["mine"]["fewshot_left_out"] == 1


def test_04_a_context_that_is_shorter_than_what_another_choice_needs_is_named() -> None:
    toy = load_model("toy", max_length=20)
    pairs = [("ab", " " + "abc" * 5), ("abcdef" * 4, " " + "abc" * 5)]
    with pytest.raises(
        SampleError, match="its context has 2 tokens, and another choice leaves no room for 20 of"
    ):
        choice_canvases(toy, pairs, "key", "truncate")


CHANGES: dict[str, Any] = {
    "tokens": [10**6] * HOLE, "block": 99, "step": 10**9, "clock": -1, "forwards": 10**15, "post_steps": -3,
    "written": [10**6] * HOLE, "logprob": [float("nan")] * HOLE, "last_change": 10**9, "written_steps": 10**9,
    "longer": None, "seconds": float("nan"),
}  # fmt: skip


def test_14_a_checkpoint_that_cannot_be_one_of_its_canvas_is_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checksum is right, its numbers are impossible: answer and cost are those of a run without it."""
    model = load_model("toy")
    settings: dict[str, Any] = {"strategy": "remask", "steps": 24, "temperature": 0.9, "eta": 0.1}
    job = jobs_of({"one": settings}, model)["one"]
    engine, journal, states = Engine(model), Journal(tmp_path / "journal.sqlite"), list[State]()
    (expected,) = answer_jobs(InProcess(engine).run, [job], "model", None)
    filled(model, job, states.append)
    key = journal_key("model", job)
    for name, value in CHANGES.items():
        state: dict[str, Any] = dict(vars(states[3]))
        if name == "longer":
            state |= {one: [*state[one], *state[one]] for one in ("tokens", "logprob", "written")}
        elif name != "seconds":
            state[name] = value
        text = json.dumps({"state": state, "seconds": value if name == "seconds" else 1.0})
        row = (key, text, checksum(key, text), "model", 0.0)
        journal._execute([("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?)", [row])])
        caplog.clear()
        (found,) = answer_jobs(InProcess(engine).run, [job], "model", journal)
        assert told(found) == told(expected) and "begun anew" in caplog.text, name
        assert found.seconds < 1000
        journal.remove("model")
    journal.close()
