"""`--dry_run`: its numbers are those of the run, or more; nothing is loaded, run or written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import DOCUMENTS, WRITE, write_tasks

from dlm_eval import Canvas, evaluate, load_model
from dlm_eval.answers import journal_key, look_up
from dlm_eval.cli import main
from dlm_eval.decoding import resolve
from dlm_eval.decoding.filling import most_forwards
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.jobs import Answer, Checkpoint, FillJob, Job, ScoreJob, drive_jobs
from dlm_eval.journal import Journal, StoredJournal
from dlm_eval.likelihood import parse_estimator
from dlm_eval.likelihood.program import budget, most_rows
from dlm_eval.models import packaged_asset
from dlm_eval.models.families.toy import Toy, ToySettings

TOY = {"vocab": 6, "inconsistency": 0.5}
EXACT = ("t_choice", "t_roll", "t_write", "t_infill")  # no part of these ends early


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    again = WRITE.format(data=folder / "documents.jsonl").replace("t_write", "t_again")
    (folder / "t_again.yaml").write_text(
        again.replace("temperature: 0.0", "temperature: 1.0") + "\nrepeats: 3\n"
    )
    return folder


def run(tasks: Path, names: Any = "t_all", model: Any = "toy", **settings: Any) -> dict[str, Any]:
    base = {"include_path": str(tasks), "bootstrap_iters": 10, "verbosity": "ERROR"}
    own = {"model_args": TOY} if model == "toy" else {}
    return evaluate(model, names, **{**base, **own, **settings})


def dry(*arguments: Any, **settings: Any) -> dict[str, Any]:
    return run(*arguments, dry_run=True, **settings)


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(f): (f.read_bytes(), f.stat().st_mtime_ns)
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    }


def check(plan: dict[str, Any], results: dict[str, Any], equal: Any = EXACT) -> None:
    """The plan is the run's cost: equal where nothing can end early, else no less."""
    for name, task in plan["tasks"].items():
        cost = results["dlm_eval"]["cost"][name]
        assert [task["documents"], task["requests"], task["truncated"], task["refused"]] == [
            cost[key] for key in ("samples", "requests", "truncated", "errors")
        ], name
        assert task["forwards"] >= cost["forwards"] and task["tokens"] >= cost["tokens"], name
        if name in equal:
            assert task["forwards"] == cost["forwards"], name
        if task["kind"] == "likelihood":
            assert task["tokens"] == cost["tokens"], name


def test_06_numbers_are_those_of_the_run_with_any_journal(tasks: Path, tmp_path: Path) -> None:
    settings = {"decode": {"early_exit": False}, "estimator": "cubature,max_forwards=5",
                "output_path": str(tmp_path / "new")}  # fmt: skip
    first = dry(tasks, model="tiny", limit=2, **settings)
    assert not (tmp_path / "new").exists() and first["journal"] is None and first["rate"] is None
    part = run(tasks, model="tiny", limit=2, **settings)
    check(first, part)
    assert first["total"]["forwards_left"] >= part["dlm_eval"]["cost"]["total"]["device_rows"] > 0

    before = state(tmp_path)
    half = dry(tasks, model="tiny", **settings)
    assert state(tmp_path) == before  # no file is new or changed
    assert half["total"]["known"] == part["dlm_eval"]["cost"]["t_choice"]["requests"] + 4 * 2
    rate = half["rate"]
    assert rate["devices"] == ["cpu"] and rate["per_second"] > 0 and rate["same_devices"]
    assert half["hours"] == half["total"]["positions_left"] / rate["per_second"] / 3600 > 0
    whole = run(tasks, model="tiny", **settings)
    check(half, whole)
    rows = whole["dlm_eval"]["cost"]["total"]["device_rows"]
    assert half["total"]["forwards_left"] >= rows > 0

    last = dry(tasks, model="tiny", **settings)
    check(last, whole, [*EXACT, "t_last"])  # known answers count as they were
    assert last["total"]["known"] == last["total"]["requests"] and last["hours"] == 0
    assert last["total"]["forwards_left"] == last["total"]["positions_left"] == 0


def test_06_samples_limit_repeats_and_shards(tasks: Path, tmp_path: Path) -> None:
    early = {"decode": {"early_exit": False}}
    for names, more in (
        (["t_write", "t_choice"], {"samples": {"t_write": [3, 1], "t_choice": [0]}}),
        (["t_again"], {"limit": 4}),
    ):
        check(dry(tasks, names, **early, **more), run(tasks, names, **early, **more), names)
    assert dry(tasks, ["t_again"], limit=4)["tasks"]["t_again"]["requests"] == 12
    base = ["run", "--model", "toy", "--model_args", "vocab=6,inconsistency=0.5", "--tasks", "t_all",
            "--include_path", str(tasks), "--verbosity", "ERROR", "-o", str(tmp_path)]  # fmt: skip
    from dlm_eval.harness.dry_run import dry_run
    from dlm_eval.harness.run_settings import run_settings

    common = {"model": "toy", "tasks": "t_all", "model_args": TOY, "include_path": str(tasks),
              "output_path": str(tmp_path)}  # fmt: skip
    whole = dry_run(run_settings(common))
    parts = [dry_run(run_settings({**common, "shard": f"{i}/2"})) for i in (1, 2)]
    for name in ("documents", "requests", "tokens", "forwards"):
        assert sum(getattr(p.total, name) for p in parts) == getattr(whole.total, name), name
    assert main([*base, "--shard", "1/2"]) == 0
    parts = [dry_run(run_settings({**common, "shard": f"{i}/2"})) for i in (1, 2)]
    assert [p.total.known for p in parts] == [
        parts[0].total.requests,
        0,
    ]  # each reads its own journal


def test_06_equal_requests_run_once(tasks: Path) -> None:
    plan = dry(tasks, ["t_write"], decode={"early_exit": False})["tasks"]["t_write"]
    assert plan["forwards_left"] == plan["forwards"] == 8 * len(DOCUMENTS)
    same = [DOCUMENTS[0]] * 4
    folder = tasks.parent / "same"
    folder.mkdir(exist_ok=True)
    plan = dry(write_tasks(folder, same), ["t_write"], decode={"early_exit": False})["tasks"][
        "t_write"
    ]
    assert (plan["documents"], plan["forwards"], plan["forwards_left"]) == (4, 32, 8)


def test_06_hours_are_those_of_all_workers(tasks: Path, tmp_path: Path) -> None:
    home = {"output_path": str(tmp_path)}
    run(tasks, ["t_write"], limit=2, devices="cpu:2", **home)
    (note,) = Journal(tmp_path / "journal.sqlite").notes("learned:").values()
    assert note["tokens"] > 0 and note["seconds"] > 0
    two = dry(tasks, ["t_write"], devices="cpu:2", **home)
    assert two["devices"] == 2 and two["rate"]["same_devices"]
    assert two["rate"]["per_second"] == note["tokens"] / note["seconds"]
    assert two["hours"] == two["total"]["positions_left"] / two["rate"]["per_second"] / 2 / 3600 > 0
    one = dry(tasks, ["t_write"], **home)
    assert not one["rate"]["same_devices"] and one["hours"] == 2 * two["hours"]
    run(tasks, ["t_write"], limit=3, devices="cpu:2", **home)  # adds to the measurement
    (later,) = Journal(tmp_path / "journal.sqlite").notes("learned:").values()
    assert later["tokens"] > note["tokens"] and later["seconds"] > note["seconds"]


# -- maxima ----------------------------------------------------------------------------------------


def rows_of(model: Any, job: Job) -> int:
    found: list[Answer] = []
    drive_jobs(Engine(model), [(0, job)], lambda _, answer: found.append(answer))
    assert found[0].error is None, found[0].error
    return found[0].rows


FIXED: list[dict[str, Any]] = [
    {}, {"steps": 4}, {"steps": 6, "block_length": 4}, {"strategy": "random", "steps": 3},
    {"strategy": "left_to_right"}, {"strategy": "first_hitting"}, {"strategy": "margin", "rescore": True, "steps": 4},
    {"guidance": 1.0, "steps": 4}, {"samples": 3, "temperature": 1.0, "rerank": "score", "steps": 2},
    {"strategy": "rdm", "steps": 5}, {"strategy": "p2", "steps": 5},
]  # fmt: skip
BOUNDED: list[dict[str, Any]] = [
    {"schedule": "cosine", "steps": 6}, {"schedule": "timestep", "steps": 20}, {"strategy": "timestep", "steps": 5},
    {"strategy": "threshold", "threshold": 0.6}, {"strategy": "threshold", "threshold": 2e-1, "schedule": "even", "steps": 3},
    {"strategy": "factor", "factor": 1.0}, {"strategy": "entropy_bound", "entropy_bound": 1.0},
    {"strategy": "window", "window": 3}, {"strategy": "ddpm", "steps": 20}, {"strategy": "analytic", "steps": 6},
    {"strategy": "euler", "steps": 6}, {"strategy": "remask", "steps": 9, "eta": 0.6},
    {"strategy": "edit", "threshold": 0.4, "editing_threshold": 0.2, "max_post_steps": 3},
]  # fmt: skip


@pytest.mark.parametrize("layer", [*FIXED, *BOUNDED], ids=str)
def test_06_no_filling_runs_more_rows(layer: dict[str, Any]) -> None:
    model = load_model("toy", **TOY)
    settings = resolve({**layer, "early_exit": False}, length=12)
    canvas = Canvas.infill(model.encode("abc"), 12, model.encode("de"), "key")
    most = most_forwards(model, canvas, settings)
    assert most is not None
    rows = [rows_of(model, FillJob(canvas, settings, seed)) for seed in range(5)]
    assert max(rows) <= most
    assert max(rows) == most or layer not in FIXED
    assert most_forwards(model, Canvas.completion([1], 0), settings) == 0


def test_06_blocks_of_a_shifted_model_begin_alone() -> None:
    class Blocks(Toy):
        block_length = 4  # type: ignore[assignment]
        logit_shift = 1

    model = Blocks(ToySettings(vocab=6, inconsistency=0.5))
    canvas = Canvas.completion(model.encode("abcd"), 7)
    settings = resolve({"steps_per_block": 1, "early_exit": False})
    most = most_forwards(model, canvas, settings)
    assert most is not None and rows_of(model, FillJob(canvas, settings, 0)) <= most <= 4


class Rewriter(Toy):
    """A model of the uniform process."""

    process = "uniform"  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(ToySettings(vocab=6, seed=2))
        self.mask_id, self.vocab_size = -1, self.letters

    def logits(self, tokens: Any, valid: Any = None, positions: Any = None) -> Any:
        return super().logits(tokens, valid, positions)[..., : self.letters]


def test_06_rewriting_has_its_steps() -> None:
    model, canvas = Rewriter(), Canvas.completion([1, 2], 6, "key")
    settings = resolve({"strategy": "rewrite", "steps": 4, "samples": 3, "temperature": 1.0})
    assert (
        rows_of(model, FillJob(canvas, settings, 0)) == most_forwards(model, canvas, settings) == 12
    )


ESTIMATORS = ("auto", "auto,max_forwards=9", "cubature,max_forwards=6", "exact", "mask_count,max_forwards=5",
              "mask_rate,max_forwards=300", "left_to_right", "pseudo", "duel", "duel,tokens_per_step=3",
              "chain,max_forwards=20", "chain,permutations=2", "tube,max_forwards=4", "llada,max_forwards=8",
              "dream,max_forwards=8", "mdlm,max_forwards=8", "diffullama,steps=200", "auto,cfg_scale=1,max_forwards=6",
              "auto,precision=0.5,max_forwards=40")  # fmt: skip


@pytest.mark.parametrize("text", ESTIMATORS)
def test_06_no_score_runs_more_rows(text: str) -> None:
    model, estimator = load_model("toy", **TOY), parse_estimator(text)
    for n in (1, 2, 7):
        for greedy in (False, True):
            canvas = Canvas.continuation(model.encode("abc"), model.encode("fedcbaf")[:n], f"k{n}")
            most = most_rows(model, canvas, estimator, greedy)
            rows = rows_of(model, ScoreJob(canvas, estimator, 0, greedy))
            assert rows <= most, (n, greedy)
            fixed = text.split(",")[0] in (
                "auto",
                "exact",
                "left_to_right",
                "pseudo",
                "duel",
                "cubature",
            )
            if fixed and not greedy and "precision" not in text:
                assert rows == most, n
    assert most_rows(model, Canvas.continuation([1], []), estimator) == 0


def test_06_the_budget_of_a_text_in_blocks_is_that_of_its_blocks(tasks: Path) -> None:
    """Seven tokens behind four, in blocks of 3: two, three and two tokens, and a third of the rows each."""

    class Blocks(Toy):
        attention = "block"  # type: ignore[assignment]
        block_length = 3  # type: ignore[assignment]

    model = Blocks(ToySettings(vocab=6, inconsistency=0.5))
    canvas = Canvas.continuation(model.encode("abcd"), model.encode("fedcbaf"), "k")
    for text, rows in (
        ("cubature,max_forwards=12", 3 + 4 + 3),
        ("cubature,max_forwards=300", 3 + 7 + 3),
        ("auto,cfg_scale=1,max_forwards=12", 2 * (3 + 4 + 3)),
        ("exact", 3 + 7 + 3),
        ("left_to_right", 7),
    ):
        estimator = parse_estimator(text)
        ran = rows_of(model, ScoreJob(canvas, estimator, 0, False))
        assert ran <= budget(model, canvas, estimator) == rows, text
    whole = Toy(ToySettings(vocab=6, inconsistency=0.5))
    assert budget(whole, canvas, parse_estimator("cubature,max_forwards=12")) == 12
    assert budget(model, Canvas.continuation([1], []), parse_estimator("exact")) == 0


def test_06_results_have_the_budget_of_blocks(tmp_path: Path) -> None:
    """Each choice of a text in blocks is enumerated, block by block."""
    folder = write_tasks(tmp_path)
    shared = {
        "include_path": str(folder), "verbosity": "ERROR", "bootstrap_iters": 0, "estimator": "exact",
    }  # fmt: skip
    tiny = {"pretrained": str(packaged_asset("tiny")), "dtype": "float32", "device": "cpu"}
    found = evaluate(
        "generic",
        "t_choice",
        model_args={**tiny, "attention": "block", "block_length": 2},
        **shared,
    )
    cost = found["dlm_eval"]["cost"]["t_choice"]
    assert cost["errors"] == 0 and cost["tokens"] > cost["requests"]
    assert cost["budget_forwards"] == cost["forwards"] > 0


@pytest.mark.parametrize(
    "text", ["auto", "uniform,max_forwards=5", "uniform,max_forwards=9", "duo,max_forwards=7"]
)
def test_06_no_score_under_uniform_noise_runs_more_rows(text: str) -> None:
    model, estimator = load_model("toy", **TOY, process="uniform"), parse_estimator(text)
    for n, greedy in ((1, False), (3, True), (7, True)):
        canvas = Canvas.continuation(model.encode("abc"), model.encode("fedcbaf")[:n], f"k{n}")
        most = most_rows(model, canvas, estimator, greedy)
        assert rows_of(model, ScoreJob(canvas, estimator, 0, greedy)) == most
    settings = resolve({"strategy": "ancestral", "steps": 4, "samples": 3})
    hole = Canvas.completion(model.encode("ab"), 6, "key")
    assert rows_of(model, FillJob(hole, settings, 0)) == most_forwards(model, hole, settings) == 15


PLUGIN = """
from dataclasses import dataclass
from dlm_eval.decoding import Unmasking, highest
from dlm_eval.decoding.strategies import Confidence


@dataclass(frozen=True, kw_only=True)
class Slow(Confidence, name="slow_one"):
    def commit(self, view):
        return highest(view.score, view.step % 2)
"""


def test_06_a_decoder_without_a_known_maximum_says_so(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slow.py").write_text(PLUGIN)
    words = ["run", "--model", "toy", "--tasks", "t_write", "--include_path", str(tasks), "--dry_run",
             "-o", str(tmp_path / "out"), "--decode", f"strategy={tmp_path / 'slow.py'}:Slow"]  # fmt: skip
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "+?" in shown and "the decoder of 5 requests has no known maximum" in shown
    assert "time: 0+? positions to run" in shown
    assert not (tmp_path / "out").exists()


def test_06_a_checkpoint_counts_as_done(tmp_path: Path) -> None:
    model = load_model("toy", **TOY)
    job = FillJob(
        Canvas.completion(model.encode("abc"), 8), DecodeSettings(strategy=resolve({}).strategy), 0
    )
    other = FillJob(Canvas.completion(model.encode("abd"), 8), job.settings, 0)
    engine, kept = Engine(model), list[Checkpoint]()
    from dlm_eval.decoding import fill_program  # the state after some steps
    from dlm_eval.decoding.strategy import FillRequest
    from dlm_eval.rng import Noise

    def offer(state: Any) -> None:
        kept.append(Checkpoint(state(), 0.1))

    engine.drive(
        [
            fill_program(
                FillRequest(model, job.canvas, job.settings, Noise.of(job.canvas, 0), offer=offer)
            )
        ]
    )
    journal = Journal(tmp_path / "journal.sqlite")
    plain = {"state": vars(kept[3].state), "seconds": 0.1}
    journal.keep(journal_key("f", job), plain, "f")
    journal.commit()
    busy = StoredJournal(tmp_path / "journal.sqlite")  # while a run writes to it
    assert busy.kept([journal_key("f", job)]) and not busy.get([journal_key("f", job)])
    busy.close()
    journal.close()
    before = state(tmp_path)
    stored = StoredJournal(tmp_path / "journal.sqlite")
    (_, answer, begun), (_, none, fresh) = look_up([job, other], "f", stored)
    stored.close()
    assert answer is none is None and isinstance(begun, FillJob) and isinstance(fresh, FillJob)
    assert begun.begun is not None and begun.begun.state.forwards == 3 and fresh.begun is None
    assert state(tmp_path) == before


# -- refusals --------------------------------------------------------------------------------------


def test_06_weights_are_not_read(tasks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(packaged_asset("tiny"), folder)
    data = (folder / "model.safetensors").read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    (folder / "model.safetensors").write_bytes(
        data[:head] + b"\xff" * (len(data) - head)
    )  # all NaN
    plan = dry(tasks, ["t_write"], "tiny", model_args={"pretrained": str(folder)})
    assert plan["total"]["requests"] == len(DOCUMENTS)
    assert 0.9 < plan["memory"]["weights"] / (len(data) - head) < 1.2
    with pytest.raises(UserError):
        run(tasks, ["t_write"], "tiny", model_args={"pretrained": str(folder)})


def test_06_what_would_be_refused_is_refused_or_counted(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mistake, found in (
        ({"decode": {"stepps": 3}}, "stepps"),
        ({"decode": {"steps": 99}}, "steps '99'"),
        ({"samples": {"t_write": [77]}}, "77"),
        ({"output_path": str(tasks / "t_write.yaml" / "x")}, "not a folder"),
        ({"score_only": True, "output_path": str(tmp_path)}, "exclude each other"),
    ):
        with pytest.raises(UserError, match=found):
            dry(tasks, ["t_write"], **mistake)
    short = {"model_args": {**TOY, "max_length": 12}}
    cut = dry(tasks, ["t_write", "t_choice"], **short)
    check(cut, run(tasks, ["t_write", "t_choice"], **short), ["t_choice"])
    assert cut["tasks"]["t_write"]["truncated"] > 0
    words = ["run", "--model", "toy", "--model_args", "max_length=12", "--tasks", "t_write", "--include_path",
             str(tasks), "--overlong", "error", "--devices", "gpu:64", "-o", str(tmp_path / "x"), "--dry_run"]  # fmt: skip
    capsys.readouterr()
    assert main(words) == 1  # as the run, of which samples fail
    shown = capsys.readouterr().out
    assert (
        "refused: " in shown and "on 64 devices" in shown and "would be refused: --devices" in shown
    )
    words = ["run", "--model", "tiny", "--tasks", "demo_choice", "--limit", "1", "--device", "cuda:77", "--dry_run"]  # fmt: skip
    assert main(words) == 0
    assert "would be refused: --device 'cuda:77' is not on this machine" in capsys.readouterr().out


def test_06_an_empty_text_is_refused_as_in_the_run(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path, [DOCUMENTS[0], {**DOCUMENTS[1], "text": ""}])
    plan = dry(folder, ["t_roll"])
    check(plan, run(folder, ["t_roll"]))
    task = plan["tasks"]["t_roll"]
    assert (task["known"], task["refused"]) == (0, 1)
    assert task["reasons"] == {"the text is empty: there is nothing to score": 1}


def test_06_a_damaged_journal_is_left_alone(tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"no journal" * 1000)
    before = state(tmp_path)
    plan = dry(tasks, ["t_write"], output_path=str(tmp_path))
    assert state(tmp_path) == before and "set it aside" in plan["notes"][0]
    assert plan["total"]["known"] == 0


def test_06_lm_evals_models_have_documents_and_requests(tasks: Path) -> None:
    plan = dry(tasks, ["t_write", "t_choice", "t_again"], "dummy")
    assert (
        plan["counted"] in ("texts", "requests")
        and plan["memory"] is None
        and plan["hours"] is None
    )
    assert all(task["documents"] == len(DOCUMENTS) for task in plan["tasks"].values())
    assert plan["tasks"]["t_choice"]["requests"] == 3 * len(DOCUMENTS)
    assert plan["tasks"]["t_again"]["requests"] == 3 * len(DOCUMENTS)
