"""Whether a row's reading depends on the rows that share its batch: what a result says of the machine that made it.

On CUDA, kernels are chosen by a batch's shape and sum in another order; two runs with other batch mates may differ in the last bits, and where two
tokens are almost equally probable, in a token. A probe can show that a row does depend on its batch; that it never does no probe can show.
"""

from __future__ import annotations

import torch

from dlm_eval.models.denoiser import Denoiser

LENGTHS = (24, 17, 24, 9)  # positions of the rows that are tried
SEED = 0


def batch_invariant(model: Denoiser, device: torch.device, rows: int | None, equal_lengths: bool) -> bool | None:
    """Returns whether readings are the same in any batch; None where that is not known.

    Args:
        model: the denoiser.
        device: where it runs.
        rows: rows in a batch at most, or None.
        equal_lengths: whether rows share a batch only with rows of their own length.
    """
    if rows == 1:
        return True  # there are no batch mates
    if device.type == "cpu" and equal_lengths:
        # Without padding and on one thread each row's sums are formed in one order; several threads share them out by the shape.
        return True if torch.get_num_threads() == 1 else None
    return False if depends_on_batch(model, device) else None


@torch.inference_mode()
def depends_on_batch(model: Denoiser, device: torch.device) -> bool:
    """Returns whether a few rows have other bits together, padded, than alone. Where they cannot be run nothing is shown."""
    generator = torch.Generator().manual_seed(SEED)
    lengths = [min(length, model.max_length) for length in LENGTHS]
    tokens = torch.randint(0, model.vocab_size, (len(lengths), max(lengths)), generator=generator)
    valid = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    tokens[:, 1::3] = model.mask_id if model.mask_id >= 0 else tokens[:, 1::3]
    tokens = torch.where(valid, tokens, model.pad_id).to(device)
    try:
        together = model.logits(tokens, valid.to(device), None)
        alone = [model.logits(tokens[i : i + 1, :length], None, None)[0] for i, length in enumerate(lengths)]
    except (RuntimeError, IndexError, ValueError):
        return False
    return any(not torch.equal(together[i, : lengths[i]], own) for i, own in enumerate(alone))
