"""A board as a table for the terminal, Markdown, LaTeX, and long and wide CSV.

Names come from result files, so they are escaped for each format and are of limited length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.output import table
from dlm_eval.printable import markdown as as_markdown_text
from dlm_eval.printable import printable
from dlm_eval.reports.board import MEASURED, PUBLISHED, Board, BoardColumn, BoardRow, Cell
from dlm_eval.reports.csv_file import cell as csv_cell
from dlm_eval.reports.csv_file import csv_text
from dlm_eval.reports.published import Published
from dlm_eval.reports.result_file import Row

LONGEST = 160  # characters of a name in a table
LONGEST_NOTE = 600
COLUMNS = tuple(each.name for each in fields(Row))
# Columns that a board's long table has behind those of every long table.
LONG_EXTRA = ("board_row", "board_column", "board_kind", "marks")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "'": r"\textquotesingle{}", "[": "{[}", "]": "{]}", "-": "{-}",
    "⇒": r"$\Rightarrow$", "⇐": r"$\Leftarrow$", "↔": r"$\leftrightarrow$", "≤": r"$\leq$",
    "≥": r"$\geq$", "≈": r"$\approx$", "≠": r"$\neq$", "∞": r"$\infty$", "−": "$-$", "σ": r"$\sigma$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "Δ": r"$\Delta$",
    "ε": r"$\epsilon$", "θ": r"$\theta$", "λ": r"$\lambda$", "μ": r"$\mu$", "π": r"$\pi$",
    "ρ": r"$\rho$", "τ": r"$\tau$", "Ω": r"$\Omega$", "⏎": r"$\hookleftarrow$",  # how `printable` shows a line break
}  # fmt: skip
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def plain(text: str) -> str:
    """Returns a name for the terminal."""
    return printable(_short(text))


def markdown(text: str) -> str:
    """Returns a name that Markdown shows as it is."""
    return as_markdown_text(_short(text))


def latex(text: str) -> str:
    """Returns a name that LaTeX prints as it is."""
    shown = "".join(_LATEX.get(each, each) for each in printable(_short(text)))
    return shown.replace(",,", ",{},")  # not a low quotation mark


def _short(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


# -- the cells of all formats ----------------------------------------------------------------------


class _Marks:
    """Footnotes: each mark has one letter, in the order of their appearance."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def of(self, cell: Cell) -> str:
        """Returns the letters of a cell's marks."""
        for mark in cell.marks:
            self.letters.setdefault(mark, letter(len(self.letters)))
        return ",".join(self.letters[mark] for mark in cell.marks)


def letter(number: int) -> str:
    """Returns the letters of a footnote: a to z, aa, ab ..."""
    more, own = divmod(number, len(_LETTERS))
    return (letter(more - 1) if more else "") + _LETTERS[own]


def number(cell: Cell, column: BoardColumn) -> str:
    """Returns a score: a paper's own digits, or two decimals, or four digits."""
    if cell.text:
        return cell.text
    return _number(cell.value, column)


def _number(value: float, column: BoardColumn) -> str:
    if abs(value) >= 1e6:
        return f"{value:.3e}"
    return f"{value:.2f}" if column.two_decimals else f"{value:.4g}"


def parts(board: Board, cell: Cell, column: BoardColumn, plus_minus: str, sigma: str) -> list[str]:
    """Returns the value of a cell and its parts behind it, as the board declares them."""
    found = [number(cell, column)]
    for name in board.cell:
        if name == "stderr" and cell.stderr is not None:
            error = f"{cell.stderr:.2f}" if column.two_decimals else f"{cell.stderr:.2g}"
            found[0] += f" {plus_minus} {error}"
        elif name == "n" and cell.n is not None:
            found.append(f"n={cell.n}")
        elif name == "tokens_per_forward" and cell.tokens_per_forward is not None:
            found.append(f"{cell.tokens_per_forward:.2f}")
        elif name == "forwards_per_token" and cell.forwards_per_token is not None:
            found.append(f"{cell.forwards_per_token:.2f}")
        elif name == "deviation" and cell.deviation is not None:
            found.append(f"{cell.deviation:+.1f} {sigma}")
    return found


def _legend(board: Board) -> str:
    words = {
        "n": "documents",
        "tokens_per_forward": "tokens per forward",
        "forwards_per_token": "forwards per token",
        "deviation": "measured minus published, in standard errors of the difference",
    }
    first = "score" + (" ± standard error" if "stderr" in board.cell else "")
    return " | ".join([first, *(words[name] for name in board.cell if name in words)])


def _header(board: Board) -> list[str]:
    kinds = {row.kind for row in board.rows}
    return [
        *(["rank"] if board.ranked_by else []),
        "row",
        *(["source"] if PUBLISHED in kinds else []),
        *board.facts,
        *(_title(column) for column in board.columns),
    ]


def _title(column: BoardColumn) -> str:
    return column.name + ("" if column.higher_is_better else " (lower is better)")


def rank_text(row: BoardRow) -> str:
    """Returns the rank of a row with = for a tie and its interval in brackets; "" if it has none."""
    if row.rank is None:
        return ""
    low_high = f" ({row.rank.low}-{row.rank.high})" if row.rank.low != row.rank.high else ""
    return f"{row.rank.rank}{'=' if row.rank.tied else ''}{low_high}"


def _lines(
    board: Board,
    escape: Callable[[str], str],
    shown: Callable[[list[str], bool, str], str],
    plus_minus: str,
    sigma: str,
) -> tuple[list[list[str]], dict[str, str]]:
    """Returns the cells of all rows, and letter -> mark."""
    marks, lines = _Marks(), []
    with_source = any(row.kind == PUBLISHED for row in board.rows)
    for row in board.rows:
        line = [*([rank_text(row)] if board.ranked_by else []), escape(row.label)]
        line += [escape(row.kind)] if with_source else []
        line += [escape(row.facts.get(name, "")) for name in board.facts]
        for column in board.columns:
            cell = row.cells.get(column.name)
            text = ""
            if cell is not None:
                found = parts(board, cell, column, plus_minus, sigma)
                text = shown(found, cell.best, marks.of(cell))
            line.append(text)
        lines.append(line)
    return lines, {letter: mark for mark, letter in marks.letters.items()}


def _below(board: Board, marks: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields (letter or "", text) of what stands below the table."""
    yield "", f"Cell: {_legend(board)}."
    if any(cell.best for row in board.rows for cell in row.cells.values()):
        yield "", "Bold: measured scores within one standard error of the best measured one."
    for text in about_columns(board):
        yield "", text
    yield from marks.items()
    for text in (*refused_averages(board), *board.notes):
        yield "", text


def about_columns(board: Board) -> Iterator[str]:
    """Yields what the ranks are, and the columns' notes."""
    if board.ranked_by:
        kinds = {row.rank.paired for row in board.rows if row.rank is not None}
        how = "resampled documents" if kinds == {True} else "the standard errors"
        yield (
            f"Rank: by {board.ranked_by}; 1 + the rows that are better in 97.5 % of the draws from "
            f"{how}; = is a tie; in brackets the 95 % interval of the position."
        )
    for column in board.columns:
        if column.note:
            yield f"{column.name}: {column.note}."


def refused_averages(board: Board) -> Iterator[str]:
    """Yields why measured rows have no average."""
    for row in board.rows:
        for column in board.columns:
            if column.average and row.kind == MEASURED and column.name in row.missing:
                yield f"{row.label} has no {column.name}: {row.missing[column.name]}."


# -- formats ---------------------------------------------------------------------------------------


def as_text(board: Board) -> str:
    """Returns the board for the terminal; best scores have a star."""

    def shown(found: list[str], best: bool, letters: str) -> str:
        return " | ".join(found) + ("*" if best else "") + (f" [{letters}]" if letters else "")

    lines, marks = _lines(board, plain, shown, "±", "se")
    below = [
        (f"[{letter}] " if letter else "") + _note(text, plain).replace("Bold:", "*:")
        for letter, text in _below(board, marks)
    ]
    title = [plain(board.title), ""] if board.title else []
    grid = table(lines, [plain(name) for name in _header(board)])
    return "\n".join([*title, grid, "", *below]) + "\n"


def as_markdown(board: Board) -> str:
    """Returns the board as Markdown."""

    def shown(found: list[str], best: bool, letters: str) -> str:
        if best:
            found = [f"**{found[0]}**", *found[1:]]
        return r" \| ".join(found) + (f" <sup>{letters}</sup>" if letters else "")

    lines, marks = _lines(board, markdown, shown, "±", "σ")
    header = [markdown(name) for name in _header(board)]
    title = [f"# {markdown(board.title)}", ""] if board.title else []
    rows = [header, ["---"] * len(header), *lines]
    grid = [f"| {' | '.join(row)} |" for row in rows]
    below = [
        f"* {f'<sup>{letter}</sup> ' if letter else ''}{_note(text, markdown)}"
        for letter, text in _below(board, marks)
    ]
    return "\n".join([*title, *grid, "", *below]) + "\n"


def as_latex(board: Board) -> str:
    """Returns the board as a LaTeX table with the rules of booktabs."""

    def shown(found: list[str], best: bool, letters: str) -> str:
        if best:
            found = [rf"\textbf{{{found[0]}}}", *found[1:]]
        mark = rf"\textsuperscript{{{letters}}}" if letters else ""
        return r" \textbar{} ".join(found) + mark

    lines, marks = _lines(board, latex, shown, r"$\pm$", r"$\sigma$")
    header = [latex(name) for name in _header(board)]
    kinds = "l" * (len(header) - len(board.columns)) + "r" * len(board.columns)
    below = [
        (rf"\textsuperscript{{{letter}}} " if letter else "") + _note(text, latex)
        for letter, text in _below(board, marks)
    ]
    return "\n".join([
        r"% needs \usepackage{booktabs}, \usepackage[T1]{fontenc} and UTF-8; for letters that are not",
        r"% Latin: LuaLaTeX or XeLaTeX without fontenc, and a font that has them",
        r"\begin{table}",
        rf"\caption{{{latex(board.title)}}}" if board.title else "%",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(line) + r" \\" for line in lines),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par {line}" for line in below),
        r"\end{table}",
        "",
    ])  # fmt: skip


def _note(text: str, escape: Callable[[str], str]) -> str:
    """Returns a note escaped; it may be longer than a name."""
    whole = _short(text, LONGEST_NOTE)
    return "".join(escape(whole[at : at + LONGEST]) for at in range(0, len(whole), LONGEST))


def as_wide_csv(board: Board) -> str:
    """Returns the wide table: the columns of every wide table (docs/results.md), then kind, rank,
    and the declared parts and the marks of each cell.
    """
    names = _wide_names(board.columns)
    behind = (*board.cell, "marks")
    header = ["model", "checkpoint", "revision", "setting", *names, "kind"]
    header += ["rank", "rank_low", "rank_high"] if board.ranked_by else []
    header += [f"{name} {part}" for name in names for part in behind]
    rows = []
    for row in board.rows:
        cells = [row.cells.get(column.name) for column in board.columns]
        line: list[object] = [row.facts.get(name, "") for name in header[:3]]
        line += [row.label, *map(_wide_value, cells, board.columns), row.kind]
        if board.ranked_by:
            rank = row.rank
            line += [rank.rank, rank.low, rank.high] if rank else [None, None, None]
        for cell in cells:
            line += [_part(cell, name) for name in behind]
        rows.append([csv_cell(value) for value in line])
    return csv_text(header, rows)


def _wide_names(columns: Sequence[BoardColumn]) -> list[str]:
    """Returns "task (metric)"; the column's own name if another column has the same score."""
    found = []
    for column in columns:
        inside = [column.metric] if column.metric else []
        inside += [] if column.higher_is_better else ["lower is better"]
        found.append(f"{column.task} ({', '.join(inside)})" if column.task else column.name)
    return [
        column.name if found.count(name) > 1 else name
        for name, column in zip(found, columns, strict=True)
    ]


def _wide_value(cell: Cell | None, column: BoardColumn) -> float | None:
    return None if cell is None else float(number(cell, column))


def _part(cell: Cell | None, name: str) -> object:
    if cell is None:
        return None
    return "; ".join(cell.marks) or None if name == "marks" else _rounded(getattr(cell, name))


def _rounded(value: float | None) -> float | int | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.4g}")


def as_long_csv(board: Board) -> str:
    """Returns the long table: one row per score of every cell, and per published figure.

    Its columns are those of every long table (docs/results.md), and `LONG_EXTRA`.
    """
    rows: list[list[str]] = []
    for row in board.rows:
        for column in board.columns:
            cell = row.cells.get(column.name)
            if cell is None or column.average:
                continue
            extra = [row.label, column.name, row.kind, "; ".join(cell.marks)]
            for score in cell.scores:
                values = asdict(score)
                rows.append(_long_cells(values, extra))
            if row.kind == PUBLISHED and cell.published is not None:
                rows.append(_long_cells(_figure(cell.published, cell), extra))
    return csv_text([*COLUMNS, *LONG_EXTRA], rows)


def _figure(figure: Published, cell: Cell) -> dict[str, object]:
    """Returns a published figure in the columns of the long table."""
    value = figure.value if figure.value is not None else math.nan
    return {
        "model": figure.model,
        "checkpoint": figure.checkpoint or None,
        "task": figure.dlm_task or figure.task,
        "metric": figure.dlm_metric or figure.metric,
        "value": value / 100 if figure.unit == "percent" else value,
        "n": figure.n,
        "tokens_per_forward": cell.tokens_per_forward,
        "source": cell.sources[0],
        "unit": "fraction" if figure.unit in ("percent", "fraction") else None,
        "headline": False,
    }


def _long_cells(values: Mapping[str, object], extra: Sequence[str]) -> list[str]:
    found = [csv_cell(values.get(name), "nan" if name == "value" else "") for name in COLUMNS]
    return [*found, *(csv_cell(text) for text in extra)]


# -- files -----------------------------------------------------------------------------------------

Writer = Callable[[Board, Path], dict[Path, str]]


def _csv_files(board: Board, path: Path) -> dict[Path, str]:
    wide = path.with_name(f"{path.stem}_wide.csv")
    return {path: as_long_csv(board), wide: as_wide_csv(board)}


def _html_file(board: Board, path: Path) -> dict[Path, str]:
    from dlm_eval.reports.index_page import index_page
    from dlm_eval.reports.site import Site

    return {path: index_page(Site(board, {}, ()))}


WRITERS: dict[str, Writer] = {
    ".csv": _csv_files,
    ".md": lambda board, path: {path: as_markdown(board)},
    ".tex": lambda board, path: {path: as_latex(board)},
    ".html": _html_file,
}


def files_of(board: Board, output: Path) -> dict[Path, str]:
    """Returns path -> text of the files that `-o` asks for: one format by its suffix, or all formats
    if the name has none.

    Raises:
        UserError: there is no such format.
    """
    if not output.name:
        raise UserError(f"output '{output}' must be the name of a file")
    if not output.suffix:
        found: dict[Path, str] = {}
        for suffix, writer in WRITERS.items():
            found |= writer(board, output.with_name(output.name + suffix))
        return found
    if output.suffix not in WRITERS:
        raise unknown_name_error(f"output '{output}': suffix", output.suffix, WRITERS)
    return WRITERS[output.suffix](board, output)
