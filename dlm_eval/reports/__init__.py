"""Leaderboards: tables made from result files (lm-eval's format, with or without our `dlm_eval` block)."""

from __future__ import annotations

from dlm_eval.reports.leaderboard import leaderboard, wide

__all__ = ["leaderboard", "wide"]
