"""Random draws of scorers depend on the run's seed and the document, and on nothing else.

Some scorers draw. IFEval's takes any letter for the two documents whose letter is "#" or "!", as its
authors' script does, and identifies languages by langdetect, which samples a text's n-grams. Scorers
of multiple choice (`mmmu`, `pisa`) take any choice for an answer that they cannot read. Without a
seed a verdict changes from run to run; with one seed per run, with the documents scored before.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from dlm_eval.patching import replaced


@contextmanager
def draws_of(seed: int | None, doc: str) -> Iterator[None]:
    """Seeds the generators of Python, numpy and langdetect; restores them at the end.

    Args:
        seed: the run's seed for Python's generator; None leaves all generators as they are.
        doc: key of the document (`results.doc_key`).
    """
    if seed is None:
        yield
        return
    before = random.getstate(), np.random.get_state()
    random.seed(f"{seed} {doc}")
    np.random.seed(random.getrandbits(32))
    try:
        with ExitStack() as stack:
            if (module := sys.modules.get("langdetect.detector_factory")) is not None:
                stack.enter_context(replaced(module.DetectorFactory, "seed", seed))
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
