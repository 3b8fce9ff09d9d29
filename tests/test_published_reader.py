"""The reader of published figures: what it returns, and one line for every mistake in a file."""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from dlm_eval.errors import UserError
from dlm_eval.reports.board import published
from dlm_eval.reports.board.published import COLUMNS, Published, matching, read_published

ROW = {
    "paper": "LLaDA", "arxiv": "2502.09992", "version": "v3", "table": "Table 1", "model": "LLaDA 8B Base", "size": "8B",
    "checkpoint": "GSAI-ML/LLaDA-8B-Base", "task": "WinoGrande", "setting": "shots=5", "metric": "accuracy",
    "value": "74.8", "unit": "percent", "n": "1267", "dlm_task": "winogrande", "dlm_metric": "acc", "protocol": "same",
    "source": "paper", "evidence": "direct", "note": "",
}  # fmt: skip


def text_of(*rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def read(tmp_path: Path, *rows: dict[str, str]) -> tuple[Published, ...]:
    path = tmp_path / "published.csv"
    path.write_text(text_of(*rows), encoding="utf-8")
    return read_published(path)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_published(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_cells_are_typed(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW)
    assert (row.value, row.printed, row.n, row.line) == (74.8, "74.8", 1267, 2)
    assert {name: getattr(row, name) for name in COLUMNS if name not in ("value", "n")} == {
        name: text for name, text in ROW.items() if name not in ("value", "n")
    }
    with pytest.raises(FrozenInstanceError):
        row.value = 0.0  # type: ignore[misc]


def test_printed_digits_and_quoted_cells_are_kept(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW | {"value": "70.0", "note": 'says "4 shots", has 5'})
    assert (row.value, row.printed, row.note) == (70.0, "70.0", 'says "4 shots", has 5')


def test_bounds_have_no_value(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW | {"value": "", "note": "printed as <1"})
    assert (row.value, row.scaled, row.stderr, row.comparable) == (None, None, None, False)


@pytest.mark.parametrize(
    ("unit", "value", "scaled"),
    [("percent", "74.8", 0.748), ("x100", "18.7", 18.7), ("BLEU", "27.3", 27.3), ("fraction", "0.5", 0.5)],
)  # fmt: skip
def test_values_have_the_scale_of_result_files(
    tmp_path: Path, unit: str, value: str, scaled: float
) -> None:
    (row,) = read(tmp_path, ROW | {"unit": unit, "value": value})
    assert row.scaled == pytest.approx(scaled, abs=1e-12)


def test_the_standard_error_is_that_of_a_share(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW)
    assert row.stderr == pytest.approx(math.sqrt(0.748 * 0.252 / 1267), rel=1e-12)
    assert row.deviation(0.748, 0.0122) == pytest.approx(0, abs=1e-12)
    assert row.deviation(0.70, 0.0129) == pytest.approx(-0.048 / math.hypot(0.0129, row.stderr))


def test_a_share_of_all_or_nothing_has_an_error(tmp_path: Path) -> None:
    for value in ("0.0", "100"):
        (row,) = read(tmp_path, ROW | {"value": value, "n": "164"})
        assert row.stderr == pytest.approx(math.sqrt((0.5 / 164) * (1 - 0.5 / 164) / 164))


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "other"},
        {"n": ""},
        {"unit": "BLEU"},  # no share of the documents
        {"metric": "F1"},
        {"metric": "tokens per forward", "unit": "tokens/forward"},
    ],
)
def test_differences_need_a_protocol_and_a_count(tmp_path: Path, change: dict[str, str]) -> None:
    (row,) = read(tmp_path, ROW | change)
    assert not row.comparable and row.deviation(0.7, 0.01) is None


def test_the_closest_protocol_stands_first(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        ROW | {"table": "A", "protocol": "other"},
        ROW | {"table": "B", "protocol": "near", "note": "-"},
        ROW | {"table": "C"},
        ROW | {"table": "D", "checkpoint": ""},
        ROW | {"table": "E", "dlm_metric": "acc_norm"},
    )
    mine = matching(rows, "winogrande", "acc", "GSAI-ML/LLaDA-8B-Base")
    assert [row.table for row in mine] == ["C", "B", "A"]
    assert [row.table for row in matching(rows, "winogrande", "acc")] == ["C", "D", "B", "A"]
    assert matching(rows, "piqa", "acc") == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": "74,8"}, "value '74,8' is not allowed; percent is a number from 0 to 100"),
        ({"value": "100.1"}, "value '100.1' is not allowed"),
        ({"value": "-1"}, "value '-1' is not allowed"),
        ({"value": "nan"}, "value 'nan' is not allowed"),
        ({"value": "1e1"}, "value '1e1' is not allowed"),
        ({"value": "٧"}, "value '٧' is not allowed"),
        ({"value": "9" * 400, "unit": "seconds"}, "is not allowed; seconds is a number from 0 to 1e+09"),
        ({"value": "0.5", "unit": "perplexity"}, "perplexity is a number from 1 to"),
        ({"value": ""}, "value is empty, and no note says what is printed"),
        ({"n": "0"}, "n '0' is not allowed; it must be a whole number from 1"),
        ({"n": "12.5"}, "n '12.5' is not allowed"),
        ({"n": "9999999999"}, "n '9999999999' is not allowed"),
        ({"protocol": "sama"}, "protocol 'sama' is not known; did you mean 'same'?"),
        ({"unit": "per cent"}, "unit 'per cent' is not known; did you mean 'percent'?"),
        ({"evidence": "seen"}, "evidence 'seen' is not known"),
        ({"source": ""}, "source is empty"),
        ({"arxiv": "hep-th/1"}, "arxiv 'hep-th/1' is not allowed; it must be YYMM.NNNNN"),
        ({"dlm_task": ""}, "dlm_metric has no dlm_task"),
        ({"model": " x"}, "model ' x' has outer spaces or control characters"),
        ({"note": "a\x1b[2Jb"}, "has outer spaces or control characters"),
        ({"note": "a\nb"}, "has outer spaces or control characters"),
        ({"note": "x" * 2001}, "note has 2001 characters; 2000 at most"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(
    tmp_path: Path, change: dict[str, str], says: str
) -> None:
    path = tmp_path / "published.csv"
    path.write_text(text_of(ROW, ROW | {"table": "Table 2"} | change), encoding="utf-8")
    message = refused(path)
    line = 4 if change.get("note") == "a\nb" else 3  # a record ends on its last line
    assert f"published.csv', line {line}: " in message and says in message


def test_a_figure_stands_once(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text(text_of(ROW, ROW | {"value": "70.0"}), encoding="utf-8")
    assert "line 3: the figure stands in line 2 already" in refused(path)


def test_columns_must_be_these(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text(text_of(columns=COLUMNS[:-1]), encoding="utf-8")
    assert "line 1: the columns must be paper,arxiv," in refused(path)
    path.write_text("", encoding="utf-8")
    assert "line 1: the columns must be" in refused(path)
    path.write_text(text_of(ROW) + "too,few\n", encoding="utf-8")
    assert "line 3: 2 cells; 19 are needed" in refused(path)


def test_bytes_that_are_no_table(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_bytes(text_of(ROW).encode() + b"\xff\n")
    assert "line 3: no valid UTF-8" in refused(path)
    path.write_text(text_of(ROW) + '"open', encoding="utf-8")
    assert "line 3: no valid CSV" in refused(path)
    path.write_text(text_of(ROW) + "x" * 200_000 + "\n", encoding="utf-8")
    assert "line 3: no valid CSV" in refused(path)


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text("\ufeff" + text_of(ROW), encoding="utf-8")
    assert len(read_published(path)) == 1


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ROW | {"table": f"Table {i}"} for i in range(3)]
    monkeypatch.setattr(published, "MOST_ROWS", 2)
    path = tmp_path / "published.csv"
    path.write_text(text_of(*rows), encoding="utf-8")
    assert "line 4: more than 2 rows" in refused(path)
    monkeypatch.setattr(published, "MOST_BYTES", 1 << 20)
    path.write_bytes(b"x" * ((1 << 20) + 1))
    assert "have more than 1 MiB" in refused(path)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "none.csv")
    assert "cannot be read: is no ordinary file" in refused(tmp_path)
    assert "cannot be read: " in refused(Path("a\0b"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "cannot be read: is no ordinary file" in refused(tmp_path / "pipe")
