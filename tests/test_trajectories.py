"""Trajectories: the samples file says when each token was committed and how confidently; nothing else moves."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import DOCUMENTS, write_tasks

from dlm_eval import Canvas, evaluate, fill, load_model
from dlm_eval.answers import decode_answer, encode_answer
from dlm_eval.canvas import BLANK, Filling, four_digits
from dlm_eval.cli import main
from dlm_eval.decoding import resolve
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.harness.trajectories import TokenTexts, trajectory
from dlm_eval.jobs import Answer, Checkpoint, FillJob, drive_jobs
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.reports.trace.logged import find_logged

TOY = {"vocab": 6, "inconsistency": 0.5}
WRITTEN = ("t_write", "t_infill")
LEFT_OUT = ("trajectory", "seconds", "arguments")  # lm-eval rewrites the last one when it saves
KEYS = {"tokens", "text", "step", "confidence", "forwards"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def run(tasks: Path, names: Any = WRITTEN, model: Any = "toy", **settings: Any) -> dict[str, Any]:
    own = {"model_args": TOY} if isinstance(model, str) else {}
    base = {"include_path": str(tasks), "bootstrap_iters": 10, "verbosity": "ERROR"}
    return evaluate(model, list(names), **{**base, **own, **settings})


def trajectories(results: dict[str, Any]) -> dict[str, list[Any]]:
    return {task: [s["trajectory"] for s in rows] for task, rows in results["samples"].items()}


def without(results: dict[str, Any]) -> dict[str, Any]:
    """Samples without their trajectories and seconds."""
    return {
        task: [{k: v for k, v in s.items() if k not in LEFT_OUT} for s in rows]
        for task, rows in results["samples"].items()
    }


class Plain(Toy):
    """The toy as an object."""

    padding = False


DECODE: dict[str, dict[str, Any]] = {
    "confidence": {"steps": 4},
    "blocks": {"block_length": 4, "steps": 4},
    "remask": {"strategy": "remask", "steps": 8, "eta": 0.5, "temperature": 1.0},
    "edit": {"strategy": "edit", "threshold": 0.3, "editing_threshold": 0.3},
    "ancestral": {"strategy": "ddpm", "steps": 8, "temperature": 1.0},
    "samples": {"samples": 3, "temperature": 1.0, "rerank": "score"},
}


@pytest.mark.parametrize("name", DECODE)
def test_07_a_trajectory_is_the_fillings_and_nothing_else_moves(name: str, tasks: Path) -> None:
    decode = DECODE[name]
    plain = run(tasks, ["t_write"], decode=decode)
    logged = run(tasks, ["t_write"], decode=decode, log_trajectories=True)
    assert not any("trajectory" in s for s in plain["samples"]["t_write"])
    assert without(plain) == without(logged)
    assert plain["dlm_eval"]["fingerprint"] == logged["dlm_eval"]["fingerprint"]
    json.dumps(logged["samples"], allow_nan=False)
    for sample in logged["samples"]["t_write"]:
        (found,) = sample["trajectory"]
        assert found.keys() == KEYS and found["forwards"] == sample["forwards"]
        assert len(found["tokens"]) == 8 == len(found["text"])
        done = [token != BLANK for token in found["tokens"]]
        assert [step >= 0 for step in found["step"]] == done
        assert [p is not None and 0 <= p <= 1 for p in found["confidence"]] == done
        assert "".join(found["text"]).startswith(sample["resps"][0][0])


def test_07_steps_and_confidence_are_those_of_the_decoder(tasks: Path) -> None:
    model = Plain(ToySettings(**TOY))
    results = run(tasks, ["t_write"], model, decode={"strategy": "rdm", "steps": 5, "early_exit": False},
                  log_trajectories=True)  # fmt: skip
    for sample, document in zip(results["samples"]["t_write"], DOCUMENTS, strict=True):
        canvas = Canvas.completion(model.encode(str(document["text"])), 8)
        (filling,) = fill(model, [canvas], "rdm", steps=5, until=("zz",), early_exit=False)
        (found,) = sample["trajectory"]
        assert found["tokens"] == list(filling.tokens) and found["step"] == list(filling.step)
        assert found["confidence"] == [four_digits(p) for p in filling.confidence]


def test_07_open_positions_of_an_early_exit_have_no_step(tasks: Path) -> None:
    decode = {"strategy": "left_to_right", "until": "a"}
    results = run(tasks, ["t_write"], decode=decode, log_trajectories=True)
    cut = [s["trajectory"][0] for s in results["samples"]["t_write"] if s["exit"] != ["full"]]
    assert cut
    for found in cut:
        left = [i for i, token in enumerate(found["tokens"]) if token == BLANK]
        assert left
        for name, empty in (("step", -1), ("text", ""), ("confidence", None)):
            assert [i for i, value in enumerate(found[name]) if value == empty] == left


def test_07_a_journal_without_the_option_has_them(tasks: Path, tmp_path: Path) -> None:
    fresh = run(tasks, log_trajectories=True)
    run(tasks, output_path=str(tmp_path))  # as before: not asked for
    later = run(tasks, output_path=str(tmp_path), log_trajectories=True)
    assert later["dlm_eval"]["cost"]["total"]["device_rows"] == 0  # nothing is computed again
    assert trajectories(later) == trajectories(fresh)
    again = run(tasks, output_path=str(tmp_path), score_only=True, log_trajectories=True)
    assert trajectories(again) == trajectories(fresh)
    last = run(tasks, output_path=str(tmp_path))  # and the other way round
    assert without(last) == without(fresh)
    assert not any("trajectory" in s for rows in last["samples"].values() for s in rows)


def test_07_the_journal_stores_four_digits() -> None:
    filling = Filling((3, BLANK), 2, 1, (0.123456789, math.nan), (0, -1))
    stored = json.loads(json.dumps(encode_answer(Answer(filling, None, 2, 0.5))))
    answer = decode_answer(stored)
    assert isinstance(answer.value, Filling)
    assert answer.value.confidence[0] == 0.1235 and math.isnan(answer.value.confidence[1])
    texts = TokenTexts(load_model("toy", **TOY))
    assert trajectory(filling, texts) == trajectory(answer.value, texts)


PLUGIN = """
from dataclasses import dataclass
from dlm_eval.canvas import Filling
from dlm_eval.decoding.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class Silent(Strategy, name="silent"):
    def program(self, request):
        return Filling(tuple(0 for _ in request.canvas.open_positions), 0, 0)
        yield
"""


def test_07_a_decoder_without_steps_has_none(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "silent.py").write_text(PLUGIN)
    decode = {"strategy": f"{tmp_path / 'silent.py'}:Silent"}
    home = tmp_path / "out"
    results = run(tasks, ["t_write"], decode=decode, log_trajectories=True, output_path=str(home))
    assert [s["trajectory"] for s in results["samples"]["t_write"]] == [[None]] * len(DOCUMENTS)
    assert main(["trace", "--from", str(home), "--doc", "0"]) == 2
    assert "--log_trajectories" in capsys.readouterr().err


class Rewriter(Plain):
    """A model of the uniform process."""

    process = "uniform"  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(ToySettings(vocab=6, seed=2))
        self.mask_id, self.vocab_size = -1, self.letters
        self.pad_id = self.bos_id = self.eos_ids[0]

    def logits(self, tokens: Any, valid: Any = None, positions: Any = None) -> Any:
        return super().logits(tokens, valid, positions)[..., : self.letters]


def test_07_decoders_that_rewrite_have_the_step_of_the_last_change(tasks: Path) -> None:
    decode = {"steps": 4, "temperature": 0.5}
    results = run(tasks, ["t_write"], Rewriter(), decode=decode, log_trajectories=True)
    found = [s["trajectory"][0] for s in results["samples"]["t_write"]]
    assert all(0 <= step < 4 for one in found for step in one["step"])
    assert all(0 < p <= 1 for one in found for p in one["confidence"])


def test_07_a_checkpoint_continues_with_the_same_trajectory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DLM_EVAL_CHECKPOINT_SECONDS", "0")
    model = load_model("toy", **TOY)
    settings = resolve({"strategy": "remask", "steps": 6, "eta": 0.5, "temperature": 1.0})
    job = FillJob(Canvas.completion(model.encode("abc"), 8, "k"), settings, 1)
    kept: list[Checkpoint] = []
    whole: list[Answer] = []
    engine = Engine(model)
    drive_jobs(engine, [(0, job)], lambda _, a: whole.append(a), lambda _, c: kept.append(c))
    assert len(kept) > 3
    for checkpoint in kept[1::2]:
        resumed = FillJob(job.canvas, settings, 1, checkpoint)
        drive_jobs(engine, [(0, resumed)], lambda _, a: whole.append(a))
    texts = TokenTexts(model)
    found = [trajectory(a.value, texts) for a in whole if isinstance(a.value, Filling)]
    assert len(found) == len(whole) and all(one == found[0] for one in found)


def test_07_a_failed_sample_has_null(tasks: Path) -> None:
    class Fragile(Plain):
        def logits(self, tokens: Any, valid: Any = None, positions: Any = None) -> Any:
            logits = super().logits(tokens, valid)
            logits[(tokens[:, :3] == tokens.new_tensor(self.encode("fab"))).all(1)] = math.nan
            return logits if positions is None else logits[positions]

    model = Fragile(ToySettings(vocab=6))
    results = run(tasks, ["t_write"], model, batch_size=1, log_trajectories=True)
    failed = [s for s in results["samples"]["t_write"] if "error" in s]
    assert [s["trajectory"] for s in failed] == [[None]]
    assert sum(s["trajectory"] != [None] for s in results["samples"]["t_write"]) == 4


def test_07_no_trajectory_spells_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("toy", **TOY)
    texts, ids = TokenTexts(model), model.encode("f" + "abcadefab" * 3)
    filling = Filling(tuple(ids), 1, 1, (0.5,) * len(ids), (0,) * len(ids))
    assert trajectory(filling, texts) is not None
    monkeypatch.setenv("OTHER_API_KEY", "abcadefab" * 3)
    assert trajectory(filling, texts) is None


@pytest.mark.full  # an answer comes from a worker whole, with its steps, whether or not they are saved
def test_07_workers_keep_them(tasks: Path) -> None:
    one = run(tasks, log_trajectories=True)
    two = run(tasks, log_trajectories=True, devices="cpu:2")
    assert trajectories(two) == trajectories(one) and without(two) == without(one)


def test_07_shards_keep_them(tasks: Path, tmp_path: Path) -> None:
    one = run(tasks, log_trajectories=True)
    base = ["run", "--model", "toy", "--model_args", "vocab=6,inconsistency=0.5", "--tasks", ",".join(WRITTEN),
            "--include_path", str(tasks), "--verbosity", "ERROR", "-o", str(tmp_path)]  # fmt: skip
    for number in (1, 2):
        assert main([*base, "--shard", f"{number}/2", *["--log_trajectories"][number - 1 :]]) == 0
    assert main(["merge", str(tmp_path), "--include_path", str(tasks)]) == 0
    logged = find_logged(str(tmp_path))
    for task in WRITTEN:
        merged = {one.doc_id: one for one in logged.trajectories(task)}
        assert len(merged) == len(DOCUMENTS)
        for sample in one["samples"][task]:
            found = merged[sample["doc_id"]]
            assert [list(found.tokens), list(found.step), list(found.confidence)] == [
                sample["trajectory"][0][key] for key in ("tokens", "step", "confidence")
            ]


# -- trace --from ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    run(
        tasks,
        [*WRITTEN, "t_choice"],
        decode={"steps": 2},
        output_path=str(folder),
        log_trajectories=True,
    )
    return folder


def test_07_trace_shows_a_stored_answer(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    base = ["trace", "--from", str(home), "--task", "t_infill", "--doc", "3"]
    assert (
        main([*base, "--html", str(tmp_path / "a.html"), "--json", str(tmp_path / "a.json")]) == 0
    )
    data = json.loads((tmp_path / "a.json").read_text())
    (sample,) = [s for s in map(json.loads, next(home.rglob("samples_t_infill*")).read_text().splitlines())
                 if s["doc_id"] == 3]  # fmt: skip
    (stored,) = sample["trajectory"]
    assert data["settings"]["strategy"] == "confidence" and data["model"] == "toy"
    assert (
        data["filling"]["tokens"] == stored["tokens"] and data["filling"]["step"] == stored["step"]
    )
    written = {p: (t, c, step["step"]) for step in data["steps"]
               for p, t, c in zip(step["written"], step["tokens"], step["confidence"], strict=True)}  # fmt: skip
    assert [written[p] for p in data["open"]] == list(
        zip(stored["tokens"], stored["confidence"], stored["step"], strict=True)
    )
    around = [
        data["pieces"][str(i)]["text"] for p, i in enumerate(data["start"]) if p not in data["open"]
    ]
    assert around == ["aabbccddee", "abc"]  # the document's text, and the task's suffix
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    capsys.readouterr()
    assert main(base) == 0
    shown = capsys.readouterr().out
    assert "step 0" in shown and "‹" in shown and shown.rstrip().endswith(sample["resps"][0][0])


def test_07_the_export_has_a_line_for_each_answer(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    assert main(["trace", "--from", str(home), "--jsonl", str(file)]) == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["task"], row["doc_id"]) for row in rows] == [
        (task, doc) for task in sorted(WRITTEN) for doc in range(len(DOCUMENTS))
    ]
    assert all(
        row.keys() == {"task", "doc_id", "answer", "prompt_hash", "exit"} | KEYS for row in rows
    )
    result = next(home.rglob("results_*.json"))
    assert (
        main(
            [
                "trace",
                "--from",
                str(result),
                "--task",
                "t_write",
                "--doc",
                "2",
                "--jsonl",
                str(file),
            ]
        )
        == 0
    )
    assert len(file.read_text().splitlines()) == 1


def test_07_of_a_folder_the_newest_run_is_that_of_every_command(home: Path, tmp_path: Path) -> None:
    """Not the newest samples file: a run without samples is the newest too, and a broken one is an
    error, as for `check` and `compare`.
    """
    shutil.copytree(home, tmp_path / "runs")
    (results,) = (tmp_path / "runs").rglob("results_*.json")
    assert find_logged(str(tmp_path / "runs")).samples
    later = results.with_name("results_2099-01-01T00-00-00.000000.json")
    content = json.loads(results.read_text())
    later.write_text(json.dumps({**content, "date": content["date"] + 1e6}))
    with pytest.raises(UserError, match="has no samples"):
        find_logged(str(tmp_path / "runs"))
    later.write_text("{")
    with pytest.raises(UserError, match="is the newest, and cannot be read"):
        find_logged(str(tmp_path / "runs"))


def test_07_hostile_texts_stay_texts(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nasty = [
        "</script><b>&amp;",
        "\x1b[31m",
        "\u2028",
        "\u202e",
        "\ud800",
        "<!--<script>",
        "\n",
        "\x00",
    ]
    for file in (home / "toy").iterdir():
        shutil.copy(file, tmp_path)
    (file,) = tmp_path.glob("samples_t_write_*")
    sample = json.loads(file.read_text().splitlines()[0])
    sample["trajectory"] = [{"tokens": list(range(8)), "text": nasty, "step": list(range(8)),
                             "confidence": [None, math.inf, *[0.5] * 6], "forwards": 8}]  # fmt: skip
    sample["arguments"]["gen_args_0"]["arg_0"] = "".join(nasty)
    sample["exit"] = ["\x1b[2J"]
    file.write_text(json.dumps(sample) + "\n")
    html = tmp_path / "a.html"
    base = ["trace", "--from", str(file), "--doc", "0"]
    capsys.readouterr()
    assert main([*base, "--html", str(html)]) == 0 and main(base) == 0
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800]", capsys.readouterr().out)
    text = html.read_text(encoding="utf-8")
    assert len(re.findall(r"<script", text, re.I)) == len(re.findall(r"</script", text, re.I)) == 2
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert not set(data) & set("<>&\u2028\u2029")
    assert main(["trace", "--from", str(file), "--jsonl", str(tmp_path / "b.jsonl")]) == 0
    row = json.loads((tmp_path / "b.jsonl").read_text())
    assert row["confidence"][:2] == [None, None] and row["text"][0] == nasty[0]


def bad(sample: dict[str, Any], **change: Any) -> str:
    return json.dumps({**sample, "trajectory": [{**sample["trajectory"][0], **change}]})


def test_07_a_file_of_another_form_is_one_line(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = json.loads(next(home.rglob("samples_t_write*")).read_text().splitlines()[0])
    texts = ["{", "[]", bad(sample, step=[0]), bad(sample, tokens="abc"), bad(sample, text=[1] * 8),
             bad(sample, step=[0.5] * 8), bad(sample, forwards=None),
             json.dumps({**sample, "exit": []}), json.dumps({**sample, "arguments": None})]  # fmt: skip
    for text in texts:
        file = tmp_path / "samples_x_2026-01-01T00-00-00.000.jsonl"
        file.write_text(text + "\n")
        capsys.readouterr()
        assert main(["trace", "--from", str(file), "--doc", "0"]) == 2, text
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "line 1 " in line


WRONG = {
    "arguments are required: --model, --prompt": [],
    "--doc needs --from": ["--model", "toy", "--prompt", "a", "--doc", "1"],
    "--from needs --doc": ["--from", "HOME"],
    "--model and --from exclude": ["--from", "HOME", "--model", "toy", "--doc", "1"],
    "--task is missing": ["--from", "HOME", "--doc", "1"],
    "--task 't_wite'.*t_write": ["--from", "HOME", "--task", "t_wite", "--doc", "1"],
    "from 0 to 4": ["--from", "HOME", "--doc", "9"],
    "--answer '3'": ["--from", "HOME", "--task", "t_write", "--doc", "1", "--answer", "3"],
    "has no samples": ["--from", "/nowhere", "--doc", "1"],
    "xx' has no samples": ["--from", "x" * 5000, "--doc", "1"],
    "leave out --html": ["--from", "HOME", "--jsonl", "x", "--html", "y"],
    "run again with --log_trajectories": ["--from", "HOME", "--task", "t_choice", "--doc", "1"],
}


@pytest.mark.parametrize("expected", WRONG)
def test_07_a_mistake_is_one_line(
    expected: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(home) if word == "HOME" else word for word in WRONG[expected]]
    capsys.readouterr()
    assert main(["trace", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(expected, line), line


def test_07_it_needs_samples_and_a_denoiser(tasks: Path) -> None:
    with pytest.raises(UserError, match="--no_log_samples"):
        run(tasks, log_samples=False, log_trajectories=True)
    with pytest.raises(UserError, match="--log_trajectories means nothing"):
        evaluate("dummy", ["t_write"], include_path=str(tasks), log_trajectories=True)
