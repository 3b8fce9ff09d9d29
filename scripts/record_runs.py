"""The cases that are whole runs: `evaluate`, `lm_eval.simple_evaluate` and the command line, with their files and tables.

Tasks are the packaged `demo`, small ones of tests/harness_tasks.py, and with the shared folder some on real data.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import record_models
from record_format import UNSTABLE, Case, Renamed, listed

from dlm_eval import evaluate

DATA = record_models.SHARED / "data"
KEPT = (
    "results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples", "config", "configs", "dlm_eval", "task_hashes",
    "system_instruction", "fewshot_as_multiturn", "chat_template",
)  # fmt: skip
DEMO = ("--model", "tiny", "--tasks", "demo", "--confirm_run_unsafe_code")
OWN = ("--model", "toy", "--tasks", "t_all")
ON_DATA = {
    "ours": "glue_cola,glue_sst2,glue_mrpc,glue_stsb,glue_mnli,glue_qnli,glue_rte,glue_wnli,triviaqa,triviaqa_oracle_length,lambada_openai,"
    "lambada_diffullama,gsm8k_symbolic,rocstories_infill",
    "code": "humaneval_infilling_single_line_oracle_length,humaneval_infilling_multi_line_oracle_length,humaneval_infilling_random_span_oracle_length,"
    "humaneval_infilling_single_line_fixed_length,humaneval,mbpp",
    "stock": "hellaswag,piqa,winogrande,mmlu_abstract_algebra,mgsm_direct_en",
}  # fmt: skip
# name -> (model, tasks, settings); `estimator` is (name, options), `decode` a mapping, both in the first recording's spelling
EVALUATE: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{
        f"estimator {name} {listed(options)}".rstrip(): ("toy", "t_choice,t_last,t_roll", {"estimator": (name, options)})
        for name, options in (
            ("auto", {"samples": 4}), ("auto", {"precision": 0.2}), ("cubature", {"samples": 8, "decide": 0.1}), ("k", {"samples": 4}), ("t", {"samples": 4}),
            ("chain", {"permutations": 8}), ("tube", {"permutations": 8}), ("exact", {"report": "likelihood"}), ("duel", {"policy": "margin", "tokens": 2}),
            ("left_to_right", {}), ("pseudo", {}), ("llada", {"samples": 8, "batch": 4}), ("dream", {"samples": 8}), ("diffullama", {"steps": 5}),
            ("mdlm", {"samples": 8}), ("k", {"samples": 3}), ("auto", {"cfg_scale": 0.5}), ("k", {"permutations": 3}),
        )
    },
    **{
        f"decode {listed(settings)}": ("toy", "t_write,t_infill", {"decode": settings})
        for settings in (
            {"strategy": "random", "steps": 2}, {"preset": "llada"}, {"preset": "authors"}, {"gen_length": 6, "block_length": 3, "temperature": 0.9},
            {"strategy": "threshold", "threshold": 0.4, "quota_is": "most"}, {"samples": 2, "temperature": 1.0, "confidence_of": "drawn", "top_p": 0.9},
            {"nucleus": "within", "temperature": 1.0, "top_p": 0.5}, {"stepz": 3}, {"early_exit": False, "until": ["b"]},
        )
    },
    "batch 1": ("toy", "t_all", {"batch_size": 1}),
    "batch 3": ("toy", "t_all", {"batch_size": 3}),
    "seed": ("toy", "t_all", {"seed": [3, 4, 5, 6], "estimator": ("k", {"samples": 4}), "decode": {"temperature": 1.0}}),
    "few-shot": ("toy", "t_choice,t_last", {"num_fewshot": 2}),
    "documents": ("toy", "t_choice,t_write", {"samples": {"t_choice": [1, 3], "t_write": [0]}}),
    "gen_kwargs": ("toy", "t_write", {"gen_kwargs": {"max_gen_toks": 5, "temperature": 0.5, "do_sample": True}}),
    "predict only": ("toy", "t_choice,t_write", {"predict_only": True}),
    "short model": ("toy", "t_all", {"model_args": {"max_length": 8}, "stride": 2}),
    "overlong": ("toy", "t_all", {"model_args": {"max_length": 8}, "overlong": "error"}),
    "system": ("toy", "t_choice,t_write", {"system_instruction": "dad fed"}),
    "chat": ("diffusiongemma", "t_write", {"apply_chat_template": True, "decode": {"steps": 4}, "num_fewshot": 1, "fewshot_as_multiturn": True}),
    "unconditional": ("tiny", "unconditional", {"decode": {"gen_length": 16, "temperature": 1.0}, "metadata": {"n_samples": 3, "judge": "asset:tiny-ar"}}),
    "predicted length": ("diffusionllm", "t_write", {"decode": {"preset": "rdm", "length_beam": 3}}),
    "embeddings": ("ddlm", "t_write", {"decode": {"steps": 6}}),
    "rewriting": ("ar2diff", "t_write", {"decode": {"temperature": 0.5}}),
    "blocks": ("sdar", "t_all", {"estimator": ("cubature", {"samples": 8})}),
    "shifted": ("diffullama", "t_all", {"estimator": ("auto", {"samples": 16}), "decode": {"preset": "diffullama", "steps": 4}}),
    "no likelihood": ("sedd", "t_last,t_write", {"estimator": ("sedd", {"samples": 8})}),
    "word problems": ("tiny", "demo_word_problem", {"limit": 3, "num_fewshot": 1, "decode": {"gen_length": 16}}),
    "settled early": ("toy_rough", "t_choice", {"estimator": ("cubature", {"samples": 128, "precision": 0.3})}),
    "settled late": ("toy_rough", "t_choice", {"estimator": ("auto", {"samples": 64, "precision": 0.02})}),
    "blanks": ("tiny", "t_blank,t_choice", {}),
    "no such task": ("toy", "t_chioce", {}),
}  # fmt: skip
LISTS = ("models", "tasks", "strategies", "estimators", "presets")
WORDS = {
    **{f"show {name}": ("show", name) for name in ("llada", "llada-8b-instruct", "confidence", "chain", "diffullama_gsm", "demo_choice", "gsm8k", "no_such")},
    "validate demo": ("validate", "demo", "glue_no_such"),
    "help": ("run", "--help"),
    "refused estimator": ("--model", "toy", "--tasks", "demo_choice", "--estimator", "kk"),
    "refused model": ("--model", "tyni", "--tasks", "demo_choice"),
    "refused option": ("--model", "toy", "--tasks", "demo_choice", "--limitt", "3"),
    "refused code": ("--model", "toy", "--tasks", "demo_code_infill", "--limit", "1"),
}  # fmt: skip


def listed_names(what: str) -> list[str]:
    """Returns the names in the first column of `dlm-eval ls`."""
    return list(dict.fromkeys(name.split()[0] for name in _listing(what)["rows"]))


def _listing(what: str) -> dict[str, Any]:
    """Returns the cells of `dlm-eval ls` by name (of models: family and checkpoint) and header; descriptions are words, settings are values."""
    lines = _command("ls", what).stdout.splitlines()
    dashes = next(i for i, line in enumerate(lines) if line.startswith("---"))
    edges = [match.span() for match in re.finditer("-+", lines[dashes])]
    head, *rows = (
        [line[begin : end + 1].strip() for begin, end in edges]
        for line in (*lines[:dashes], *lines[dashes + 1 :])
        if line.strip()
    )
    found: dict[str, Any] = {}
    for row in rows:
        cells: dict[str, Any] = dict(zip(head, row, strict=True))
        words = {head[-1]: cells.pop(head[-1])} if head[-1] in ("about", "source") else {}
        if "settings" in cells:
            cells["settings"] = dict(
                pair.split("=", 1) for pair in cells["settings"].split(", ") if "=" in pair
            )
        found[" ".join(row[: 2 if what == "models" else 1])] = {**cells, "words": words}
    return {"rows": found}


def names() -> list[str]:
    """Returns the names of all cases here, what takes long first."""
    found = [f"run/{name}" for name in RUNS] + [
        f"run/data {name}" for name in ON_DATA if DATA.is_dir()
    ]
    here = record_models.names()
    return [
        *found,
        *(f"run/evaluate {name}" for name, (model, _, _) in EVALUATE.items() if model in here),
        *(f"run/list {what}" for what in LISTS),
        *(f"run/words {name}" for name in WORDS),
    ]


def cases(name: str, folder: Path, renamed: Renamed) -> Iterator[Case]:
    """Yields the one case called `name`."""
    kind, _, what = name.removeprefix("run/").partition(" ")
    if kind == "evaluate":
        yield Case(name, partial(_evaluated, what, folder, renamed))
    elif kind == "list":
        yield Case(name, partial(_listing, what))
    elif kind == "words":
        yield Case(name, partial(_said, *WORDS[what]))
    elif kind == "data":
        more = ("--confirm_run_unsafe_code", "--decode", "gen_length=24") if what == "code" else ()
        arguments = (
            "--model",
            "tiny",
            "--tasks",
            ON_DATA[what],
            "--limit",
            "2",
            "--data_dir",
            str(DATA),
            *more,
        )
        yield Case(name, partial(_ran, folder, *arguments))
    else:
        yield Case(name, partial(RUNS[name.removeprefix("run/")], folder))


def _evaluated(what: str, folder: Path, renamed: Renamed) -> Any:
    model, tasks, settings = EVALUATE[what]
    settings = dict(settings)
    if "estimator" in settings:
        name, options = renamed.estimating(*settings["estimator"])
        settings["estimator"] = ",".join([name, *([listed(options)] if options else [])])
    if "decode" in settings:
        settings["decode"] = renamed.decoding(settings["decode"])
    family, options = record_models.arguments(model, folder)
    results = evaluate(
        family,
        tasks.split(","),
        **{**settings, "model_args": {**options, **settings.get("model_args", {})}},
        include_path=str(_tasks(folder)),
        verbosity="ERROR",
    )
    return _numbers(results, results["samples"])


def write_small_tasks(folder: Path) -> None:
    """Writes the small tasks of the tests into `folder`, and one whose contexts end with blanks."""
    from harness_tasks import CHOICE, write_tasks

    folder.mkdir(parents=True)
    write_tasks(folder)
    choice = CHOICE.format(data=folder / "documents.jsonl")
    (folder / "t_blank.yaml").write_text(
        choice.replace("t_choice", "t_blank").replace('"{{text}}"', '"{{text}}  "')
    )


def _tasks(folder: Path) -> Path:
    """Returns the folder of the small tasks, which all runs of a recording share."""
    return folder.parent / "tasks"


def _numbers(results: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: results[key] for key in KEPT if key in results}
    rows = {
        task: [{key: value for key, value in row.items() if key != "doc"} for row in rows]
        for task, rows in samples.items()
    }
    return {**found, "samples": rows}


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dlm_eval", *arguments], capture_output=True, text=True
    )


def _said(*arguments: str) -> Any:
    done = _command(*arguments)
    return {
        "exit": done.returncode,
        "words": {
            "out": done.stdout.splitlines(),
            "err": [line for line in done.stderr.splitlines() if "warn" not in line.lower()],
        },
    }


def _ran(folder: Path, *arguments: str, total: bool = True) -> Any:
    """Runs the command line with an output folder; returns exit code, table, results, samples and boards.

    Args:
        folder: for its files.
        arguments: of `dlm-eval`.
        total: whether the cost of the device is stable: it is not in parts of a run, or if workers share it.
    """
    done = _command(*arguments, "-o", str(folder / "out"))
    error = {"words": {"error": done.stderr.splitlines()[-1:]}} if done.returncode else {}
    return {
        "exit": done.returncode,
        "table": _table(done.stdout),
        **_files(folder / "out", total),
        **error,
    }


def _files(out: Path, total: bool = True) -> dict[str, Any]:
    stored = sorted(out.glob("*/results_*.json"))
    found: dict[str, Any] = {
        "boards": {path.name: _rows(path) for path in sorted(out.glob("*.csv"))}
    }
    if stored:
        date = stored[-1].stem.removeprefix("results_")
        samples = {
            path.stem.removesuffix(f"_{date}"): [
                json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
            ]
            for path in sorted(stored[-1].parent.glob(f"samples_*_{date}.jsonl"))
        }
        results = json.loads(stored[-1].read_text(encoding="utf-8"))
        if not total:
            del results["dlm_eval"]["cost"]["total"]
        found |= _numbers(results, samples)
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _table(text: str) -> list[dict[str, str]]:
    """Returns the rows of the table in `text` by header; a column without a name that is stable is left out."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    head, *body = rows or [[]]
    return [
        {name: cell for name, cell in zip(head, row, strict=False) if not UNSTABLE.search(name)}
        for row in body
        if set("".join(row)) != {"-"}
    ]


def _demo(folder: Path, limit: int = 3, *more: str, total: bool = True) -> Any:
    return _ran(folder, *DEMO, "--limit", str(limit), *more, total=total)


def _own(folder: Path, *more: str, total: bool = True) -> Any:
    return _ran(folder, *OWN, "--include_path", str(_tasks(folder)), *more, total=total)


def _resumed(folder: Path) -> Any:
    _demo(folder, 1)
    return _demo(folder, 3, total=False)


def _scored_again(folder: Path) -> Any:
    _own(folder)
    return _own(folder, "--score_only", total=False)


def _killed(folder: Path) -> Any:
    """Kills a run as soon as its journal grows, then lets it go on."""
    arguments = (
        "--model",
        "tiny",
        "--tasks",
        "demo_word_problem,demo_story_infill",
        "--limit",
        "12",
        "--decode",
        "temperature=0.7",
    )
    command = [sys.executable, "-m", "dlm_eval", *arguments, "-o", str(folder / "out")]
    variables = {**os.environ, "DLM_EVAL_CHECKPOINT_SECONDS": "0"}
    process = subprocess.Popen(
        command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    begin = 0
    while process.poll() is None:
        size = sum(path.stat().st_size for path in (folder / "out").glob("journal*"))
        begin = begin or size
        if size > begin + 30_000:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    return {"killed": process.wait() == -signal.SIGKILL, **_ran(folder, *arguments, total=False)}


def _board(folder: Path) -> Any:
    tasks, out = str(_tasks(folder)), str(folder / "out")
    for seed, estimator in ((0, "auto"), (1, "pseudo"), (2, "left_to_right")):
        evaluate(
            "toy",
            ["t_all"],
            include_path=tasks,
            output_path=out,
            seed=[seed] * 4,
            estimator=estimator,
            verbosity="ERROR",
            resume=False,
        )
    done = _command(
        folder,
        "leaderboard",
        out,
        str(record_models.ROOT / "leaderboards"),
        "-o",
        str(folder / "board.csv"),
        "--all",
    )
    printed = _command("leaderboard", out)
    return {
        "exit": done.returncode,
        "boards": {path.name: _rows(path) for path in sorted(folder.glob("board*.csv"))},
        "printed": printed.stdout.splitlines(),
    }


def _sweep(folder: Path) -> Any:
    grid = (
        "--decode",
        "steps=2,4",
        "strategy=confidence,random",
        "--limit",
        "3",
        "-o",
        str(folder / "sweep"),
    )
    done = _command("sweep", "--model", "tiny", "--tasks", "demo_story_infill", *grid)
    return {
        "exit": done.returncode,
        "table": _table(done.stdout),
        "boards": {path.name: _rows(path) for path in sorted((folder / "sweep").glob("*.csv"))},
    }


def _trace(folder: Path) -> Any:
    files = ("--json", str(folder / "trace.json"), "--html", str(folder / "trace.html"))
    arguments = (
        "--model",
        "tiny",
        "--prompt",
        "Anna had a red",
        "--infill",
        " hat.",
        "--length",
        "8",
        "--decode",
        "steps=4",
        "temperature=0.8",
        *files,
    )
    done = _command("trace", *arguments)
    page = (folder / "trace.html").read_text(encoding="utf-8")
    return {
        "exit": done.returncode,
        "steps": json.loads((folder / "trace.json").read_text()),
        "words": {"page": page, "out": done.stdout.splitlines()},
    }


def _lm_evals(folder: Path) -> Any:
    """Runs lm-eval's own entry, which knows our models once the package is imported."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model="toy",
        tasks=["t_choice", "t_last", "t_write", "t_roll"],
        task_manager=TaskManager(include_path=str(_tasks(folder))),
    )
    return _numbers(results, results["samples"])


RUNS: dict[str, Callable[[Path], Any]] = {
    "killed": _killed,
    "resumed": _resumed,
    "demo": _demo,
    "demo two devices": lambda folder: _demo(folder, 3, "--devices", "cpu:2", total=False),
    "demo baseline": lambda folder: _ran(
        folder, "--model", "tiny-ar", *DEMO[2:], "--limit", "2", total=False
    ),
    "own": _own,
    "own two devices": lambda folder: _own(
        folder, "--devices", "cpu:2", "--estimator", "pseudo", total=False
    ),
    "own one device": lambda folder: _own(folder, "--estimator", "pseudo", total=False),
    "own no resume": lambda folder: _own(
        folder, "--no_resume", "--no_log_samples", "--decode", "temperature=0.9", "--seed", "5"
    ),
    "scored again": _scored_again,
    "leaderboard": _board,
    "sweep": _sweep,
    "trace": _trace,
    "lm_eval": _lm_evals,
}
