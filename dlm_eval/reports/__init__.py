"""Reports: the tables of a run, leaderboards, sweeps and traces."""

from __future__ import annotations

from dlm_eval.reports.board.leaderboard import leaderboard, wide
from dlm_eval.reports.board.make import read_board

__all__ = ["leaderboard", "read_board", "wide"]
