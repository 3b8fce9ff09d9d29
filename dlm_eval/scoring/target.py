"""What an estimator sees of a canvas: n tokens to score, and rows in which some of them are hidden.

What is hidden is told by booleans, never by comparing ids: for some models the mask is an ordinary word, which natural text contains.

Shape letters: L = positions of the row, n = open tokens, R = mask patterns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.engine import Ints, LogProbs, Reader, Reading, Row, Walk
from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.denoiser import Denoiser, caching, check_ids
from dlm_eval.models.kv_cache import KVCache
from dlm_eval.printable import counted

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
LOG_PROBS = LogProbs()


@dataclass(frozen=True, eq=False)
class Target:
    """The n tokens to score.

    Attributes:
        tokens: [L] ids of the text as it ends up.
        places: [n] positions of the tokens to score, ascending.
        mask_id: what a hidden position holds.
        unguided: [L] bool, true where the unconditional twin of classifier-free guidance shows the mask; None without guidance.
        guidance: factor f of guided logits u + f (c - u).
        model: for estimators that ask it for more than log-probabilities.
        known: log-probabilities read so far: pattern -> [n] nats (nan where not read).
        past: positions from the left that no pattern hides or changes (a block-causal model's blocks before this one), so that they are run once.
        memory: keys and values of the past.
    """

    tokens: Ints
    places: Ints
    mask_id: int
    unguided: Bools | None = None
    guidance: float = 1.0
    model: Denoiser | None = None
    known: dict[bytes, Floats] = field(default_factory=dict)
    past: int = 0
    memory: KVCache = field(default_factory=KVCache)

    @property
    def n(self) -> int:
        return len(self.places)

    @property
    def truth(self) -> Ints:
        """[n] the tokens to score."""
        return self.tokens[self.places]

    def row(self, hidden: Bools, read: Bools, reader: Reader = LOG_PROBS, payload: NDArray[Any] | None = None) -> Row:
        """Returns the row in which the tokens `hidden` [n] show the mask, to be read at `read` [n] (payload: their ids by default)."""
        tokens = self.tokens.copy()
        tokens[self.places[hidden]] = self.mask_id
        plain = None if self.unguided is None else np.where(self.unguided, self.mask_id, tokens)
        return Row(
            tokens, self.places[read], reader, self.truth[read] if payload is None else payload, plain, self.guidance
        )


def check_model(model: Denoiser) -> None:
    """Raises UserError where the model has no masked likelihood."""
    if model.process != "absorbing":
        raise UserError(
            f"{model.name}: no likelihood estimator is known for a '{model.process}' process; "
            "only models that mask tokens ('absorbing') can be scored"
        )


def check_canvas(model: Denoiser, canvas: Canvas) -> SampleError | None:
    """Returns why `model` cannot score `canvas`, or None; raises UserError where the canvas has no truth."""
    if BLANK in canvas.tokens:
        raise UserError(
            "a canvas with blank positions can be filled, not scored: give the tokens whose likelihood is wanted"
        )
    if len(canvas) > model.max_length:
        return SampleError(f"{counted(len(canvas), 'token', 'do')} not fit the model's {model.max_length} positions")
    if model.needs_bos and canvas.open[:1] == (True,):
        return SampleError(
            f"position 0 is open, but {model.name} has no prediction for it: put a BOS token before the text"
        )
    return check_ids(model, canvas, scored=True)


def targets(model: Denoiser, canvas: Canvas, cfg_scale: float = 0.0) -> list[Target]:
    """Returns the targets whose log-likelihoods add up to that of `canvas`.

    One for a model with full attention. For a block-causal one, a target per block (aligned to absolute positions) with open tokens: the past is
    clean and the future absent, as when the model writes (BD3LM, arXiv 2503.09573).
    """
    tokens, is_open = np.asarray(canvas.tokens, dtype=np.int64), np.asarray(canvas.open, dtype=bool)
    places = np.flatnonzero(is_open)
    if model.attention != "block":
        return [_target(model, tokens, is_open, places, cfg_scale)]
    assert model.block_length is not None
    blocks = np.unique(places // model.block_length)
    ends = [min(len(tokens), (int(block) + 1) * model.block_length) for block in blocks]
    inside = [places[places // model.block_length == block] for block in blocks]
    return [_target(model, tokens[:end], is_open[:end], own, cfg_scale) for end, own in zip(ends, inside, strict=True)]


def _target(model: Denoiser, tokens: Ints, is_open: Bools, places: Ints, cfg_scale: float) -> Target:
    if not cfg_scale:
        return Target(tokens, places, model.mask_id, model=model, past=_past(model, places))
    # The unconditional twin masks the context: all that is not open, but for a BOS that the model cannot do without.
    context = ~is_open
    context[:1] &= not model.needs_bos
    return Target(tokens, places, model.mask_id, context, cfg_scale + 1.0, model)


def _past(model: Denoiser, places: Ints) -> int:
    """Returns how many positions before `places` have settled, and are remembered besides the one that is read left of them."""
    if model.attention != "block":
        return 0
    knowing = caching(model)
    if knowing is None or knowing.exact_cache_block is None:
        return 0
    settled = int(places[0]) // knowing.exact_cache_block * knowing.exact_cache_block
    return max(0, min(settled, int(places[0]) - knowing.logit_shift))


def ask(target: Target, rows: list[Row]) -> Walk[list[Reading]]:
    """Returns the readings of `rows`, patterns of `target`. Of several the first runs the past, and the others remember it."""
    readings: list[Reading] = []
    if target.past and not len(target.memory.tokens) and len(rows) > 1:
        readings = yield [replace(rows[0], memory=target.memory, keep=target.past)]
        rows = rows[1:]
    if len(target.memory.tokens):
        rows = [replace(row, memory=target.memory, live=(target.past, len(row.tokens))) for row in rows]
    return readings + ((yield rows) if rows else [])


def measure(target: Target, hidden: Bools, read: Bools) -> Walk[Floats]:
    """Returns log p(true token) [R, n] in nats under each mask pattern, nan where not read. What is known already is not run again.

    Args:
        target: the tokens to score.
        hidden: [R, n] which tokens each pattern hides.
        read: [R, n] which of them to read. Patterns with nothing to read cost nothing.
    """
    known = target.known
    names = [pattern.tobytes() for pattern in hidden]
    wanted: dict[bytes, tuple[Bools, Bools]] = {}
    for name, pattern, reading in zip(names, hidden, read, strict=True):
        if name in wanted:
            wanted[name] = (pattern, wanted[name][1] | reading)
        elif reading.any() and (name not in known or np.isnan(known[name][reading]).any()):
            wanted[name] = (pattern, reading)
    if wanted:
        answers = yield from ask(target, [target.row(pattern, reading) for pattern, reading in wanted.values()])
        for name, (_, reading), (logs,) in zip(wanted, wanted.values(), answers, strict=True):
            if np.isnan(logs).any():
                raise SampleError("the model returned log-probabilities that are NaN")
            known.setdefault(name, np.full(target.n, np.nan))[reading] = logs
    nothing = np.full(target.n, np.nan)
    found = np.stack([known.get(name, nothing) for name in names]) if names else np.empty((0, target.n))
    return np.where(read, found, np.nan)
