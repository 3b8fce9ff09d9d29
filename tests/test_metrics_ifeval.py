"""IFEval's verdicts, recorded by its authors' checkers on answers that we wrote.

All 25 instructions of google-research/instruction_following_eval. The figures were made by
josejg/instruction_following_eval at 0c495b2f, the authors' checkers as a package, with langdetect's
seed 0 and the sentence splitter below. Needs the extra `ifeval`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlm_eval.harness.scorer_draws import draws_of

nltk = pytest.importorskip("nltk")
pytest.importorskip("langdetect")
pytest.importorskip("immutabledict")

SPLITTER = Path(__file__).parent / "suite_data" / "nltk_data"
PROMPT = "Name a mill."
VERDICTS: list[tuple[str, dict[str, Any], dict[str, tuple[bool, bool]]]] = [
    # instruction, its settings, {answer: (strict, loose)}
    (
        "punctuation:no_comma",
        {},
        {
            "One two.": (True, True),
            "One, two.": (False, False),
            "Sure, here it is:\nOne two.": (False, True),
            "": (False, False),
        },
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        {
            "Only Dr. Low knows. He waits.": (True, True),
            "One. Two. Three.": (False, False),
            "Sure.\nOne. Two.": (False, True),
            "  ": (False, False),
        },
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        {
            "one two three": (False, False),
            "one-two three four": (True, True),
            "it's three": (False, False),
            "* one\n* two three four": (True, True),
        },
    ),
    (
        "keywords:existence",
        {"keywords": ["mill", "Varn"]},
        {
            "The MILLER of varnish": (True, True),
            "The mill": (False, False),
            "var*n* mill": (False, True),
        },
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["mill"]},
        {"The miller": (True, True), "The Mill.": (False, False), "mill\nThe house": (False, True)},
    ),
    (
        "keywords:frequency",
        {"keyword": "mill", "frequency": 2, "relation": "at least"},
        {"mill miller": (True, True), "a mill": (False, False), "mi*ll* mill": (False, True)},
    ),
    (
        "keywords:letter_frequency",
        {"letter": "L", "let_frequency": 3, "let_relation": "less than"},
        {"mill": (True, True), "mill mill": (False, False), "mill\nmill": (False, True)},
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        {
            "* one\n* two": (True, True),
            "- one\n * two": (True, True),
            "** one\n* two": (False, False),
            "* one\n* two\n- three": (False, True),
        },
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        {
            "*one* and *two*": (True, True),
            "**one**": (False, False),
            "* * *two*": (False, False),
            "**one** \n **": (False, False),
        },
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        {
            "SECTION 1 a SECTION 2 b": (True, True),
            "SECTION one SECTION two": (False, False),
            "Section 1 a Section 2 b": (False, False),
        },
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        {
            "one\n***\ntwo": (True, True),
            "one\n\ntwo": (False, False),
            "***one***two": (True, True),
            "one******two": (False, False),
        },
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Mill"},
        {
            'one\n\n"Mill," two': (True, True),
            "one\n\nmills two": (False, False),
            "one\n\nmill\n\n": (True, True),
            "Sure\none\n\nmill": (True, True),
        },
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        {"[a] [b]": (True, True), "[a [b]]": (False, False), "[] []": (True, True)},
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        {
            "text p. s. more": (True, True),
            "P.S more": (False, False),
            "text\nP.S. more": (True, True),
        },
    ),
    (
        "startend:end_checker",
        {"end_phrase": "The end."},
        {
            'All. "the END."': (True, True),
            "The end. Really": (False, False),
            "The end.\nBye": (False, True),
        },
    ),
    (
        "startend:quotation",
        {},
        {
            '"all"': (True, True),
            "“all”": (False, False),
            'Sure:\n"all"': (False, True),
            '"': (False, False),
        },
    ),
    (
        "detectable_format:title",
        {},
        {"<<A mill>>": (True, True), "<< >>": (False, False), "<A mill>": (False, False)},
    ),
    (
        "detectable_format:json_format",
        {},
        {
            '```json\n{"a": 1}\n```': (True, True),
            "{'a': 1}": (False, False),
            'Sure:\n{"a": 1}': (False, True),
        },
    ),
    (
        "detectable_format:constrained_response",
        {},
        {
            "**My answer is yes.**": (True, True),
            "my answer is yes.": (False, False),
            "My answer is *no*.": (False, True),
        },
    ),
    (
        "combination:two_responses",
        {},
        {
            "one******two": (True, True),
            "one******one": (False, False),
            "one******two******": (True, True),
        },
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Name a mill."},
        {
            "name a MILL. Varn": (True, True),
            "Varn": (False, False),
            "Sure.\nName a mill. Varn": (False, True),
        },
    ),
    (
        "change_case:english_capital",
        {},
        {
            "THE OLD MILL STANDS BY THE RIVER": (True, True),
            "The old mill stands by the river": (False, False),
            "123": (False, False),
        },
    ),
    (
        "change_case:english_lowercase",
        {},
        {
            "the old mill stands by the river": (True, True),
            "die alte mühle steht am fluss im tal": (False, False),
            "The\nthe old mill stands by the river": (False, True),
        },
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        {"THE mill": (True, True), "THE OLD mill": (False, False), "I am A-B C": (False, False)},
    ),
    (
        "language:response_language",
        {"language": "de"},
        {
            "Die alte Mühle steht am Fluss im Tal.": (True, True),
            "The old mill stands by the river.": (False, False),
            "Sure:\nDie alte Mühle steht am Fluss im Tal.": (True, True),
        },
    ),
]


@pytest.fixture(scope="module")
def score() -> Any:
    """lm-eval's scorer, with a sentence splitter of ours that knows one abbreviation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nltk.data, "path", [str(SPLITTER)])
        from lm_eval.tasks.ifeval.utils import process_results

        yield process_results


def document(columns: list[str], name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A document as the hub has it: every instruction has the columns of all, None if unused."""
    return {
        "key": 1,
        "prompt": PROMPT,
        "instruction_id_list": [name],
        "kwargs": [{column: settings.get(column) for column in columns}],
    }


def test_every_instruction(score: Callable[..., dict[str, Any]]) -> None:
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    assert sorted(name for name, *_ in VERDICTS) == sorted(INSTRUCTION_DICT)
    columns = sorted({column for _, settings, _ in VERDICTS for column in settings})
    found = {}
    for name, settings, answers in VERDICTS:
        doc = document(columns, name, settings)
        for answer in answers:
            with draws_of(0, name):
                metrics = score(doc, [answer])
            strict, loose = metrics["inst_level_strict_acc"], metrics["inst_level_loose_acc"]
            assert [metrics["prompt_level_strict_acc"]] == strict  # there is one instruction
            assert [metrics["prompt_level_loose_acc"]] == loose
            found[name, answer] = (strict[0], loose[0])
    wanted = {(name, text): pair for name, _, answers in VERDICTS for text, pair in answers.items()}
    assert found == wanted


def test_a_letter_that_is_a_sign_is_drawn_once(score: Callable[..., dict[str, Any]]) -> None:
    """The authors' checker takes any letter instead of "#" (two of the 541 documents)."""
    settings = {"letter": "#", "let_frequency": 1, "let_relation": "at least"}
    doc = document(list(settings), "keywords:letter_frequency", settings)

    def verdicts(seed: int | None) -> set[bool]:
        found = set()
        for state in range(20):
            random.seed(state)
            with draws_of(seed, "a document"):
                found.add(score(doc, ["abcdefghijklm"])["prompt_level_strict_acc"])
        return found

    assert verdicts(None) == {True, False}
    assert len(verdicts(0)) == 1
