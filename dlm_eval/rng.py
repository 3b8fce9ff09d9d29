"""Random numbers that belong to a request, not to a run.

Every draw is a pure function of (seed, identity of the request, stream, step, position). Batch
size, other rows of the batch, order, number of devices, `--limit` and resuming therefore do not
change it. The generator is Philox (Salmon et al. 2011), which is counter-based.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlm_eval.canvas import Canvas


def digest(*parts: object) -> str:
    """Returns the sha256 (hex) of `parts` as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Noise:
    """The random streams of one request.

    Attributes:
        key: 64 hexadecimal characters that identify seed and request.
    """

    key: str

    @classmethod
    def of(cls, canvas: Canvas, seed: int) -> Noise:
        """Returns the noise of `canvas`: by its key, or by its content if it has none."""
        identity = canvas.key or digest(canvas.tokens, canvas.open)
        return cls(digest("noise", seed, identity))

    def generator(self, stream: str, step: int = 0) -> np.random.Generator:
        """Returns a generator at the start of (stream, step)."""
        key = int(self.key[:32], 16)
        place = int(hashlib.sha256(stream.encode()).hexdigest()[:16], 16)
        # Counter words, low to high: running count, step, stream. Streams of one request never
        # overlap.
        counter = (place << 192) | (step << 128)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def uniforms(self, stream: str, step: int, n: int) -> NDArray[np.float64]:
        """Returns [n] float64 uniform numbers in [0, 1).

        Entry i depends only on (stream, step, i), not on n.
        """
        return self.generator(stream, step).random(n)
