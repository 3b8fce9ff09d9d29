"""The view of a canvas for an estimator: n tokens to score, and rows that hide some of them.

Booleans say which tokens are hidden, never a comparison of ids: for some models the mask is an
ordinary word, which natural text contains.

Shape letters: L = positions of the row, n = open tokens, R = mask patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlm_eval.canvas import BLANK, Canvas, Score
from dlm_eval.engine.rows import ForwardRow, LogProbs, Output, Program
from dlm_eval.errors import SampleError, UserError
from dlm_eval.likelihood.estimator import KINDS
from dlm_eval.likelihood.mc_error import added
from dlm_eval.likelihood.patterns import Bools, Floats, Ints
from dlm_eval.models.denoiser import (
    Denoiser,
    LogitsOp,
    caching,
    check_ids,
    reads_context,
    tokens_ahead,
)
from dlm_eval.models.kv_cache import KVCache
from dlm_eval.printable import counted
from dlm_eval.rng import Noise, digest
from dlm_eval.uncertainty import Error, half_width, summed

LOG_PROBS = LogProbs()


@dataclass(frozen=True, eq=False)
class Target:
    """The n tokens to score.

    Attributes:
        tokens: [L] ids of the whole text.
        places: [n] positions of the tokens to score, ascending.
        mask_id: id at hidden positions.
        unguided: [L] bool, true at positions that are masked in the unconditional sequence of
            classifier-free guidance; None without guidance.
        guidance: factor f of guided logits u + f (c - u).
        model: for estimators that need more of it than log-probabilities.
        known: log-probabilities read so far: pattern -> [n] nats (nan if not read).
        past: number of positions, from the left, that no pattern changes (earlier blocks of a
            block-causal model, the text before the last token given to one that predicts the
            next). They run once.
        context: number of tokens before the first one to score, for models that are told
            (`models.denoiser.ReadsContext`); None for others.
        memory: KV cache of these positions.
        asked: distinct sequences of the rows so far -> forward passes of each.
    """

    tokens: Ints
    places: Ints
    mask_id: int
    unguided: Bools | None = None
    guidance: float = 1.0
    model: Denoiser | None = None
    known: dict[bytes, Floats] = field(default_factory=dict)
    past: int = 0
    context: int | None = None
    memory: KVCache = field(default_factory=KVCache)
    asked: dict[tuple[bytes, bytes, float], int] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.places)

    @property
    def truth(self) -> Ints:
        """[n] the tokens to score."""
        return self.tokens[self.places]

    def row(
        self,
        hidden: Bools,
        read: Bools,
        reader: LogitsOp = LOG_PROBS,
        payload: NDArray[Any] | None = None,
        head: Callable[..., Any] | None = None,
        time: float = 0.0,
    ) -> ForwardRow:
        """Returns the row in which the tokens `hidden` are masked, and counts it in `asked`.

        Args:
            hidden: [n] bool, tokens to mask.
            read: [n] bool, tokens to read.
            reader: computes the outputs from their logits.
            payload: the reader's input for each token to read; by default their ids.
            head: method of the model to call; None for `logits`.
            time: noise level passed to the model.
        """
        tokens = self.tokens.copy()
        tokens[self.places[hidden]] = self.mask_id
        plain = None if self.unguided is None else np.where(self.unguided, self.mask_id, tokens)
        payload = self.truth[read] if payload is None else payload
        row = ForwardRow(
            tokens, self.places[read], reader, payload, plain, self.guidance, head=head, time=time,
            context=self.context,
        )  # fmt: skip
        self.asked[tokens.tobytes(), b"" if plain is None else plain.tobytes(), time] = row.passes
        return row

    def noisy_row(
        self,
        noisy: Ints,
        reader: LogitsOp,
        payload: NDArray[Any],
        head: Callable[..., Any],
        time: float,
    ) -> ForwardRow:
        """Returns the row in which the tokens to score are `noisy` [n], and counts it in `asked`.

        All n are read. The other arguments are those of `row`.
        """
        tokens = self.tokens.copy()
        tokens[self.places] = noisy
        row = ForwardRow(tokens, self.places, reader, payload, head=head, time=time)
        self.asked[tokens.tobytes(), b"", time] = row.passes
        return row

    def next_row(self, number: int, many: int, reader: LogitsOp) -> ForwardRow:
        """Returns the row that reads token `number` of n behind the text before it, and counts it.

        Args:
            many: masks behind that text.
            reader: gets the token's id and its number.
        """
        place = self.places[number : number + 1]
        tokens = np.append(self.tokens[: int(place[0])], np.full(many, self.mask_id))
        payload = np.array([[self.tokens[place[0]], number]])
        self.asked[tokens.tobytes(), b"", 0.0] = 1
        return ForwardRow(tokens, place, reader, payload)

    @property
    def rows(self) -> int:
        """Number of forward passes of the distinct sequences so far."""
        return sum(self.asked.values())

    def measure(self, hidden: Bools, read: Bools) -> Program[Floats]:
        """Returns log p(true token) [R, n] in nats under each mask pattern, nan if not read.

        Values that are in `known` are not computed again.

        Args:
            hidden: [R, n] bool, tokens that each pattern hides.
            read: [R, n] bool, tokens to read. A pattern with nothing to read needs no forward.

        Raises:
            SampleError: a wrong shape or dtype, or the model returned NaN.
        """
        for what, patterns in (("hidden", hidden), ("read", read)):
            if patterns.dtype != bool or patterns.shape != (len(hidden), self.n):
                shape = f"{patterns.dtype} {list(patterns.shape)}"
                raise SampleError(
                    f"measure({what}=) has {shape}; it must be bool [{len(hidden)}, {self.n}]"
                )
        known = self.known
        names = [pattern.tobytes() for pattern in hidden]
        wanted: dict[bytes, tuple[Bools, Bools]] = {}
        for name, pattern, reading in zip(names, hidden, read, strict=True):
            if name in wanted:
                wanted[name] = (pattern, wanted[name][1] | reading)
            elif reading.any() and (name not in known or np.isnan(known[name][reading]).any()):
                wanted[name] = (pattern, reading)
        if wanted:
            answers = yield from self.ask(
                [self.row(pattern, reading) for pattern, reading in wanted.values()]
            )
            for name, (_, reading), (logs,) in zip(wanted, wanted.values(), answers, strict=True):
                if np.isnan(logs).any():
                    raise SampleError("the model returned log-probabilities that are NaN")
                known.setdefault(name, np.full(self.n, np.nan))[reading] = logs
        nothing = np.full(self.n, np.nan)
        found = (
            np.stack([known.get(name, nothing) for name in names])
            if names
            else np.empty((0, self.n))
        )
        return np.where(read, found, np.nan)

    def ask(self, rows: list[ForwardRow]) -> Program[list[Output]]:
        """Returns the outputs of `rows`.

        If there are several, the first runs the past and the others use its KV cache.
        """
        outputs: list[Output] = []
        if self.past and not len(self.memory.tokens) and len(rows) > 1:
            outputs = yield [replace(rows[0], kv_cache=self.memory, cache_until=self.past)]
            rows = rows[1:]
        if len(self.memory.tokens):
            rows = [
                replace(row, kv_cache=self.memory, query_span=(self.past, len(row.tokens)))
                for row in rows
            ]
        return outputs + ((yield rows) if rows else [])


def check_canvas(model: Denoiser, canvas: Canvas) -> SampleError | None:
    """Returns the error if `model` cannot score `canvas`, else None.

    Raises UserError if the canvas has blank positions.
    """
    if BLANK in canvas.tokens:
        raise UserError(
            "a canvas with blank positions can be filled, not scored: give the tokens whose "
            "likelihood is wanted"
        )
    if len(canvas) > model.max_length:
        return SampleError(
            f"{counted(len(canvas), 'token', 'do')} not fit the model's {model.max_length} "
            "positions"
        )
    if model.needs_bos and canvas.open[:1] == (True,):
        return SampleError(
            f"position 0 is open, but {model.name} has no prediction for it: put a BOS token "
            "before the text"
        )
    if tokens_ahead(model) is not None and not canvas.is_completion:
        return SampleError(
            f"text follows what is to be scored, but {model.name} predicts the next tokens only"
        )
    return check_ids(model, canvas, scored=True)


def targets(model: Denoiser, canvas: Canvas, cfg_scale: float = 0.0) -> list[Target]:
    """Returns the targets whose log-likelihoods add up to that of `canvas`.

    A model with full attention has one target. A block-causal model has one for each block with
    open tokens (blocks are aligned to absolute positions). Earlier blocks are clean and later ones
    absent, as in generation (BD3LM, arXiv 2503.09573).
    """
    tokens, is_open = np.asarray(canvas.tokens, dtype=np.int64), np.asarray(canvas.open, dtype=bool)
    places = np.flatnonzero(is_open)
    if model.attention != "block":
        return [_target(model, tokens, is_open, places, cfg_scale)]
    assert model.block_length is not None
    blocks = np.unique(places // model.block_length)
    ends = [min(len(tokens), (int(block) + 1) * model.block_length) for block in blocks]
    inside = [places[places // model.block_length == block] for block in blocks]
    return [
        _target(model, tokens[:end], is_open[:end], own, cfg_scale)
        for end, own in zip(ends, inside, strict=True)
    ]


def _target(
    model: Denoiser, tokens: Ints, is_open: Bools, places: Ints, cfg_scale: float
) -> Target:
    # blocks of a canvas end within it, so its first open position is in all of them
    context = int(is_open.argmax()) if reads_context(model) else None
    if not cfg_scale:
        past = _past(model, places)
        return Target(tokens, places, model.mask_id, model=model, past=past, context=context)
    # The unconditional sequence masks the context: all positions that are not open, except a BOS
    # that the model needs.
    hidden = ~is_open
    hidden[:1] &= not model.needs_bos
    factor = cfg_scale + 1.0
    return Target(tokens, places, model.mask_id, hidden, factor, model, context=context)


def _past(model: Denoiser, places: Ints) -> int:
    """Returns the number of positions, from the left, that no row changes; they run once."""
    if model.attention == "full" and tokens_ahead(model) is None:
        return 0
    knowing = caching(model)
    if knowing is None or knowing.exact_cache_block is None:
        return 0
    settled = int(places[0]) // knowing.exact_cache_block * knowing.exact_cache_block
    return max(0, min(settled, int(places[0]) - knowing.logit_shift))


def block_noise(noise: Noise, blocks: int) -> list[Noise]:
    """Returns the random numbers of each block of a canvas.

    If all blocks had the same random numbers, their errors would be correlated and their variances
    would not add up.
    """
    return [noise, *(Noise(digest(noise.key, "block", number)) for number in range(1, blocks))]


def merge(scores: Sequence[Score]) -> Score:
    """Returns the score of a whole text: log-likelihoods and bounds of its blocks add up."""
    if len(scores) == 1:
        return scores[0]
    error = summed(s.error for s in scores)
    lower_error, low = _lower_end(scores)
    return Score(
        logprob=sum(s.logprob for s in scores),
        stderr=error.stderr,
        freedom=error.freedom,
        rough_stderr=error.rough,
        least_stderr=error.least,
        echo=added([s.echo for s in scores]),
        kind=max((s.kind for s in scores), key=KINDS.index),
        rows=sum(s.rows for s in scores),
        estimator="+".join(sorted({s.estimator for s in scores})),
        lower=_sum(s.lower for s in scores),
        upper=_sum(s.upper for s in scores),
        lower_stderr=lower_error.stderr,
        upper_stderr=summed(Error(s.upper_stderr) for s in scores).stderr,
        bracket=(low, _sum(s.bracket[1] for s in scores)),
    )


def _lower_end(scores: Sequence[Score]) -> tuple[Error, float | None]:
    """Returns the error of the sum of lower bounds, and the low end of the interval of the sum.

    If a bound is the score itself, it has the error of the score, and such errors are pooled. The
    low ends of the other bounds are added. This is conservative, since errors of independent blocks
    add up to less.
    """
    itself = [s.upper is None and s.lower is not None and s.lower == s.logprob for s in scores]
    pooled = [s for s, same in zip(scores, itself, strict=True) if same]
    others = [s for s, same in zip(scores, itself, strict=True) if not same]
    error = summed(s.error for s in pooled)
    half, rest = half_width(error), _sum(s.bracket[0] for s in others)
    whole = summed([error, *(Error(s.lower_stderr) for s in others)])
    return whole, None if half is None or rest is None else sum(
        s.logprob for s in pooled
    ) - half + rest


def _sum(values: Iterable[float | None]) -> float | None:
    """Returns the sum, or None if a value is None."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
