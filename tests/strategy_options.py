"""Options without which a strategy is refused, for tests of all strategies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COUNTS = str(Path(__file__).parent / "data" / "token_counts.json")
NEEDED: dict[str, dict[str, Any]] = {  # options without which a strategy is refused
    "pc_sampler": {"prior": COUNTS},
    "linear_position": {"prior": COUNTS},
    "frechet": {"frechet_margin": 0.02},
    "threshold": {"threshold": 0.6},
    "factor": {"factor": 1.0},
    "entropy_bound": {"entropy_bound": 0.5},
    "edit": {"threshold": 0.6, "editing_threshold": 0.5},
    "daedal": {"max_gen_length": 16},
    "rho_eos": {"max_gen_length": 16},
}
