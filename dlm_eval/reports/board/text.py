"""A board as a table for the terminal, Markdown and LaTeX.

Names come from result files, so they are escaped for each format and are of limited length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from dlm_eval.output import table
from dlm_eval.printable import markdown as as_markdown_text
from dlm_eval.printable import printable, shortened
from dlm_eval.reports.board.board import MEASURED, PUBLISHED, Board, BoardColumn, BoardRow, Cell

LONGEST = 160  # characters of a name in a table
LONGEST_NOTE = 600
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
    return printable(shortened(text, LONGEST))


def markdown(text: str) -> str:
    """Returns a name that Markdown shows as it is."""
    return as_markdown_text(shortened(text, LONGEST))


def latex(text: str) -> str:
    """Returns a name that LaTeX prints as it is."""
    shown = "".join(_LATEX.get(each, each) for each in printable(shortened(text, LONGEST)))
    return shown.replace(",,", ",{},")  # not a low quotation mark


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
    if abs(cell.value) >= 1e6:
        return f"{cell.value:.3e}"
    return f"{cell.value:.2f}" if column.two_decimals else f"{cell.value:.4g}"


def error(cell: Cell, column: BoardColumn) -> str:
    """Returns a standard error with the decimals of its column; "" if it is unknown."""
    if cell.stderr is None:
        return ""
    return f"{cell.stderr:.2f}" if column.two_decimals else f"{cell.stderr:.2g}"


def parts(board: Board, cell: Cell, column: BoardColumn, plus_minus: str, sigma: str) -> list[str]:
    """Returns the value of a cell and its parts behind it, as the board declares them."""
    found = [number(cell, column)]
    for name in board.cell:
        if name == "stderr" and cell.stderr is not None:
            found[0] += f" {plus_minus} {error(cell, column)}"
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
    return lines, {own: mark for mark, own in marks.letters.items()}


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
    whole = shortened(text, LONGEST_NOTE)
    return "".join(escape(whole[at : at + LONGEST]) for at in range(0, len(whole), LONGEST))
