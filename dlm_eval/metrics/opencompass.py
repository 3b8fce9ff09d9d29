"""Answers as OpenCompass reads them, in the copy that LLaDA's authors evaluate with
(ML-GSAI/LLaDA b7e6c35, folder opencompass/opencompass).

The functions with `resps` and `docs` are filters of task YAMLs (`function: custom`). They return
what is found in each answer, so that samples show it.

* `option_letters`: the letter of a choice (utils/text_postprocessors.py:73-151).
* `last_numbers`, `number_results`: GSM8K (datasets/gsm8k.py:43-49, 64-91).
* `humaneval_programs` (datasets/humaneval.py:182-186), `mbpp_programs` (datasets/mbpp.py:309-354).
* `four_choices`, `gpqa_choices`, `mmlu_pro_choices`: documents as its data sets make them.

MATH is in `opencompass_math`.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Answers = Iterable[Sequence[str]]  # of each document
Docs = Iterable[Mapping[str, Any]]

OPTIONS = "ABCD"
# What stands around the letter of the choice, one pattern a line. @ is the letter. The first
# pattern that matches anywhere, with a letter in its first group (in the whole match if that group
# is empty), decides. Two of the Chinese ones are one in the source, by a missing comma.
AROUND_OPTION = r"""
答案是?\s*@
答案是?\s*：\s*@
答案是?\s*:\s*@
答案选项应?该?是\s*@
答案选项应?该?为\s*@
答案应该?是\s*@
答案应该?选\s*@
答案选项为?\s*：\s*@
答案选项为?\s+\(?\*?\*?@\*?\*?\)?
答案选项是?\s*:\s*@
答案为\s*@
答案选\s*@
选择?\s*@
故选?\s*@只有选?项?\s?@\s?是?对
只有选?项?\s?@\s?是?错
只有选?项?\s?@\s?不?正确
只有选?项?\s?@\s?错误
说法不?对选?项?的?是\s?@
说法不?正确选?项?的?是\s?@
说法错误选?项?的?是\s?@
@\s?是正确的
@\s?是正确答案
选项\s?@\s?正确
所以答\s?@
所以\s?([ABCD][.。$]?$)
所有\s?([ABCD][.。$]?$)
[\s，：:,]@[。，,\.]?$
[\s，,：:][故即]@[。\.]?$
[\s，,：:]因此@[。\.]?$
[是为。]\s?@[。\.]?$
因此\s?@[。\.]?$
显然\s?@[。\.]?$
答案是\s?(\S+)(?:。|$)
答案应该是\s?(\S+)(?:。|$)
答案为\s?(\S+)(?:。|$)
(?i)ANSWER\s*:\s*@
[Tt]he answer is:?\s+\(?@\)?
[Tt]he answer is:?\s+\(?\*?\*?@\*?\*?\)?
[Tt]he answer is option:?\s+\(?@\)?
[Tt]he correct answer is:?\s+\(?@\)?
[Tt]he correct answer is option:?\s+\(?@\)?
[Tt]he correct answer is:?.*?boxed{@}
[Tt]he correct option is:?.*?boxed{@}
[Tt]he correct answer option is:?.*?boxed{@}
[Tt]he answer to the question is:?\s+\(?@\)?
^选项\s?@
^@\s?选?项
(\s|^)[ABCD][\s。，,：:\.$]
1.\s?(.*?)$
1.\s?@[.。$]?$
@:
@
"""
OPTION = tuple(
    re.compile(line.replace("@", f"([{OPTIONS}])"), re.DOTALL)
    for line in AROUND_OPTION.strip().splitlines()
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
CLOSED_FENCE = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


def option_letter(text: str) -> str:
    """Returns the letter (A to D) that an answer names; "" if it has none."""
    text = text.strip()
    for pattern in OPTION:
        found = pattern.search(text)
        if found:
            named = found[1] or found[0]
            letter = next((letter for letter in OPTIONS if letter in named), None)
            if letter is not None:
                return letter
    return ""


def last_number(text: str) -> str:
    """Returns the last number before the next ``Question:``; "NULL" if there is none."""
    found = NUMBER.findall(text.partition("Question:")[0])
    return found[-1] if found else "NULL"


def number_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether a written number equals GSM8K's answer to within 1e-6."""
    right = int(doc["answer"].split("#### ")[1].replace(",", ""))
    written = results[0]
    return {"exact_match": float(written != "NULL" and abs(float(written) - right) < 1e-6)}


def fenced_program(text: str) -> str:
    """Returns the code in the first closed fence, or the whole answer, without white space before
    it. The body of a function, which begins with white space, is therefore lost; the whole function
    is not."""
    found = CLOSED_FENCE.search(text)
    return (found[1] if found else text).lstrip()


def _mbpp_patterns() -> Iterable[str]:
    """Yields what stands around MBPP's programs, the likeliest first. `(.*)` is the program."""
    quotes = (("'", "'"), ("'", ""), ("", ""))
    for (before, after), end, begin in itertools.product(
        quotes, (r"\[DONE\]", "DONE"), (r"\[BEGIN\]", "BEGIN")
    ):
        yield rf"{begin}\s*{before}(.*){after}\s*{end}"
    for end, language in itertools.product(("```", "$"), ("python", "")):
        yield rf"```{language}\s*(.*)\s*{end}"
    yield from (r"(.*)\s*```.*", r"\[BEGIN\]\s*'(.*)", r"\[BEGIN\](.*)", r"'(.*)'\s*\[DONE\]")


MBPP = tuple(re.compile(pattern, re.DOTALL) for pattern in _mbpp_patterns())
MBPP_END = re.compile(r"'?\s*\[?DONE\]?")


def marked_program(text: str) -> str:
    """Returns the program of an answer to MBPP's prompt, which shows it in quotes between [BEGIN]
    and [DONE]; a fence, and marks of which one is missing, are understood too."""
    found = next((match for pattern in MBPP if (match := pattern.search(text))), None)
    program, *_ = (found[1] if found else text).split("```")
    program = MBPP_END.split(program)[0].replace("\\_", "_").strip()
    return program.removeprefix("'").removesuffix("'")


# -- filters ---------------------------------------------------------------------------------------


def option_letters(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the letter that each answer names."""
    return _each(resps, docs, lambda text, _: option_letter(text))


def last_numbers(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the last number of each answer."""
    return _each(resps, docs, lambda text, _: last_number(text))


def humaneval_programs(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns HumanEval's prompt and the code of each answer, which must be the whole function."""
    return _each(resps, docs, lambda text, doc: f"{doc['prompt']}{fenced_program(text)}")


def mbpp_programs(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the program of each answer to MBPP's prompt."""
    return _each(resps, docs, lambda text, _: marked_program(text))


def _each(
    resps: Answers, docs: Docs, found: Callable[[str, Mapping[str, Any]], str]
) -> list[list[str]]:
    return [[found(text, doc) for text in texts] for texts, doc in zip(resps, docs, strict=True)]


# -- documents -------------------------------------------------------------------------------------


def four_choices(docs: Any) -> Any:
    """Returns ARC's documents that have four choices, with their right letter (`letter`)."""
    four = docs.filter(lambda doc: len(doc["choices"]["text"]) == 4, load_from_cache_file=False)
    return four.map(_with_letter, load_from_cache_file=False)


def _with_letter(doc: dict[str, Any]) -> dict[str, Any]:
    return {"letter": OPTIONS[doc["choices"]["label"].index(doc["answerKey"])]}


def gpqa_choices(docs: Any) -> Any:
    """Returns GPQA's documents with shuffled `choices` and the right `letter`. The order is the
    source's: one generator with seed 0 for all documents (datasets/gpqa.py:46-91)."""
    rng = random.Random(0)
    orders = []
    for _ in range(len(docs)):
        orders.append(list(range(4)))
        rng.shuffle(orders[-1])
    return docs.map(
        lambda doc, number: _shuffled(doc, orders[number]),
        with_indices=True,
        load_from_cache_file=False,
    )


def _shuffled(doc: dict[str, Any], order: Sequence[int]) -> dict[str, Any]:
    names = ("Correct Answer", *(f"Incorrect Answer {number}" for number in (1, 2, 3)))
    choices = [doc[names[place]] for place in order]
    return {"choices": choices, "letter": OPTIONS[choices.index(doc["Correct Answer"])]}


def mmlu_pro_choices(docs: Any) -> Any:
    """Returns MMLU-Pro's documents with the list of choices as text (`options_text`)."""
    return docs.map(_with_options, load_from_cache_file=False)


def _with_options(doc: dict[str, Any]) -> dict[str, Any]:
    letters = "ABCDEFGHIJKLMNOP"
    lines = [
        f"{letter}. {text}"
        for letter, text in zip(letters, doc["options"], strict=False)
        if text != "N/A"
    ]
    return {"options_text": "\n".join(lines).strip()}


def category_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Returns whether the letter is MMLU-Pro's; `acc_macro` is for `subjects.macro`."""
    right = float(results[0] == doc["answer"])
    return {"acc": right, "acc_macro": (doc["category"], right)}
