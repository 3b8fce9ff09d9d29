"""The board that is shown if no file declares one: every task's headline score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dlm_eval.reports.board.board_file import MARK, POLICY, BoardFile, Column
from dlm_eval.reports.board.natural import natural
from dlm_eval.reports.files.result_file import ResultFile


def headline_board(files: Sequence[ResultFile]) -> BoardFile:
    """Returns the board of the headline score of every task. It refuses nothing and marks all."""
    names = {
        (row.task, row.metric, row.filter or "none"): None
        for file in files
        for row in file.rows
        if row.headline
    }
    filters = Counter((task, metric) for task, metric, _ in names)
    columns = []
    for task, metric, pipeline in sorted(names, key=lambda name: [natural(part) for part in name]):
        several = filters[task, metric] > 1
        name = f"{task} ({metric}, {pipeline})" if several else f"{task} ({metric})"
        columns.append(
            Column(name, task, metric, pipeline if several else None, None, None, {}, {}, "")
        )
    return BoardFile(
        title="", notes=(), columns=tuple(columns), rows=(), others=True, facts=(),
        cell=("stderr",), policy=dict.fromkeys(POLICY, MARK), published=(), averages=(),
        order="label", descending=None, rank="", draws=0,
    )  # fmt: skip
