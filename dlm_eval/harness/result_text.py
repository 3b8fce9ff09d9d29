"""The results of `evaluate` as they are shown by Python and by notebooks: a line per score.

The dictionary itself holds every sample and would fill pages.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from dlm_eval.printable import printable

STDERR = "_stderr"
HEADERS = ("task", "metric", "value", "stderr", "documents")


class EvaluationResults(dict[str, Any]):
    """lm-eval's results dictionary, shown as a table of its scores."""

    def __repr__(self) -> str:
        rows = [HEADERS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, f"keys: {', '.join(map(str, self))}"])

    def _repr_html_(self) -> str:
        rows = [
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
            for row in self._rows()
        ]
        head = "".join(f"<th>{name}</th>" for name in HEADERS)
        keys = html.escape(printable(", ".join(map(str, self))))
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            f"<small>keys: {keys}</small>"
        )

    def _rows(self) -> Iterator[tuple[str, ...]]:
        """Yields the cells of each score, without characters that hide or reorder text."""
        for task, scores in self.get("results", {}).items():
            for name, value in scores.items():
                metric, comma, filters = name.partition(",")
                if not comma or metric.endswith(STDERR):
                    continue
                stderr = scores.get(f"{metric}{STDERR},{filters}")
                shown = metric if filters == "none" else f"{metric}, {filters}"
                cells = (task, shown, _number(value), _number(stderr), scores.get("sample_len", ""))
                yield tuple(printable(str(cell)) for cell in cells)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
