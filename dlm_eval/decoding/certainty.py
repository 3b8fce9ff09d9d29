"""How much of the text around a position is known (d2Cache, arXiv 2509.23094, section 4.1)."""

from __future__ import annotations

import numpy as np

from dlm_eval.decoding.step import Bools, Floats


def certainty_density(known: Bools, sigma: float) -> Floats:
    """Returns [G] the share of known positions around each, under a gaussian of deviation `sigma`.

    As in the authors' code (src/utils/common.py), G positions on each side count too: those before
    are known, those behind are if the last position is. The weights are normalised over all
    distances below 3 G.

    Args:
        known: [G] whether a position of the generated part has its token.
        sigma: standard deviation, in positions.
    """
    length = len(known)
    sides = np.ones(length), np.full(length, float(known[-1]))
    whole = np.concatenate([sides[0], known, sides[1]])
    distance = np.arange(-3 * length, 3 * length)
    kernel = np.exp(-(distance**2) / (2 * sigma**2))
    reach = kernel[length + 1 : 5 * length]  # distances 1 - 2 G to 2 G - 1
    found: Floats = np.convolve(whole, reach)[3 * length - 1 : 4 * length - 1] / kernel.sum()
    return found
