"""The notebooks of docs/guides/notebooks run from the first cell to the last, and what notebooks show."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dlm_eval import Canvas, bars, evaluate, fill, load_model, score
from dlm_eval.decoding import resolve
from dlm_eval.harness.result_text import EvaluationResults
from dlm_eval.reports.trace.recording import record

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "guides" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(cells: list[str], folder: Path) -> list[dict]:
    """Returns the outputs of all cells, run in a kernel of their own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    run(notebook, folder)
    return [output for cell in notebook.cells for output in cell.outputs]


def run(notebook: object, folder: Path) -> None:
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()


def test_notebooks_are_stored_without_outputs() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare", "evaluate", "score_and_fill"]
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.full
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    run(notebook, tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds and "text/html" in kinds  # a plot, and a table or a trace
    bars = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stderr")
    assert "100%" in bars
    pages = [output["data"].get("text/html", "") for output in outputs if "data" in output]
    assert any("<iframe sandbox" in page for page in pages) == (path.stem == "score_and_fill")


INTERRUPTED = """
import os, signal, sqlite3, threading, time
from pathlib import Path
from dlm_eval import evaluate

def answers():
    with sqlite3.connect(f"file:{Path('out/journal.sqlite').resolve()}?mode=ro", uri=True) as journal:
        return journal.execute("select count(*) from answers").fetchone()[0]

def interrupt():
    while True:
        time.sleep(0.05)
        try:
            if answers() >= 2:
                break
        except sqlite3.Error:
            pass
    os.kill(os.getpid(), signal.SIGINT)

def run():
    return evaluate("tiny", ["demo_word_problem"], limit=60, batch_size=1, output_path="out")

threading.Thread(target=interrupt, daemon=True).start()
try:
    run()
except KeyboardInterrupt:
    print("interrupted with", answers(), "answers")
"""


@pytest.mark.full
def test_an_interrupted_kernel_keeps_the_answers_and_goes_on(tmp_path: Path) -> None:
    first, *_, last = (
        output.text
        for output in executed([INTERRUPTED, "run(); print('done', answers())"], tmp_path)
        if output.output_type == "stream" and output.name == "stdout"
    )
    kept = int(first.split()[2])
    assert first.startswith("interrupted") and 2 <= kept < 60
    assert last.split() == ["done", "60"]


# -- what is shown ---------------------------------------------------------------------------------


def test_results_are_shown_as_a_table_and_stay_a_dictionary() -> None:
    found = evaluate("tiny", ["demo_choice"], limit=3)
    assert isinstance(found, dict) and found["results"]["demo_choice"]["acc,none"] is not None
    lines = repr(found).splitlines()
    assert lines[0].split() == ["task", "metric", "value", "stderr", "documents"]
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["demo_choice", "acc"],
        ["demo_choice", "acc_norm"],
    ]
    assert len(repr(found)) < 1000 and "<td>demo_choice</td>" in found._repr_html_()


def test_names_of_tasks_cannot_add_html_or_lines() -> None:
    evil = EvaluationResults(results={"<script>\n\u202e": {"a<b,none": 0.5, "alias": "x"}})
    assert "<script>" not in evil._repr_html_() and "&lt;script&gt;" in evil._repr_html_()
    assert "\u202e" not in repr(evil) and len(repr(evil).splitlines()) == 3


def test_a_recording_is_shown_in_a_frame_apart() -> None:
    model = load_model("tiny")
    canvas = Canvas.completion(model.encode("<|bos|>Anna</script><b>"), 4)
    shown = record(model, canvas, resolve({"strategy": "confidence", "steps": 2}))._repr_html_()
    assert shown.startswith('<iframe sandbox="allow-scripts" ') and shown.count("<") == 2
    assert "allow-same-origin" not in shown


# -- bars ------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_score_and_fill_show_a_bar_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("tiny")
    canvases = [Canvas.completion(model.encode(f"<|bos|>{name}"), 2) for name in ("Anna", "Tom")]
    known = [Canvas.continuation(model.encode("<|bos|>Anna"), model.encode(x)) for x in "ab"]
    ended: list[int] = []
    for asked, bars_shown in ((None, 0), (False, 0), (True, 2)):
        monkeypatch.setattr(sys, "stderr", Screen())
        fill(model, canvases, steps=1, progress=asked)
        score(model, known, progress=asked, on_done=lambda index, _: ended.append(index))
        drawn = sys.stderr.getvalue()
        assert sum(f"{title}: 100%" in drawn for title in ("fill", "score")) == bars_shown
    assert sorted(ended) == [0, 0, 0, 1, 1, 1]


def test_a_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    for config, expected in (({"IPKernelApp": {}}, True), ({}, False)):
        shell = SimpleNamespace(config=config)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda s=shell: s))
        assert bars.is_notebook() is expected
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not bars.is_notebook()
