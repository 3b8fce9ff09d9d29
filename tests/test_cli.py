"""The command line: every mistake is one line and exit 2, help is quick, what is promised is written."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import write_tasks

from dlm_eval.cli import main
from dlm_eval.errors import UserError
from dlm_eval.harness.checks import check_options
from dlm_eval.harness.run_settings import run_settings


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def base(tasks: Path, out: Path) -> list[str]:
    return ["--include_path", str(tasks), "--output_path", str(out), "--verbosity", "ERROR"]


WRONG = {
    "unknown model": (["--model", "lladda", "--tasks", "t_write"], "--model 'lladda'.*llada"),
    "unknown task": (["--model", "toy", "--tasks", "t_wryte"], "t_wryte.*t_write"),
    "unknown option": (
        ["--model", "toy", "--tasks", "t_write", "--limitt", "3"],
        "--limitt.*--limit",
    ),
    "unknown estimator": (
        ["--model", "toy", "--tasks", "t_last", "--estimator", "exakt"],
        "exakt.*exact",
    ),
    "unknown estimator setting": (
        ["--model", "toy", "--tasks", "t_last", "--estimator", "mask_count,max_fowards=3"],
        "max_fowards.*max_forwards",
    ),
    "unknown decode setting": (
        ["--model", "toy", "--tasks", "t_write", "--decode", "stepps=3"],
        "stepps.*steps",
    ),
    "unknown strategy": (
        ["--model", "toy", "--tasks", "t_write", "--decode", "strategy=confidense"],
        "confidense.*confidence",
    ),
    "unknown model option": (
        ["--model", "toy", "--tasks", "t_write", "--model_args", "vocabb=3"],
        "vocabb.*vocab",
    ),
    "gen_length 0": (
        ["--model", "toy", "--tasks", "t_write", "--decode", "gen_length=0"],
        "gen_length '0'",
    ),
    "steps > length": (
        ["--model", "toy", "--tasks", "t_write", "--decode", "steps=9,gen_length=8"],
        "steps '9'.*8",
    ),
    "batch_size": (
        ["--model", "toy", "--tasks", "t_write", "--batch_size", "many"],
        "--batch_size 'many'.*auto",
    ),
    "batch_size 0": (
        ["--model", "toy", "--tasks", "t_write", "--batch_size", "0"],
        "--batch_size '0'",
    ),
    "limit 0": (["--model", "toy", "--tasks", "t_write", "--limit", "0"], "--limit '0'"),
    "limit huge": (
        ["--model", "toy", "--tasks", "t_write", "--limit", "1e308"],
        "--limit .1e.308.",
    ),
    "limit negative": (["--model", "toy", "--tasks", "t_write", "--limit", "-1"], "--limit '-1'"),
    "no tasks": (["--model", "toy"], "--tasks is empty"),
    "no model": (["--tasks", "t_write"], "--model is missing"),
    "use_cache": (
        ["--model", "toy", "--tasks", "t_write", "--use_cache", "x"],
        "--use_cache is not supported.*journal",
    ),
    "overlong": (["--model", "toy", "--tasks", "t_write", "--overlong", "cut"], "cut"),
    "config missing": (
        ["--model", "toy", "--tasks", "t_write", "--config", "no.yaml"],
        "--config 'no.yaml'",
    ),
    "samples": (["--model", "toy", "--tasks", "t_write", "--samples", '{"t_write": [99]}'], "99"),
    "samples not JSON": (
        ["--model", "toy", "--tasks", "t_write", "--samples", "{x"],
        "--samples '{x'",
    ),
    "samples no file": (
        ["--model", "toy", "--tasks", "t_write", "--samples", "no.json"],
        "--samples 'no.json'.*file",
    ),
    "samples no table": (
        ["--model", "toy", "--tasks", "t_write", "--samples", "[1]"],
        "--samples.*task -> list",
    ),
    "metadata": (
        ["--model", "toy", "--tasks", "t_write", "--metadata", "{x"],
        "--metadata '{x'.*Invalid JSON",
    ),
    "limit no number": (
        ["--model", "toy", "--tasks", "t_write", "--limit", "x"],
        "--limit 'x'.*number",
    ),
    "seed": (["--model", "toy", "--tasks", "t_write", "--seed", "x"], "--seed 'x' is not allowed"),
    "devices": (
        ["--model", "toy", "--tasks", "t_write", "--devices", "tpu"],
        "--devices 'tpu'.*cpu:N",
    ),
    "batch_size of workers": (
        ["--model", "toy", "--tasks", "t_write", "--devices", "cpu:2", "--batch_size", "many"],
        "--batch_size 'many'.*auto",
    ),
    "report_to": (
        ["--model", "toy", "--tasks", "t_write", "--report_to", "wanbd"],
        "--report_to 'wanbd'.*wandb",
    ),
    "ray_address": (
        ["--model", "toy", "--tasks", "t_write", "--ray_address", "a:1"],
        "--ray_address needs",
    ),
}
# Options of a run of t_write with toy that cannot be, and what is said of them.
WRONG_OPTIONS = {
    "--limit nan": "--limit 'nan'.*finite",
    "--decode temperature=inf": "temperature 'inf'.*finite",
    "--decode steps=3,steps=4": "steps is given twice",
    "--decode strategy=rewrite": "'rewrite' is not for models of process 'absorbing'; allowed: .*confidence",
    "--decode preset=autors": "did you mean 'authors'",
    "--estimator auto,cfg_scale=nan": "cfg_scale 'nan'.*finite",
    "--model_args {x": "--model_args '{x' is not key=value",
    "--model_args x": "--model_args 'x' is not key=value",
    "--engine rai": "--engine 'rai'.*did you mean 'ray'",
    "--devices=": "--devices is empty",
    "--device cpu --devices cpu:2": "--device and --devices exclude each other",
    "--device cpu --model_args device=cpu": "--device and device of --model_args exclude each other",
    "--device cpu": "--device 'cpu' is not possible: model 'toy' has no devices",
    "--model tiny --device tpu": "--device 'tpu' is not known; allowed: auto, cpu",
    "--model tiny --device tpu --dry_run": "--device 'tpu' is not known; allowed: auto, cpu",
    "--model tiny --model_args device=x --dry_run": "model_args device 'x' is not known",
    "--output_path=": "--output_path is empty",
    "--samples {}": "--samples '{}'.*task -> list",
    "--seed -1": "--seed '-1'.*0 to 4294967295",
    "--stride 0": "--stride '0'.*1 or more",
    "--max_batch_size 0": "--max_batch_size '0'.*1 or more",
    "--trust_remote_code": "--trust_remote_code is not supported",
    "--model no.py": "--model 'no.py': no such file",
    "--model tiny-ar --estimator chain": "--estimator means nothing to --model 'tiny-ar'",
    "--model tiny-ar --decode steps=3": "--decode means nothing to --model 'tiny-ar'",
}


@pytest.mark.parametrize("words", WRONG_OPTIONS)
def test_a_wrong_option_is_one_line_and_exit_2(
    words: str, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = base(tasks, tmp_path / "out")
    assert main(["--model", "toy", "--tasks", "t_write", *options, *words.split(" ")]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(WRONG_OPTIONS[words], said), said


# Commands with an empty path, which would be the current folder, and what is empty.
EMPTY_PATHS = {
    "view out -o=": "--output",
    "view out --board=": "--board",
    "view PATH=": "PATH",
    "export json out -o=": "--output",
    "leaderboard out -o=": "--output",
    "baseline save out -o=": "--output",
    "baseline show FILE=": "FILE",
    "check out --baseline=": "--baseline",
    "check out --baseline b --junit=": "--junit",
    "compare RUN= out": "RUN",
    "merge out -o=": "--output_path",
    "sweep --model toy --tasks t --decode steps=1 -o=": "--output_path",
    "probe --model toy -o=": "--output_path",
    "cache export out -o=": "--output",
    "trace --from= --doc 1": "--from",
    "trace --from out --doc 1 --html=": "--html",
    "trace --model toy --prompt a --json=": "--json",
}


@pytest.mark.parametrize("words", EMPTY_PATHS)
def test_an_empty_path_is_not_the_current_folder(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [re.fullmatch("([A-Z]+)=|(-o)=|(.+)", word) for word in words.split(" ")]
    parts = [[""] if m[1] else [m[2], ""] if m[2] else [m[3]] for m in given if m]
    assert main([word for part in parts for word in part]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert f"{EMPTY_PATHS[words]} is empty; give it a value" in said
    assert not list(tmp_path.iterdir())


def test_written_pages_have_no_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", "results", "-o", "pages", "--port", "8000"]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "--port and --output exclude each other" in said


@pytest.mark.parametrize(
    "setting", ["tasks: 3", "limit: abc", "seed: {a: 1}", "decode: 5", "model: [a]", "stride: x"]
)
def test_a_config_file_of_wrong_types_is_one_line(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(f"{setting}\nverbosity: ERROR\n")
    given = [] if setting.startswith("tasks") else ["--tasks", "demo_choice"]
    named = [] if setting.startswith("model") else ["--model", "tiny"]
    assert (
        main(
            [
                *named,
                *given,
                "--config",
                str(tmp_path / "run.yaml"),
                "--output_path",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "--" + setting.split(":")[0] in said


def test_a_yaml_of_wrong_generation_settings_is_told_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tasks(tmp_path)
    yaml = (folder / "t_write.yaml").read_text()
    (folder / "t_write.yaml").write_text(yaml.replace("do_sample:", "stepps: 3, do_sample:"))
    missing = ["--model", "llada", "--model_args", "pretrained=/nowhere/at/all"]
    run = [*missing, "--tasks", "t_write", *base(folder, tmp_path / "out")]
    for words in (run, ["validate", "t_write", "--include_path", str(folder)]):
        assert main(words) == 2
        assert (
            "task 't_write': generation_kwargs 'stepps' is not known; did you mean 'steps'"
            in capsys.readouterr().err
        )


def test_a_process_of_the_users_own_has_its_own_strategies() -> None:
    asked = run_settings(
        {
            "model": "generic",
            "tasks": "demo",
            "model_args": "process=uniform",
            "decode": "strategy=rewrite",
        }
    )
    check_options(asked)
    with pytest.raises(UserError, match="not for models of process 'uniform'; allowed: rewrite"):
        check_options(
            dataclasses.replace(asked, decode={"strategy": "threshold", "threshold": "0.9"})
        )


def test_an_unknown_option_names_the_nearest_one_of_its_own_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    near = {
        "ls models --include_pth x": "--include_path",
        "cache rm --fingerprnt x": "--fingerprint",
        "ls models --estimator x": "",
    }
    for words, option in near.items():
        assert main(words.split()) == 2
        said = capsys.readouterr().err
        assert (
            said.strip().endswith(f"did you mean '{option}'?")
            if option
            else "did you mean" not in said
        )


def test_samples_that_err_say_why_on_the_screen(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [
        "--model",
        "toy",
        "--tasks",
        "t_write",
        "--limit",
        "3",
        "--decode",
        "gen_length=9999",
        "--no_log_samples",
    ]
    assert main([*run, *base(tasks, tmp_path)]) == 1
    out = capsys.readouterr()
    assert re.search(r"3 samples .*:\n +3 a hole of 9999 tokens does not fit", out.out), out.out
    assert main([*run[:4], "--limit", "1", *base(tasks, tmp_path)]) == 0
    assert "skipped" not in capsys.readouterr().err  # the board passes over a run without scores


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line_and_exit_2(
    name: str, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = WRONG[name]
    assert main([*arguments, *base(tasks, tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in said if "error" in line]
    assert len(errors) == 1 and not any("Traceback" in line for line in said)
    assert re.search(expected, errors[0]), errors[0]
    assert not list((tmp_path / "out").rglob("results_*.json"))


def test_a_missing_dataset_is_said_at_once(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    assert main(["--model", "toy", "--tasks", "lambada_openai", *base(tasks, tmp_path)]) == 2
    assert "EleutherAI/lambada_openai" in capsys.readouterr().err and time.monotonic() - start < 10


def test_a_broken_yaml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tasks(tmp_path)
    (folder / "bad.yaml").write_text("task: [unclosed\n")
    assert main(["--model", "toy", "--tasks", "t_write", *base(folder, tmp_path / "out")]) == 2
    assert "bad.yaml" in capsys.readouterr().err


def test_an_unwritable_output_is_said_before_anything_runs(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert main(["--model", "toy", "--tasks", "t_write", *base(tasks, file / "below")]) == 2
    assert "--output_path" in capsys.readouterr().err


def test_unsafe_tasks_ask_before_a_model_is_loaded(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tasks(tmp_path)
    yaml = (folder / "t_write.yaml").read_text()
    (folder / "judging.py").write_text(
        "from dlm_eval import sandbox\n\n\ndef process_results(doc, results):\n"
        "    return {'exact_match': float(sandbox.run('assert True').passed)}\n"
    )
    judged = "unsafe_code: true\nprocess_results: !function judging.process_results\n"
    (folder / "t_write.yaml").write_text(yaml + judged)
    missing = ["--model_args", "pretrained=/nowhere/at/all"]
    assert (
        main(["--model", "llada", *missing, "--tasks", "t_write", *base(folder, tmp_path / "out")])
        == 2
    )
    assert "--confirm_run_unsafe_code" in capsys.readouterr().err
    assert (
        main(["--model", "toy", "--tasks", "t_write,t_last", *base(folder, tmp_path / "out")]) == 2
    )
    assert (
        main(
            ["--model", "toy", "--tasks", "t_all", "--limit", "1", *base(folder, tmp_path / "out")]
        )
        == 0
    )
    assert "t_write" not in capsys.readouterr().out
    assert (
        main(
            [
                "--model",
                "toy",
                "--tasks",
                "t_write",
                "--limit",
                "1",
                "--confirm_run_unsafe_code",
                *base(folder, tmp_path / "out"),
            ]
        )
        == 0
    )


def test_a_run_prints_a_table_and_writes_results_and_board(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        main(["--model", "toy", "--tasks", "t_write,t_choice", "--limit", "2", *base(tasks, out)])
        == 0
    )
    printed = capsys.readouterr().out
    assert "t_write" in printed and "forwards/sample" in printed
    assert list(out.glob("toy/results_*.json")) and len(list(out.glob("toy/samples_*.jsonl"))) == 2
    assert (out / "leaderboard.csv").exists() and (out / "journal.sqlite").exists()


def test_erring_samples_are_exit_1_and_everything_else_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness_tasks import DOCUMENTS

    folder = write_tasks(tmp_path, [*DOCUMENTS, {**DOCUMENTS[0], "word": "b" * 600}])
    assert main(["--model", "toy", "--tasks", "t_last", *base(folder, tmp_path / "out")]) == 1
    assert "1 sample could not" in capsys.readouterr().out
    assert list((tmp_path / "out").glob("toy/results_*.json"))


def test_settings_from_a_file_yield_to_the_command_line(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("model: toy\ntasks: [t_last]\nlimit: 3\n")
    assert (
        main(["--config", str(config), "--tasks", "t_write", *base(tasks, tmp_path / "out")]) == 0
    )
    assert "t_write" in (printed := capsys.readouterr().out) and "t_last" not in printed
    config.write_text("modell: toy\n")
    assert main(["--config", str(config), *base(tasks, tmp_path / "out")]) == 2
    assert "modell" in capsys.readouterr().err


def test_a_baseline_of_lm_eval_takes_our_tasks(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "--model",
                "tiny-ar",
                "--tasks",
                "t_infill,t_choice",
                "--limit",
                "2",
                *base(tasks, tmp_path / "out"),
            ]
        )
        == 0
    )
    assert "t_infill" in capsys.readouterr().out
    assert list((tmp_path / "out").glob("tiny-ar/results_*.json"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "models"],
        ["ls", "estimators"],
        ["ls", "strategies"],
        ["ls", "presets"],
        ["ls", "tasks"],
        ["show", "llada"],
        ["show", "gsm8k"],
    ],
)
def test_lists_and_descriptions(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) > 3


def test_show_of_nothing_has_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "ladda"]) == 2
    assert "llada" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["llada-8b-instruct", "mdlm"])
def test_show_of_a_model_has_the_settings_of_its_authors(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", name]) == 0
    shown = capsys.readouterr().out
    assert "presets of its authors" in shown
    one = {"llada-8b-instruct": "llada_instruct_gsm8k: 'gsm8k: ", "mdlm": "mdlm: '"}[name]
    assert one in shown and "llada15_gsm8k" not in shown


def test_show_names_functions_as_the_yaml_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "humaneval_infilling_single_line_oracle_length"]) == 0
    assert (
        "process_results: '!function dlm_eval.metrics.code.process_results'"
        in capsys.readouterr().out
    )


def test_ray_is_asked_for_by_its_package(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    assert (
        main(["--model", "toy", "--tasks", "t_write", "--engine", "ray", *base(tasks, tmp_path)])
        == 2
    )
    assert "pip install 'dlm_eval[ray]'" in capsys.readouterr().err


def test_samples_from_a_file(tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "chosen.json").write_text('{"t_write": [1]}')
    chosen = ["--samples", str(tmp_path / "chosen.json")]
    assert (
        main(["--model", "toy", "--tasks", "t_write", *chosen, *base(tasks, tmp_path / "out")]) == 0
    )
    (lines,) = (tmp_path / "out").rglob("samples_*.jsonl")
    assert len(lines.read_text().splitlines()) == 1


def test_validate_takes_metadata(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["validate", "t_write", "--include_path", str(tasks), "--metadata", "length=7", "n=2"])
        == 0
    )
    assert "t_write" in capsys.readouterr().out


def test_validate(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "t_all", "--include_path", str(tasks)]) == 0
    assert "t_infill" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from dlm_eval.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint([m for m in ('torch', 'transformers', 'datasets', 'pandas', 'numpy') if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.strip().splitlines()[-1] == "[]"


def test_a_board_from_the_command_line(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            ["--model", "toy", "--tasks", "t_write", "--limit", "1", *base(tasks, tmp_path / "out")]
        )
        == 0
    )
    assert main(["leaderboard", str(tmp_path / "out"), "-o", str(tmp_path / "board.csv")]) == 0
    assert (tmp_path / "board.csv").exists() and (tmp_path / "board_wide.csv").exists()


RELATIVE = """
task: relative
dataset_path: json
dataset_kwargs: {data_files: {test: data/*.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: q
doc_to_target: a
num_fewshot: 0
generation_kwargs: {until: ["x"], max_gen_toks: 2}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def test_a_task_beside_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Relative paths, shots that the task pins, the first prompt in `validate`, and the column of shots."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "docs.jsonl").write_text(
        '{"q": "abc\\ndef", "a": "d"}\n{"q": "fed", "a": "d"}\n'
    )
    (tmp_path / "relative.yaml").write_text(RELATIVE)
    monkeypatch.chdir("/")
    shots = ("--include_path", str(tmp_path), "--num_fewshot", "2")
    assert main(["validate", "relative", *shots]) == 0
    said = capsys.readouterr()
    assert "task 'relative': --num_fewshot 2 is ignored; its YAML says num_fewshot: 0" in said.err
    assert (
        "relative: the first prompt\n  | abc\n  | def\n  then {'until': ['x'], 'max_gen_toks': 2}\n"
        in said.out
    )
    assert (
        main(["run", "--model", "toy", "--tasks", "relative", *shots, "-o", str(tmp_path / "out")])
        == 0
    )
    head, _, row = capsys.readouterr().out.splitlines()[:3]
    cells = dict(
        zip((c.strip() for c in head.split("|")), (c.strip() for c in row.split("|")), strict=True)
    )
    assert cells["n"] == "2" and cells["shots"] == "0"


def test_help_lists_no_option_that_is_refused(capsys: Any) -> None:
    from dlm_eval.cli.run import REFUSED

    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = capsys.readouterr().out
    options = [
        line.split()[0].rstrip(",") for line in shown.splitlines() if line.strip().startswith("-")
    ]
    assert "--gen_kwargs" in options and not {f"--{name}" for name in REFUSED} & set(options)
    for name in REFUSED:
        assert f"--{name} " not in "\n".join(
            line for line in shown.splitlines() if "see also" not in line
        )


def test_lists_are_as_wide_as_the_terminal() -> None:
    from dlm_eval.output import table

    rows = [["a", "word " * 30], ["b", "short"]]
    assert max(map(len, table(rows, ("name", "about"), width=60).splitlines())) <= 60
    assert "word " * 29 + "word" in table(rows, ("name", "about"))


def test_validate_tells_of_a_prompt_that_is_no_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs.jsonl").write_text('{"story": "a", "end": "b"}\n')
    (tmp_path / "odd.yaml").write_text(
        "task: odd\ndataset_path: json\ndataset_kwargs: {data_files: {test: docs.jsonl}}\n"
        "test_split: test\noutput_type: loglikelihood\ndoc_to_text: stroy\ndoc_to_target: end\n"
        "metric_list: [{metric: acc}]\nmetadata: {version: 1}\n"
    )
    assert main(["validate", "odd", "--include_path", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    note = "doc_to_text 'stroy' is no column of the data (did you mean 'story'?)"
    assert note in shown.out + shown.err


def test_help_and_docstring_name_every_setting(capsys: Any) -> None:
    """All from `RunSettings`: there is no second list to keep."""
    import dlm_eval
    from dlm_eval.harness.run import NOT_IN_PYTHON
    from dlm_eval.harness.run_settings import RunSettings, settings_docs

    names = [own.name for own in dataclasses.fields(RunSettings)]
    docs = settings_docs()
    assert list(docs) == names and not [name for name in names if len(docs[name]) < 20]
    doc = dlm_eval.evaluate.__doc__ or ""
    listed = re.findall(r"^        (\w+): ", doc.partition("    Settings:\n")[2], re.MULTILINE)
    assert listed == [name for name in names if name not in NOT_IN_PYTHON]
    assert "examples in each prompt (default: the task's own number)" in doc
    assert "resamples for standard errors" in " ".join(doc.split()) and "(default: 200)" in doc
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = "".join(capsys.readouterr().out.split())
    for name in ("num_fewshot", "limit", "seed", "verbosity", "system_instruction", "metadata"):
        assert "".join(docs[name].split()) in shown
