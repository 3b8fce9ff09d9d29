"""Converts lm-eval's requests to canvases: text to token ids.

Shape letters: L = positions of a canvas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from dlm_eval.canvas import Canvas
from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.denoiser import Denoiser, bos_only_if_empty, text_start
from dlm_eval.printable import counted
from dlm_eval.settings import shown

Overlong = Literal["truncate", "error"]
SpecialTokens = Literal["model", "tokenizer", "none"]
HOLE = "hole"  # name of the generation argument whose value is a `Hole`
CHOICE = "choice"  # name of the likelihood argument whose value is a `ChoiceForm`
BLOCK = "block"  # name of the likelihood argument whose value is a `Block`
LENGTH = re.compile(r"oracle(?:\+(\d+))?|([1-9]\d*)")


@dataclass(frozen=True)
class Prepared:
    """A canvas, and the number of tokens cut from its context."""

    canvas: Canvas
    truncated: int = 0


@dataclass(frozen=True)
class Length:
    """The length of a hole: a fixed number of tokens, or the length of its longest reference.

    Attributes:
        tokens: the number of tokens; None for the length of the longest reference ("oracle").
        more: number of tokens added to an oracle length.
    """

    tokens: int | None = None
    more: int = 0

    @classmethod
    def parse(cls, text: str) -> Length:
        """Returns the length that a task's text describes.

        Raises:
            ValueError: it is neither 'oracle', 'oracle+K' nor a number above 0.
        """
        match = LENGTH.fullmatch(text.strip())
        if match is None:
            raise ValueError(text)
        return cls(int(match[2])) if match[2] else cls(None, int(match[1] or 0))

    def __str__(self) -> str:
        if self.tokens is not None:
            return str(self.tokens)
        return f"oracle+{self.more}" if self.more else "oracle"


@dataclass(frozen=True)
class Hole:
    """A hole as described by a task (`harness.infill.InfillSpec`), or several of equal length with
    given text between them. It is a generation argument of a request.

    Attributes:
        length: length of the hole; of several, of each.
        suffix: text after the (last) hole.
        references: reference answers; the longest one in tokens sets the oracle length.
        measure: how to count the tokens of a reference. 'alone': the reference by itself.
            'in_place': the tokens that it adds after the prefix. 'canvas': the length is that of
            prefix, hole and suffix together.
        special_tokens: what stands before the prefix (see `begin`).
        between: the texts between several holes, in order; "" for two that adjoin.
        drafts: the texts that the holes begin with, one for each; empty if they begin open.
    """

    length: Length
    suffix: str = ""
    references: tuple[str, ...] = ()
    measure: str = "alone"
    special_tokens: SpecialTokens = "model"
    between: tuple[str, ...] = ()
    drafts: tuple[str, ...] = ()

    def sets(self, length: int) -> bool:
        """Returns whether the task sets this number of open positions for all documents. Several
        holes are as many as a document needs.
        """
        return not self.between and self.length.tokens == length

    def joined(self, written: Sequence[str]) -> str:
        """Returns the texts in the holes with those between them."""
        return "".join(
            part for pair in zip_longest(written, self.between, fillvalue="") for part in pair
        )

    def plain(self) -> dict[str, Any]:
        """Returns the hole as plain data for samples files."""
        others = {
            "between": list(self.between),
            "suffix": self.suffix,
            "references": list(self.references),
            "drafts": list(self.drafts),
        }
        measured = {} if self.measure == "alone" else {"measure": self.measure}
        begun = {} if self.special_tokens == "model" else {"special_tokens": self.special_tokens}
        return {
            "length": str(self.length),
            **{key: value for key, value in others.items() if value},
            **measured,
            **begun,
        }


@dataclass(frozen=True)
class ChoiceForm:
    """How a choice that is encoded apart from its context is encoded and scored
    (`harness.choices.ChoiceSpec`). It is an argument of a request.

    Attributes:
        special_tokens: what stands before the context, and before each other part (see `begin`).
        suffix: the end of the text to score, encoded apart from what is before it.
        score: 'sum', or 'mean' per scored token, of the log-probabilities.
    """

    special_tokens: SpecialTokens = "model"
    suffix: str = ""
    score: Literal["sum", "mean"] = "sum"

    def parts(self, text: str) -> tuple[str, str]:
        """Returns the texts that are encoded apart: the choice, and the text behind it."""
        return text.removesuffix(self.suffix), self.suffix

    def plain(self) -> dict[str, Any]:
        """Returns the form as plain data for samples files."""
        behind = {"suffix": self.suffix} if self.suffix else {}
        return {"special_tokens": self.special_tokens, **behind, "score": self.score}


@dataclass(frozen=True)
class Block:
    """Tokens to score in place of a text (`harness.blocks`). It is an argument of a request.

    Attributes:
        tokens: ids of the whole block.
        given: number of its first tokens that are context.
    """

    tokens: tuple[int, ...]
    given: int = 0

    @property
    def parts(self) -> tuple[list[int], list[int]]:
        """The ids of the context, and those to score."""
        return list(self.tokens[: self.given]), list(self.tokens[self.given :])

    def plain(self) -> dict[str, Any]:
        """Returns the sizes of the block for samples files; its tokens are in the document."""
        return {"tokens": len(self.tokens), "given": self.given}


class UnbuiltPrompt(str):
    """The reason why a document's prompt could not be built; it replaces the prompt.

    It is a text, so that lm-eval's own models can process the request. Our models return it as the
    error of the request.
    """


def pair_texts(context: str, continuation: str) -> tuple[str, str]:
    """Returns the texts that `encode_pair` encodes: context and continuation, context."""
    return context + continuation, context.rstrip()


def encode_pair(model: Denoiser, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Returns the ids of context and continuation, split in the encoding of the whole text.

    Trailing spaces of the context move to the continuation, as in lm-eval. A token that spans the
    boundary belongs to the continuation. The scored tokens are therefore always tokens of the whole
    text.

    Raises:
        SampleError: there is nothing to score.
    """
    text, context = pair_texts(context, continuation)
    whole, head = list(model.encode(text)), list(model.encode(context))
    shared = len(head)
    if whole[:shared] != head:
        shared = next(i for i, pair in enumerate(zip_longest(whole, head)) if pair[0] != pair[1])
    if shared == len(whole):
        raise SampleError("the continuation is empty: there is nothing to score")
    return whole[:shared], whole[shared:]


def begin(
    model: Denoiser, ids: Sequence[int], special_tokens: SpecialTokens = "model"
) -> list[int]:
    """Returns the ids of the first text of a canvas, with the special tokens before them.

    A model that cannot predict position 0 gets a BOS in any case if there is no other token.

    Args:
        special_tokens: 'model': BOS if the model needs it and `ids` do not begin with it (a chat
            template may have added it; some models need it only if there is no other token).
            'tokenizer': what the checkpoint's tokenizer puts before a text. 'none': nothing.

    Raises:
        UserError: the model needs a BOS and its tokenizer has none.
    """
    if special_tokens == "tokenizer":
        ids = [*text_start(model), *ids]
    if special_tokens != "model" and ids:
        return list(ids)
    if not model.needs_bos or (ids and (ids[0] == model.bos_id or bos_only_if_empty(model))):
        return list(ids)
    if model.bos_id is None:
        raise UserError(
            f"model {model.name} cannot predict position 0 and its tokenizer has no BOS token"
        )
    return [model.bos_id, *ids]


def encode_apart(
    model: Denoiser, context: str, choice: str, form: ChoiceForm
) -> tuple[list[int], list[int]]:
    """Returns the ids of the context and those to score, each text encoded by itself.

    Raises:
        SampleError: there is nothing to score.
    """
    start = text_start(model) if form.special_tokens == "tokenizer" else []
    parts = [model.encode(text) for text in form.parts(choice) if text]
    if not any(parts):
        raise SampleError("the continuation is empty: there is nothing to score")
    head = begin(model, model.encode(context), form.special_tokens)
    return head, [token for part in parts for token in (*start, *part)]


def form_of(arguments: Sequence[Any]) -> ChoiceForm | None:
    """Returns the `ChoiceForm` of a likelihood request's arguments; None if it has none."""
    return arguments[2][CHOICE] if len(arguments) > 2 else None


def block_of(arguments: Sequence[Any]) -> Block | None:
    """Returns the `Block` of a whole text's arguments; None if it is a text."""
    return arguments[1][BLOCK] if len(arguments) > 1 else None


def _encode_choice(model: Denoiser, arguments: Sequence[Any]) -> tuple[list[int], list[int]]:
    form = form_of(arguments)
    if form is not None:
        return encode_apart(model, arguments[0], arguments[1], form)
    head, target = encode_pair(model, arguments[0], arguments[1])
    return begin(model, head), target


def choice_canvases(
    model: Denoiser, pairs: Sequence[Sequence[Any]], key: str, overlong: Overlong
) -> list[Prepared]:
    """Returns one canvas per choice of a question, from its arguments: context, continuation, and
    the `ChoiceForm` if they are encoded apart.

    If one choice does not fit the model, the context of all choices is cut by the same number of
    tokens, since likelihoods under different contexts are not comparable.

    Raises:
        SampleError: a continuation is empty or does not fit the model.
    """
    parts = [_encode_choice(model, pair) for pair in pairs]
    excess = max(len(head) + len(target) - model.max_length for head, target in parts)
    found = []
    for (context, *_), (head, target) in zip(pairs, parts, strict=True):
        # Without a context, each choice is cut by itself.
        own = excess if context else len(head) + len(target) - model.max_length
        head, _, cut = _fit(model, head, len(target), (), overlong, own)
        found.append(Prepared(Canvas.continuation(head, target, key), cut))
    return found


def hole_canvas(
    model: Denoiser, prefix: str, length: int, hole: Hole, key: str, overlong: Overlong
) -> Prepared:
    """Returns the canvas with `length` open positions, of one hole or several, after `prefix`.

    A draft is encoded by itself. If it has fewer tokens than its hole, the rest begins open.

    Raises:
        SampleError: the holes alone do not fit the model, (with `overlong='error'`) the whole
            canvas does not, or a draft does not fit its hole.
    """
    head = begin(model, model.encode(prefix), hole.special_tokens)
    tail = model.encode(hole.suffix) if hole.suffix else []
    given = [model.encode(text) if text else [] for text in hole.between]
    middle, each = length + sum(map(len, given)), length // (len(given) + 1)
    drafts = [model.encode(text) for text in hole.drafts]
    for text, ids in zip(hole.drafts, drafts, strict=True):
        if len(ids) > each:
            raise SampleError(
                f"the draft '{shown(text)}' has {counted(len(ids), 'token')}, and its hole {each}"
            )
    head, tail, cut = _fit(model, head, middle, tail, overlong)
    return Prepared(Canvas.holes(head, each, given, tail, key, drafts), cut)


def _fit(
    model: Denoiser,
    head: list[int],
    hole: int,
    tail: Sequence[int],
    overlong: Overlong,
    excess: int | None = None,
) -> tuple[list[int], list[int], int]:
    """Returns head and tail cut to the model's length, and the number of tokens cut.

    The longer of the two is cut first, at the end far from the hole, until both are equally long.

    Args:
        excess: number of tokens to cut; None for the number that does not fit.
    """
    excess = len(head) + hole + len(tail) - model.max_length if excess is None else excess
    if excess <= 0:
        return head, list(tail), 0
    if overlong == "error":
        raise SampleError(
            f"{counted(model.max_length + excess, 'token', 'do')} not fit the model's "
            f"{model.max_length}"
        )
    kept_bos = 1 if model.needs_bos else 0
    given = len(head) - kept_bos
    room = given + len(tail) - excess
    if room < 0 and hole + kept_bos < model.max_length:  # another choice is longer
        raise SampleError(
            f"its context has {counted(given, 'token')}, and another choice leaves no room for "
            f"{excess} of a context's"
        )
    if room < 0:
        raise SampleError(
            f"a hole of {counted(hole, 'token')} does not fit the model's {model.max_length} "
            "positions"
        )
    from_tail = len(tail) - min(len(tail), max(room // 2, room - given))
    from_head = excess - from_tail
    if from_head == given > 0 or from_tail == len(tail) > 0:
        raise SampleError(
            f"{hole} open positions leave nothing of the"
            f" {'prompt' if from_head == given > 0 else 'text after the hole'}"
            f" in the model's {model.max_length}; ask for fewer (gen_length)"
        )
    keeps_bos = model.needs_bos and head[:1] == [model.bos_id] and not bos_only_if_empty(model)
    head = head[:1] + head[1 + from_head :] if keeps_bos else head[from_head:]
    return head, list(tail[: len(tail) - from_tail]), excess


def hole_length(model: Denoiser, hole: Hole, prefix: str) -> int:
    """Returns the number of open positions, of all holes together.

    Raises:
        SampleError: an oracle length has no references or is no token, or the prompt alone fills the
            canvas.
    """
    given = hole.length.tokens
    if given is not None:
        if hole.measure != "canvas":
            return given * (len(hole.between) + 1)
        before = begin(model, model.encode(prefix), hole.special_tokens)
        room = given - len(before) - len(model.encode(hole.suffix))
        if room < 1:
            raise SampleError(
                f"the prompt fills the canvas of {counted(given, 'token')}: nothing is left to "
                "write"
            )
        return room
    if not hole.references:
        raise SampleError("an oracle length needs a reference text, and this document has none")
    longest = max(_tokens(model, hole.measure, prefix, text) for text in hole.references)
    if longest + hole.length.more < 1:  # behind a prefix, a text can even take a token away
        raise SampleError(
            "the reference of an oracle length is empty in the model's tokens: nothing is left to "
            "write"
        )
    return longest + hole.length.more


def _tokens(model: Denoiser, measure: str, prefix: str, text: str) -> int:
    if measure == "in_place":
        return len(model.encode(prefix + text)) - len(model.encode(prefix))
    return len(model.encode(text))
