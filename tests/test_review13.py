"""What a fresh review of plug-ins and wrapped functions found: each was a wrong answer, an endless run, or no line of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plugin_files import left_as_it_was

from dlm_eval import Canvas, evaluate, fill, load_model, score, wrap
from dlm_eval.answers import journal_key
from dlm_eval.cli import main
from dlm_eval.decoding import STRATEGIES, Edit, Query, Strategy, Unmasking, highest, resolve
from dlm_eval.engine import Engine
from dlm_eval.errors import SampleError, UserError
from dlm_eval.jobs import FillJob, ScoreJob
from dlm_eval.likelihood import ESTIMATORS, Estimator
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.options import describe_options, option
from dlm_eval.workers import InProcess


@pytest.fixture(autouse=True)
def registries_as_before() -> Iterator[None]:
    with left_as_it_was(STRATEGIES), left_as_it_was(ESTIMATORS):
        yield


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy(ToySettings())


def written(model: Any, name: str, **options: Any) -> Any:
    return fill(model, [Canvas.completion([1, 2], 4)], name, early_exit=False, **options)[0]


# -- what a strategy's step returns ----------------------------------------------------------------

MASKS = {
    "longer": (
        lambda view: np.ones(len(view.position) + 1, dtype=bool),
        r"commit\(view\) returned bool \[5\]",
    ),
    "shorter": (
        lambda view: np.ones(1, dtype=bool),
        r"returned bool \[1\]; it must return bool \[4\]",
    ),
    # wrote token 0 at four places
    "numbers": (lambda view: highest(view.score, 1).astype(int), r"returned int64 \[4\]"),
    "indices": (lambda view: np.array([0]), r"returned int64 \[1\]"),
    "nothing": (lambda view: None, "returned object"),  # wrote all candidates
}


@pytest.mark.parametrize("case", MASKS)
def test_01_a_commit_that_is_no_mask_is_an_error(toy: Toy, case: str) -> None:
    returned, words = MASKS[case]

    @dataclass(frozen=True, kw_only=True)
    class Wrong(Unmasking, name=f"r13_{case}"):
        reads = "probability"

        def commit(self, view: Any) -> Any:
            return returned(view)

    with pytest.raises(SampleError, match=words):
        written(toy, f"r13_{case}")


def test_02_masks_may_be_lists_and_tensors(toy: Toy) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Kinds(Unmasking, name="r13_kinds"):
        tensor: bool = False
        reads = "probability"

        def commit(self, view: Any) -> Any:
            return (
                torch.ones(len(view.position)).bool()
                if self.tensor
                else [True] * len(view.position)
            )

    assert written(toy, "r13_kinds").tokens == written(toy, "r13_kinds", tensor=True).tokens
    assert min(written(toy, "r13_kinds").tokens) >= 0


EDITS = {
    # wrote on the prompt, for ever
    "prompt": (lambda at, t, p: Edit(np.array([0]), t[:1], p[:1]), "outside the block"),
    "behind": (lambda at, t, p: Edit(at + 1000, t, p), "outside the block"),
    "negative": (lambda at, t, p: Edit(np.array([-9]), t[:1], p[:1]), "outside the block"),
    "erased prompt": (
        lambda at, t, p: Edit(at[:1], t[:1], p[:1], np.array([0])),
        "outside the block",
    ),
    # wrote one token everywhere
    "sizes": (lambda at, t, p: Edit(at, t[:1], p[:1]), "4 positions, 1 tokens"),
    "token": (lambda at, t, p: Edit(at[:1], np.array([10**6]), p[:1]), "outside the vocabulary"),
    "negative token": (
        lambda at, t, p: Edit(at[:1], np.array([-5]), p[:1]),
        "outside the vocabulary",
    ),
    "nan": (lambda at, t, p: Edit(at[:1], t[:1], p[:1] * np.nan), "log-probability NaN"),
}


@pytest.mark.parametrize("case", EDITS)
def test_03_an_edit_that_cannot_be_applied_is_an_error(toy: Toy, case: str) -> None:
    edit, words = EDITS[case]

    @dataclass(frozen=True, kw_only=True)
    class Wrong(Unmasking, name="r13_edit"):
        reads = "probability"

        def step(self, state: Any, view: Any, op: Any) -> Any:
            token, logprob, _ = yield from state.read(view.position, Query(op))
            return edit(view.position, token, logprob)

    with pytest.raises(SampleError, match=words):
        written(toy, "r13_edit")


@pytest.mark.parametrize("places", [[1000], [-1], [5, 4], []])
def test_04_a_row_reads_ascending_positions_of_the_canvas(toy: Toy, places: list[int]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Unmasking, name="r13_reads"):
        def step(self, state: Any, view: Any, op: Any) -> Any:
            token, logprob, _ = yield from state.read(np.array(places, dtype=int), Query(op))
            return Edit(view.position[:1], token[:1], logprob[:1])

    with pytest.raises(SampleError, match="they must be ascending"):
        written(toy, "r13_reads")


@pytest.mark.parametrize("takes_back", [False, True])
def test_05_a_strategy_that_never_ends_is_an_error(toy: Toy, takes_back: bool) -> None:
    """Neither if it writes nothing, nor if it takes back what it has written."""

    @dataclass(frozen=True, kw_only=True)
    class Endless(Unmasking, name="r13_endless"):
        reads = "probability"
        ends = "stable"
        takes_schedule = False

        def commit(self, view: Any) -> Any:
            return highest(view.score, 1 - view.step % 2) if takes_back else view.nowhere

        def erase(self, view: Any) -> Any:
            return ~view.open & (view.step % 2 == 1) if takes_back else view.nowhere

    with pytest.raises(SampleError, match="does not fill the block: 10.. steps"):
        fill(toy, [Canvas.completion([1, 2], 4)], "r13_endless", early_exit=False)


@dataclass(frozen=True)
class Crooked:
    """An op whose confidence is NaN, or whose outputs have other lengths."""

    draw: Any
    nan: bool

    def __call__(self, logits: Any, payload: Any) -> Any:
        token, logprob, confidence = self.draw(logits, payload)
        return (
            (token, logprob, confidence * float("nan"))
            if self.nan
            else (token[:-1], logprob, confidence)
        )


@pytest.mark.parametrize("nan", [True, False])
def test_06_confidence_that_is_nan_and_rows_of_other_length_are_errors(toy: Toy, nan: bool) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Reader(Unmasking, name="r13_reader"):
        reads = "probability"

        def query(self, view: Any, op: Any, model: Any) -> Query:
            return Query(Crooked(op, nan))

        def commit(self, view: Any) -> Any:
            return highest(view.score, 1)

    with pytest.raises(
        SampleError, match="read NaN as the confidence" if nan else "returned 3, 4, 4 rows for 4"
    ):
        written(toy, "r13_reader")


def test_07_a_program_that_yields_no_rows_fails_alone(toy: Toy) -> None:
    """It ended the whole run."""

    @dataclass(frozen=True, kw_only=True)
    class Junk(Unmasking, name="r13_junk"):
        def step(self, state: Any, view: Any, op: Any) -> Any:
            yield "junk"

    answers: dict[int, Any] = {}
    jobs = [
        FillJob(Canvas.completion([1, 2], 4), resolve({"strategy": name}), 0)
        for name in ("r13_junk", "confidence")
    ]
    InProcess(Engine(toy)).run(jobs, lambda number, answer: answers.update({number: answer}))
    assert "something other than forward rows" in answers[0].error and answers[1].error is None


# -- how a plug-in is declared ---------------------------------------------------------------------

ATTRIBUTES = {
    "ends": (
        "whenever",
        "ends 'whenever' is not allowed; it must be one of full, limit, steps, stable, own",
    ),
    "reads": ("sharpness", "reads 'sharpness' is not allowed"),  # was read as 'probability'
    "default_schedule": ("evn", "default_schedule 'evn' is not allowed"),
    "processes": ("absorbing", "processes 'absorbing' is not allowed; it must be a tuple"),
}


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_08_class_attributes_are_checked_when_the_class_is_made(attribute: str) -> None:
    value, words = ATTRIBUTES[attribute]
    with pytest.raises(UserError, match=words):
        type("Wrong", (Unmasking,), {attribute: value}, name="r13_attribute")
    assert "r13_attribute" not in STRATEGIES.names()


def test_09_an_option_cannot_have_the_name_of_a_setting_or_an_attribute(toy: Toy) -> None:
    """An option `steps` was never set: the general setting took its value."""

    @dataclass(frozen=True, kw_only=True)
    class Steps(Unmasking, name="r13_steps"):
        steps: int = option(3, least=1)

    with pytest.raises(UserError, match="option 'steps' is the name of a general setting"):
        written(toy, "r13_steps")
    for base, attribute in (
        (Unmasking, "reads"),
        (Strategy, "check"),
        (Estimator, "kind"),
        (Estimator, "name"),
    ):
        with pytest.raises(UserError, match=f"option '{attribute}' has the name of an attribute"):
            type("Wrong", (base,), {attribute: option("x")}, name="r13_names")


def test_10_a_default_may_come_from_a_factory(toy: Toy) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Many(Unmasking, name="r13_many"):
        many: tuple[int, ...] = field(default_factory=lambda: (1, 2))
        reads = "probability"

        def commit(self, view: Any) -> Any:
            return highest(view.score, len(self.many))

    assert written(toy, "r13_many").forwards == 2
    assert describe_options(Many)["many"]["default"] == (1, 2)


HEAD = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom dlm_eval.decoding import Unmasking, highest\n"
CLASS = "@dataclass(frozen=True, kw_only=True)\nclass Mine(Unmasking, name='r13_mine'):\n    '''Mine.'''\n"
FILES = {
    # the command ended with code 0
    "exits": ("import sys\nsys.exit(0)\n", "cannot be loaded: SystemExit"),
    "check": (
        HEAD + CLASS + "    def check(self):\n        raise ValueError('odd')\n",
        "Mine cannot be made: ValueError: odd",
    ),
    "annotation": (
        HEAD + CLASS + "    width: Foo = 3\n",
        "an annotation cannot be read: name 'Foo' is not defined",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_11_what_is_wrong_with_a_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    code, words = FILES[case]
    path = tmp_path / "mine.py"
    path.write_text(code, encoding="utf-8")
    assert (
        main(
            [
                "--model",
                "toy",
                "--tasks",
                "demo_story_infill",
                "--limit",
                "1",
                "--decode",
                f"strategy={path}:Mine",
            ]
        )
        == 2
    )
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and words in told[0]


def test_12_two_files_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(
            HEAD + CLASS + f"    # {folder}\n", encoding="utf-8"
        )
    first = STRATEGIES.find(f"{tmp_path}/one/mine.py:Mine")
    with pytest.raises(UserError, match="'r13_mine' is already defined"):
        STRATEGIES.find(f"{tmp_path}/two/mine.py:Mine")
    assert STRATEGIES.find("r13_mine") is first
    (tmp_path / "one" / "mine.py").write_text(HEAD + CLASS + "    # edited\n", encoding="utf-8")
    # an edited file replaces itself
    assert STRATEGIES.find(f"{tmp_path}/one/mine.py:Mine") is not first


def test_13_show_says_at_once_which_classes_a_file_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It looked through all tasks of lm-eval first."""
    path = tmp_path / "mine.py"
    path.write_text(HEAD + CLASS, encoding="utf-8")
    assert main(["show", str(path)]) == 2
    assert "allowed: Mine" in capsys.readouterr().err


# -- estimators ------------------------------------------------------------------------------------

PATTERNS = {
    "wide": lambda n: np.ones((1, n + 1), dtype=bool),
    "flat": lambda n: np.ones(n, dtype=bool),  # scored each token as a pattern
    "numbers": lambda n: np.eye(n, dtype=int),
}


@pytest.mark.parametrize("case", PATTERNS)
def test_14_a_pattern_of_another_shape_is_an_error(toy: Toy, case: str) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Estimator, name="r13_patterns"):
        def estimate(self, target: Any, noise: Any) -> Any:
            hidden = PATTERNS[case](target.n)
            logs = yield from target.measure(hidden, hidden)
            return self.score(float(np.nansum(logs)))

    with pytest.raises(SampleError, match=r"it must be bool \["):
        score(toy, [Canvas.continuation([1], [2, 3])], "r13_patterns")


@pytest.mark.parametrize("returned", [None, 3.0, float("nan")])
def test_15_what_an_estimator_returns_is_checked(toy: Toy, returned: Any) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Estimator, name="r13_returned"):
        def estimate(self, target: Any, noise: Any) -> Any:
            yield from target.measure(np.eye(target.n, dtype=bool), np.eye(target.n, dtype=bool))
            return self.score(returned) if returned != returned else returned

    words = "the estimate is NaN" if returned != returned else "it must return self.score"
    with pytest.raises(SampleError, match=words):
        score(toy, [Canvas.continuation([1], [2, 3])], "r13_returned")


def test_16_an_estimator_that_fails_before_its_program_fails_alone(toy: Toy) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Estimator, name="r13_prepare"):
        def estimate(self, target: Any, noise: Any) -> Any:
            yield from target.measure(np.eye(target.n, dtype=bool), np.eye(target.n, dtype=bool))
            return self.score(-1.0)

        def prepare(self, model: Any, canvas: Canvas) -> Canvas:
            return canvas if len(canvas) < 3 else 1 / 0  # type: ignore[return-value]

    answers: dict[int, Any] = {}
    jobs = [ScoreJob(Canvas.continuation([1], [2] * n), Wrong(), 0) for n in (1, 4)]
    InProcess(Engine(toy)).run(jobs, lambda number, answer: answers.update({number: answer}))
    assert answers[0].error is None
    assert str(answers[1].error).startswith(
        "ZeroDivisionError: division by zero (in test_review13.py"
    )


# -- wrapped functions -----------------------------------------------------------------------------

V = 12


def counts(tokens: Any) -> Any:
    row = torch.nn.functional.one_hot(tokens, V).float().sum(1, keepdim=True)
    return row.expand(-1, tokens.shape[1], -1)


WRAPS: dict[str, tuple[dict[str, Any], str]] = {
    "bool": (
        {"logits": lambda x: counts(x) > 0},
        "returned torch.bool; it must return a float tensor",
    ),
    "whole": ({"logits": lambda x: counts(x).long()}, "returned torch.int64"),
    "complex": ({"logits": lambda x: counts(x).to(torch.complex64)}, "returned torch.complex64"),
    "numpy": (
        {"logits": lambda x: counts(x).numpy()},
        "returned ndarray; it must return a float tensor",
    ),
    "tuple": ({"logits": lambda x: (counts(x),)}, "returned tuple"),
    "mask": ({"mask_id": True}, r"mask_id=True\) is not allowed; it must be a whole number"),
    "mask text": ({"mask_id": "10"}, "mask_id='10'"),
    "eos far": (
        {"eos_ids": (99,), "pad_id": 0},
        r"eos_ids=99\) is not allowed; it must be 0 to 11",
    ),
    "eos negative": ({"eos_ids": -2}, "eos_ids=-2"),
    "eos mask": ({"eos_ids": 10}, "and not the mask"),
    "eos text": ({"eos_ids": "9"}, "eos_ids='9'"),
    "short": ({"max_length": 1}, "max_length=1.* it must be 2 or more"),
    "attention": ({"attention": "foo"}, "attention='foo'.* it must be one of full, block, causal"),
    "tokenizer": ({"tokenizer": "gpt2"}, "tokenizer='gpt2'.* it must be an object"),
}


@pytest.mark.parametrize("case", WRAPS)
def test_17_wrong_arguments_of_wrap_are_one_line(case: str) -> None:
    given, words = WRAPS[case]
    with pytest.raises(UserError, match=words) as caught:
        wrap(**{"logits": counts, "mask_id": 10, **given})
    assert "\n" not in str(caught.value)


def test_18_wrap_takes_no_eos_and_logits_with_a_gradient() -> None:
    model = wrap(logits=lambda x: counts(x).requires_grad_(), mask_id=10, eos_ids=None)  # type: ignore[arg-type]
    assert model.eos_ids == () and len(written(model, "confidence").tokens) == 4


def test_19_evaluate_of_a_function_names_wrap() -> None:
    with pytest.raises(UserError, match=r"dlm_eval.wrap\(logits=...\) makes one"):
        evaluate(counts, ["demo"])


def test_20_ids_that_end_a_text_belong_to_the_fingerprint(tmp_path: Path) -> None:
    """Answers that were stored with one end were used with another."""
    masked_network(tmp_path)
    found = [
        load_model("generic", pretrained=str(tmp_path), **given)
        for given in ({}, {"eos_id": 5}, {"eos_id": 6})
    ]
    described = [str(model.describe()) for model in found]
    assert len(set(described)) == 3 and [model.eos_ids[:1] for model in found[1:]] == [(5,), (6,)]
    ends = [
        wrap(logits=counts, mask_id=10, eos_ids=end, fingerprint="f").describe()
        for end in ((), 8, 9)
    ]
    assert len({str(one) for one in ends}) == 3


@pytest.mark.parametrize("given", [{"eos_id": 999}, {"eos_id": -3}, {"bos_id": 999}])
def test_21_ids_outside_the_vocabulary_are_refused(tmp_path: Path, given: dict[str, int]) -> None:
    masked_network(tmp_path)
    (option_name,) = given
    with pytest.raises(UserError, match=option_name if "eos_id" in given else "bos_id"):
        load_model("generic", pretrained=str(tmp_path), **given)


def test_22_an_answer_without_the_greedy_flag_is_not_one_with_it() -> None:
    job = ScoreJob(Canvas.completion([1, 2], 4), ESTIMATORS.find("mask_count", "estimator")(), 0)
    keys = {journal_key("fingerprint", replace(job, greedy=greedy)) for greedy in (False, True)}
    assert len(keys) == 2


def masked_network(folder: Path) -> None:
    """Writes a tiny BERT with random weights, and a tokenizer without an end of text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", *"abcdefghij", "<mask>"]
    core = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    BertForMaskedLM(
        BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)
    ).save_pretrained(folder)
