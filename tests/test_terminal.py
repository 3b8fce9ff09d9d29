"""What reaches a terminal or a table is printable; hostile texts stay texts."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import tqdm

from dlm_eval.cli import main
from dlm_eval.errors import UserError
from dlm_eval.output import safe_output, table
from dlm_eval.printable import CONTROL, counted, printable, valid_unicode
from dlm_eval.reports.board.leaderboard import leaderboard, write
from dlm_eval.reports.files.csv_file import cell, safe_text
from dlm_eval.reports.run.report import render

CONTROLS = "\x1b[31m\x07\x08\r\x9b2J\x85\x7f\u2028\u202e\u2066\u200f\ufff9\U000e0041"
HOSTILE = f"a{CONTROLS}\nERROR forged: x|`<b>"
RAW = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff\U000e0001-\U000e007f]"
)


def _clean(said: bytes, bars: bool = False) -> str:
    """Returns what was said, after looking for what a terminal obeys and for lines that a value began."""
    text = said.decode("utf-8")  # strictly: it is valid
    if bars:  # tqdm returns to the beginning of its line
        text = re.sub(
            r"\r(?=Generating|Map|Filter|likelihood|generation)|\r$|\r(?= *\r?\n)",
            "",
            text,
            flags=re.M,
        )
    assert not RAW.search(text), ascii(RAW.findall(text))
    assert not re.search(r"^(ERROR )?forged|^ERROR forged", text, re.M), text
    return text


def _run(*command: str | bytes, code: int | None = None, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dlm_eval", *command], capture_output=True, timeout=300, env={**os.environ, **variables}
    )  # fmt: skip
    said = _clean(done.stdout) + _clean(done.stderr, bars=True)
    assert "Traceback" not in said, said
    assert code is None or done.returncode == code, said
    return said


def test_07_every_control_character_is_spelled_out() -> None:
    every = "".join(
        map(
            chr,
            [
                *range(0x20),
                *range(0x7F, 0xA0),
                0x2028,
                0x2029,
                *range(0x202A, 0x202F),
                0xD800,
                0xDFFF,
            ],
        )
    )
    assert not CONTROL.search(printable(every)) and "\n" not in printable(every)
    assert printable("a\n\t\x1b\ud800\U000e0041b") == "a⏎⇥\\u001b\\ud800\\U000e0041b"
    assert printable("é 漢 👩‍👩‍👧 עב") == "é 漢 👩‍👩‍👧 עב"  # joiners and other scripts are text
    assert valid_unicode("\ud800\x1b") == "\\ud800\x1b"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_07_a_stream_obeys_nothing_whoever_writes(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="surrogateescape")
        for _ in range(2)
    )
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    early = logging.StreamHandler(err)  # as libraries make one when they are imported
    logger = logging.getLogger("a\nlibrary")
    logger.addHandler(early)
    with safe_output(), warnings.catch_warnings():
        warnings.simplefilter("always")
        print(HOSTILE, "\udc9b2J é漢")
        early.stream.write(f"written {HOSTILE}")
        logger.warning("said %s", HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logger.exception("caught")
        warnings.warn(HOSTILE, stacklevel=1)
        for _ in tqdm.tqdm(range(2), desc=f"\r{HOSTILE}"):
            pass
        raw, seen = out.buffer.getvalue(), (out.flush(), err.flush())  # type: ignore[attr-defined]
    assert seen and (out.encoding, out.errors) == (encoding, "surrogateescape")
    raw, said = out.buffer.getvalue(), err.buffer.getvalue()  # type: ignore[attr-defined]
    text = raw.decode(encoding)
    assert not RAW.search(text) and "\\u001b[31m" in text and "\\udc9b2J" in text
    text = said.decode(encoding)
    bars = [line for line in text.split("\n") if "it/s" in line or "2/2" in line]
    assert bars and not RAW.search(re.sub(r"\r", "", text))
    assert not re.search(r"\r(?!\\u000d)[^\n]*forged", "\n".join(bars)) or "\\u000d" in bars[-1]
    lines = [line for line in text.split("\n") if line.startswith("ERROR forged")]
    assert len(lines) == 1  # of the raw write: newlines there are the writer's own
    logger.removeHandler(early)


def test_07_errors_and_tables_are_lines() -> None:
    assert "\n" not in str(UserError(HOSTILE)) and not CONTROL.search(str(UserError(HOSTILE)))
    shown = table([[HOSTILE, "1e5", 3]], ["name", "x", "n\n"])
    assert len(shown.split("\n")) == 3 and "1e5" in shown and not RAW.search(shown)


def test_07_markdown_of_names_is_escaped() -> None:
    name = "a|b`c`<img src=x>[l](u)*e*\n| x |"
    results = {"results": {name: {"acc,f|g": 0.5}}, "n-samples": {name: {"effective": 1}}}
    lines = render(results).split("\n")
    assert len(lines) == 3
    cells = re.split(r"(?<!\\)\|", lines[2])
    assert len(cells) == len(re.split(r"(?<!\\)\|", lines[0]))
    assert r"a\|b\`c\`\<img src=x\>\[l\](u)\*e\*⏎\| x \|" in cells[1] and r"acc (f\|g)" in cells[2]


SKIPPED = [
    "\u200b", "\ufeff", "\u00ad", "\u00a0", "\u2060", "\u2007", "\u3000", "\u180e", "\u034f", "\u115f", "\u3164", "\u2800", "\ufe0f", "\u200d",
    "\t", "\r", "\n", "\x00", "\x0b", '"', "'", "`", "\u201c", "\U000e0041", " \u200b\ufeff\"", "\u2062", "\uffa0", "\u2028",
]  # fmt: skip


@pytest.mark.parametrize("mark", "=+-@＝＋－＠﹦﹢﹣﹫−")
def test_07_no_cell_begins_a_formula_behind_what_is_skipped(mark: str) -> None:
    for skipped in ["", *SKIPPED]:
        for text in (f"{skipped}{mark}1+1", f"x;{skipped}{mark}1+1"):
            safe = safe_text(text)
            assert "\n" not in safe and safe == cell(text)
            body = safe if text.startswith("x") else safe[1:]
            assert (safe.split(";")[1] if text.startswith("x") else safe)[0] == "'", (text, safe)
            # one apostrophe away, the text is back
            assert text.startswith("x") or body == CONTROL.sub(" ", text)


def test_07_numbers_and_ordinary_names_stay() -> None:
    assert [cell(v) for v in (-1.5, -3, 1e-300, 0.1, True)] == [
        "-1.5",
        "-3",
        "1e-300",
        "0.1",
        "true",
    ]
    for text in (
        "llada-8b",
        "a=b",
        "\u200ballada",
        '"quoted" - name',
        "x; y-z",
        "é",
        "n=5 steps=3",
    ):
        assert safe_text(text) == text
    assert safe_text("'own'") == "''own'" and safe_text("''x") == "'''x"


def _result(task: str = "t", model: str = "m") -> dict[str, object]:
    return {
        "results": {task: {"acc,none": 0.5, "acc_stderr,none": 0.1}}, "config": {"model": "hf", "model_args": {"pretrained": model}},
        "configs": {task: {"metric_list": [{"metric": "acc"}]}}, "date": 1.0,
    }  # fmt: skip


DEEP = '{"results": {"t": {"acc,none": 1.0}}, "configs": {"t": ' + "[" * 900 + "]" * 900 + "}}"
BAD = {
    "surrogate": json.dumps(_result("\ud800task", "\udfffmodel")),
    "nul": json.dumps(_result("a\x00b", "c\x00")),
    "nan": json.dumps(_result()).replace("0.5", "NaN"),
    "infinite": json.dumps(_result()).replace("0.5", "1e999"),
    "large": json.dumps(_result("t" * 3_000_000, "m" * 50_000_000)),
    "deep": DEEP,
    "deeper": "[" * 200_000,
    "controls": json.dumps(_result(HOSTILE, HOSTILE)),
    "raw nul": '{"results": \x00}',
    "keys": json.dumps({**_result(), "results": {"": {"\ud800,none": 1.0, ",": 2.0}}}),
}


@pytest.mark.parametrize("kind", BAD)
def test_07_one_bad_file_costs_one_line_at_most(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "results_good.json").write_text(json.dumps(_result("good", "model")))
    (tmp_path / "results_bad.json").write_bytes(BAD[kind].encode("utf-8", "surrogatepass"))
    board = leaderboard([tmp_path], keep_all=True)
    beside = write(board, tmp_path / "board.csv")
    assert "good" in set(board["task"])
    said = [record.getMessage() for record in caplog.records if record.name.startswith("dlm_eval")]
    named = any("results_bad" in source for source in board["source"])
    assert len(said) == (0 if named else 1) and all("results_bad" in line for line in said)
    for file in (tmp_path / "board.csv", beside):
        text = file.read_bytes().decode("utf-8")
        assert len(text) < 50_000 and not RAW.search(text)


def test_07_a_result_in_a_folder_of_any_name_is_read(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\x9b\xff\x1b[31m\nERROR forged"))
    place.mkdir()
    (place / "results_1.json").write_text(json.dumps(_result()))
    (place / "results_2.json").write_text("{")
    assert main(["leaderboard", str(place)]) == 0
    assert main(["leaderboard", str(place), "-o", str(place / "b.csv")]) == 0
    (place / "b.csv").read_bytes().decode("utf-8")
    assert (
        main(["leaderboard", str(place / "absent")]) == 2 and main(["leaderboard", "x" * 5000]) == 2
    )
    said = capfdbinary.readouterr()
    _clean(said.out)
    _clean(said.err)
    assert "results_2" in _clean(caplog.text.encode())


TASK = """
task: "t_evil{marks}"
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{% if text == 'bad' %}}{{{{ raise_exception(word) }}}}{{% endif %}}{{{{text}}}}"
doc_to_target: "{{{{word}}}}"
generation_kwargs: {{until: ["zz"], max_gen_toks: 4}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
MODEL = """
import logging, sys, warnings
from dataclasses import dataclass
from dlm_eval.models import load_model
HOSTILE = HERE

@dataclass(frozen=True)
class Settings:
    device: str = "cpu"

def load(settings: Settings):
    logging.getLogger("lib").warning("loading %s", HOSTILE)
    warnings.warn(HOSTILE)
    print(HOSTILE.replace("\\n", " "), file=sys.stderr)
    model = load_model("tiny", device="cpu")
    describe, decode = model.describe, model.decode
    model.name = HOSTILE
    model.describe = lambda: {**describe(), "checkpoint": "evil" + HOSTILE.replace("/", "_")}
    model.decode = lambda tokens: decode(tokens) + HOSTILE
    return model
"""


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    place = tmp_path / "p\x1b[31m\nERROR forged"
    (place / "tasks").mkdir(parents=True)
    documents = [{"text": "ab", "word": HOSTILE}, {"text": "bad", "word": HOSTILE}]
    (place / "tasks" / "evil.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    text = TASK.format(
        marks=r"\e[31m\u202e\nERROR forged", data=json.dumps(str(place / "tasks" / "evil.jsonl"))
    )
    (place / "tasks" / "t_evil.yaml").write_text(text)
    (place / "evil.py").write_text(MODEL.replace("HERE", ascii(HOSTILE.replace("<b>", "b"))))
    return place


@pytest.mark.full  # half a minute or more
def test_07_no_command_lets_a_hostile_text_through(evil: Path) -> None:
    model, tasks, out = str(evil / "evil.py"), str(evil / "tasks"), str(evil / "out")
    name = "t_evil\x1b[31m\u202e\nERROR forged"
    # a document of two errs
    said = _run(
        "run",
        "--model",
        model,
        "--tasks",
        "t_*",
        "--include_path",
        tasks,
        "--limit",
        "2",
        "--output_path",
        out,
        code=1,
    )
    assert "\\u001b[31m" in said
    assert "t_evil" in _run("ls", "tasks", "--include_path", tasks, code=0)
    assert "raise_exception" in _run("show", name, "--include_path", tasks, code=0)
    _run("validate", name, "--include_path", tasks)
    for verb in ("ls", "export", "rm"):
        _run("cache", verb, out, code=0)


@pytest.mark.full
def test_07_no_trace_lets_a_hostile_text_through(evil: Path) -> None:
    model = str(evil / "evil.py")
    said = _run("trace", "--model", model, "--prompt", "ab", "--length", "3", code=0)
    assert "\\u001b[31m" in said
    data = _run("trace", "--model", model, "--prompt", "ab", "--length", "3", "--json", code=0)
    assert (
        HOSTILE.replace("<b>", "b")
        in json.loads(data[data.index('{"format') :].split("\n")[0])["text"]
    )
    _run(
        "trace",
        "--model",
        model,
        "--prompt",
        "ab",
        "--length",
        "3",
        "--html",
        str(evil / "a.html"),
        code=0,
    )
    page = (evil / "a.html").read_bytes().decode("utf-8")
    assert not RAW.search(page) and "<b>" not in page.split("</style>")[1].split("<script")[0]


@pytest.mark.full  # half a minute or more
def test_07_option_values_are_said_printable(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    commands = [
        ["run", "--model", HOSTILE, "--tasks", "demo"],
        ["run", "--model", "toy", "--tasks", "demo_last_word", "--model_args", f"{HOSTILE}=1"],
        ["run", "--model", "toy", "--tasks", "demo_last_word", "--estimator", HOSTILE],
        ["run", "--model", "toy", "--tasks", "demo_last_word", "--decode", f"steps={HOSTILE}"],
        ["run", "--model", "toy", "--tasks", "demo_last_word", "--limit", HOSTILE],
        ["run", "--model", "toy", "--tasks", "demo_last_word", "--report_to", HOSTILE],
        ["run", "--model", "toy", "--tasks", "demo_last_word", "--verbosity", HOSTILE],
        ["run", "--model", "toy", "--tasks", "demo_last_word", "--config", HOSTILE],
        ["run", "--model", "toy", "--tasks", "demo_last_word", f"--{HOSTILE}"],
        ["run", "--model", "toy", "--tasks", "demo_last_word", "--include_path", HOSTILE],
        ["run", "--model", "toy", "--tasks", "demo_last_word", "--seed", HOSTILE],
        ["run", "--model", "llada", "--tasks", "demo_last_word", "--model_args", f"pretrained=./{HOSTILE}"],
        ["ls", HOSTILE], ["cache", "ls", HOSTILE], [HOSTILE],
        ["leaderboard", HOSTILE], ["trace", "--model", HOSTILE, "--prompt", "a"], ["trace", "--model", "toy", "--prompt", "\udc9b\udcff"],
        ["sweep", "--model", "toy", "--tasks", "demo_word_problem", "--decode", HOSTILE],
        ["sweep", "--model", HOSTILE, "--tasks", "demo_word_problem", "--decode", "steps=2"],
    ]  # fmt: skip
    for command in commands:
        assert main(command) == 2, command
        said = capfdbinary.readouterr()
        assert _clean(said.err).startswith("dlm-eval: error: ") and said.err.count(b"\n") == 1, (
            command,
            said.err,
        )
        assert said.out == b""


@pytest.mark.parametrize(
    ("number", "verb", "said"),
    [(0, "", "0 samples"), (1, "", "1 sample"), (2, "", "2 samples"), (1, "are", "1 sample is"), (3, "are", "3 samples are"),
     (1, "have", "1 sample has"), (1, "do", "1 sample does"), (1, "were", "1 sample was"), (1, "need", "1 sample needs"), (0, "need", "0 samples need")],
)  # fmt: skip
def test_07_what_is_counted_agrees_with_its_number(number: int, verb: str, said: str) -> None:
    assert counted(number, "sample", verb) == said
