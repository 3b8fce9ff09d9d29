"""What a check can find."""

from __future__ import annotations

from dataclasses import dataclass

# Kinds of findings. The first two fail the check, the next two fail it under --strict.
BROKEN, REGRESSION, UNPROVEN, CHANGED, NOTE = "broken", "regression", "unproven", "changed", "note"


@dataclass(frozen=True)
class Finding:
    """One thing that a check has found.

    Attributes:
        kind: `broken`, `regression`, `unproven`, `changed` or `note`.
        task: the task; "" for the whole run.
        text: one sentence.
    """

    kind: str
    task: str
    text: str
