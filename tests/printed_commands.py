"""What a printed command becomes before it runs: names that stand for something of the reader's are replaced
by the table `SUBSTITUTIONS`, models of the hub by stand-ins, and runs are limited to a few documents.
What is not run is parsed all the same: options, their values, tasks, models and strategies must exist.
"""

from __future__ import annotations

import argparse
import io
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import models_builders as build
from printed_stage import PACKAGED, ROOT, Stage, silent

from dlm_eval.cli import build_parser
from dlm_eval.errors import UserError

# What is replaced before a command runs: pattern, replacement, in words. {data}, {goldens} and {own}
# are folders, {newest} is a file of the page's results.
SUBSTITUTIONS = (
    (r"\bGOLDENS\b", "{goldens}", "GOLDENS: the folder of recorded checkpoints"),
    (r"\bDATA\b", "{data}", "DATA: the folder of the benchmarks' files"),
    (r"\bpath/to/", "", "path/to/: the folder of the page"),
    (r"--devices (?!cpu)\S+", "", "--devices of GPUs: left out"),
    (r"--model (big|MODEL_ID)\b", "--model llada", "big: a LLaDA"),
    (r"--model (MODEL|mymodel)\b", "--model tiny", "MODEL, mymodel: tiny"),
    (r"^dlm-eval \.\.\.", "dlm-eval --model tiny --tasks demo_choice", "dlm-eval ...: --model tiny --tasks demo_choice"),
    (r"--tasks \.\.\.", "--tasks demo_word_problem", "--tasks ...: demo_word_problem"),
    (r"\bTASK_d1\b", "gsm8k_d1", "TASK_d1: gsm8k_d1"),
    (r"--tasks TASK\b", "--tasks demo_word_problem", "--tasks TASK: demo_word_problem"),
    (r"\banswers=ANSWERS\b", "answers={data}/local/d1_llada/gsm8k_128/test.jsonl", "ANSWERS: d1's recorded answers"),
    (r"\banswers=gsm8k_128\.jsonl", "answers={data}/local/d1_llada/gsm8k_128/test.jsonl", "gsm8k_128.jsonl: d1's recorded answers"),
    (r"\banswers=FOLDER\b", "answers={data}/local/d1_llada", "answers=FOLDER: d1's recorded answers"),
    (r"\bgen_length=N\b", "gen_length=128", "N tokens: 128"),
    (r"\bsteps=N/2\b", "steps=64", "N/2 steps: 64"),
    (r'"?\$SLURM_ARRAY_TASK_ID/16"?', "1/16", "$SLURM_ARRAY_TASK_ID: 1"),
    (r"--tokenizer GSAI-ML/LLaDA-8B-Instruct", "--tokenizer {llada}", "a hub tokenizer: the stand-in's"),
    (r"hf-eval-results results/ (.*)gsm8k=", r"hf-eval-results leaderboards/demo \1demo_word_problem=", "results for the hub, which must be whole: those of leaderboards/demo"),
    (r"\bgen_length=512\b", "gen_length=64", "512 tokens: 64"),
    (r"--show N\b", "--show 2", "--show N: 2"),
    (r"steps=64,128,256\b", "steps=16,32", "steps=64,128,256: 16 and 32"),
    (r"gen_length=256,block_length=32\b", "gen_length=32,block_length=32", "256 tokens in a sweep: 32"),
    (r"\bjudge=gpt2-large\b", "judge=asset:tiny-ar", "the judge gpt2-large: the packaged tiny-ar"),
    (r"\bn_samples=\d+", "n_samples=4", "n_samples: 4"),
    (r"<time>|\.\.\.\.(?=jsonl?\b)", "{newest}", "<time> and ....json: the newest file of that name"),
    (r"\[(--[^][]*)\]", r"\1", "[--option]: given"),
    (r"\s\[[^][-][^][]*\]", "", "[C ...]: left out"),
)  # fmt: skip
# Commands that are parsed alone, with the reason.
ONLY_PARSED = (
    (r"--engine ray\b|--ray_address|\bSLURM", "cluster"),
    (r"--model (local-|openai-|anthropic-)", "api"),
    (r"dlm-eval view (?!.*-o\b)", "elsewhere: it serves until Ctrl-C (tests/test_view.py)"),
    (r"--suite my_suite", "hub: the page's suite is validated by another of its commands"),
    (r"validate llada_base", "minutes: tests/test_suites_tasks.py loads every entry"),
    (r"steps=32,64,128,256,512,1024", "minutes: a sweep to 1024 steps"),
    (r"--suite (?!demo\b|my_|card\b|generative\b|d1\b.* --model)\w+", "minutes: tests/test_suites_tasks.py runs every entry"),
    (r"--model (diffusiongemma)\b", "hub: tests/test_models_diffusiongemma.py builds a small one"),
    (r"--fingerprint 3fa1", "elsewhere: it names the reader's model (tests/test_journal.py)"),
    (r"preset=(daedal|rho_eos)", "elsewhere: random weights never end the text (tests/test_samplers_lengths.py)"),
    (r"bitsandbytes", "gpu"),
    (r"quantization=(torchao|quanto)", "install: tests/test_models_options.py runs it"),
)  # fmt: skip
# Other programs than dlm-eval and python, which are named and not run.
OTHER_PROGRAMS = {
    "pip": "install: .ci/run does it",
    "git": "hub",
    "ray": "cluster",
    "srun": "cluster",
    "sbatch": "cluster",
    "head": "cluster",
    "array": "cluster",
    "sleep": "cluster",
    "export": "cluster",
    "pytest": "elsewhere: this is it",
    "mypy": "minutes: .ci/run does it",
    "ruff": "elsewhere: .ci/run does it",
    "cd": "elsewhere: the folder of the page",
    "mkdir": "elsewhere: the folder of the page",
}
QUICK_SCRIPTS = ("scripts/count_tokens.py",)  # run, not only parsed
# documents per task, of packaged models, of stand-ins and of points of a sweep
LIMIT, STAND_IN_LIMIT, SWEEP_LIMIT = 4, 1, 1
HAVE_LIMIT = ("run", "sweep")
HAVE_DATA = ("run", "sweep", "probe", "validate", "merge")


class Parsed(Exception):
    """A script has parsed its arguments."""


def alternatives(text: str) -> list[str]:
    """Returns one command for each of `ls a | b | c`."""
    if re.match(r"dlm-eval ls [\w| ]+$", text):
        return [
            f"dlm-eval ls {word.strip()}" for word in text.removeprefix("dlm-eval ls ").split("|")
        ]
    return [text]


def value_of(words: list[str], *names: str) -> str | None:
    """Returns the value of an option; None without it."""
    for name in names:
        if name in words:
            return words[words.index(name) + 1]
    return None


def is_slow(argv: list[str]) -> bool:
    """Returns whether a command loads a stand-in, or runs a model several times."""
    verb = verb_of(argv)
    model = value_of(argv, "--model")
    several = verb in ("sweep", "probe") or bool({"--suite", "--repeats"} & set(argv))
    return several or (model is not None and model not in PACKAGED) or verb == "validate"


def verb_of(argv: list[str]) -> str:
    return "run" if argv[0].startswith("-") else argv[0]


def prepared(argv: list[str], stage: Stage, full: bool) -> list[str]:
    """Returns the arguments of a command as it is run: on a stand-in, on few documents, on our data."""
    words, verb = list(argv), verb_of(argv)
    here = True
    if verb in ("run", "sweep", "trace", "probe") and "--model" in words:
        here = _with_stand_in(words, stage)
    if verb == "run" and "answers=FILE" in " ".join(words):
        words = [word.replace("answers=FILE", "answers=FILE.jsonl") for word in words]
    if verb in HAVE_LIMIT and not (full and here and not stage.quick):
        limit = SWEEP_LIMIT if verb == "sweep" else LIMIT if here else STAND_IN_LIMIT
        if "wikitext" in (value_of(words, "--tasks") or ""):
            limit = 1  # its documents are whole pages
        if "--limit" in words:
            at = words.index("--limit") + 1
            words[at] = str(min(int(words[at]), limit))
        elif "--samples" not in words:
            words += ["--limit", str(limit)]
    if verb in ("run", "sweep") and not here and not {"--num_fewshot", "--suite"} & set(words):
        words += ["--num_fewshot", "0"]
    if verb in HAVE_DATA and "--data_dir" not in words:
        words += ["--data_dir", str(stage.data)]
    return words


def _with_stand_in(words: list[str], stage: Stage) -> bool:
    """Replaces a published model by its stand-in; returns whether the model was one of this machine."""
    from dlm_eval.models.catalog import checkpoints, own_families

    at = words.index("--model") + 1
    name = words[at]
    known = checkpoints()
    if name in PACKAGED or name.endswith(".py") or name == "toy":
        return True
    if name in known:
        family = known[name].family
    elif name in own_families() or name == "hf":
        family = name
    else:
        return True  # the command says what is wrong
    args = value_of(words, "--model_args") or ""
    options = [part for part in args.split(",") if part]
    given = dict(part.partition("=")[::2] for part in options)
    if Path(given.get("pretrained", "/nowhere")).is_dir():
        return False
    folder = stage.stand_ins(family)
    options = [
        part for part in options if not part.startswith(("pretrained=", "mask_id=", "revision="))
    ]
    options.append(f"pretrained={folder}")
    if "mask_id" in given:
        options.append(f"mask_id={build.tokenizer().convert_tokens_to_ids(build.MASK)}")
    if name in known and family != name:
        options.append(f"checkpoint={name}")
    if family == "mdlm":
        options.append(f"tokenizer={folder}")
    words[at] = family
    text = ",".join(options)
    if "--model_args" in words:
        words[words.index("--model_args") + 1] = text
    else:
        words += ["--model_args", text]
    return False


def check(argv: list[str]) -> None:
    """Parses a command that is not run: its options and values, and the names of models, tasks,
    suites, strategies and estimators.

    Raises:
        UserError: something is not allowed, or does not exist.
    """
    words = argv if not argv[0].startswith("-") else ["run", *argv]
    parsed, rest = build_parser().parse_known_args(words)
    if rest:
        raise UserError(f"unrecognized arguments: {' '.join(rest)}")
    if parsed.command == "run":
        _check_run({k: v for k, v in vars(parsed).items() if v is not None})


def _check_run(values: dict[str, Any]) -> None:
    from dlm_eval.cli.run import PLAIN
    from dlm_eval.decoding import resolve
    from dlm_eval.harness.open_model import kind_of
    from dlm_eval.harness.run_settings import run_settings
    from dlm_eval.harness.suites import load_suite
    from dlm_eval.models.catalog import known_families, option_names

    values = {k: v for k, v in values.items() if k not in PLAIN}
    if "suite" in values:
        suite = load_suite(values["suite"])
        values.setdefault("model", suite.models[0] if suite.models else "tiny")
        values["tasks"] = [entry.task for entry in suite.entries]
    settings = run_settings({k: v for k, v in values.items() if k != "suite"})
    assert settings.parsed_estimator
    kind_of(settings.model)
    for task in settings.tasks:
        task_exists(task)
    if settings.model in known_families():
        names = option_names(settings.model)
        if wrong := [name for name in settings.model_args if name not in names]:
            raise UserError(f"{settings.model} has no option {wrong[0]}")
    if settings.decode and settings.decode.get("preset") != "authors":
        resolve(settings.decode, length=None if "gen_length" in settings.decode else 256)


def task_exists(name: str) -> None:
    """Raises UserError unless a task, group or tag of this name exists."""
    from dlm_eval.harness import lm_eval_patches as patches
    from dlm_eval.harness.tasks import _find, task_folders

    with patches.finding():
        _find([name], task_folders(), {})


def parse_script(words: list[str], run: bool = False) -> None:
    """Runs a script up to the parsing of its arguments, which must succeed; with `run`, to its end.

    Raises:
        UserError: the script is not there, or refuses its arguments.
    """
    path = ROOT / words[0]
    if not path.is_file():
        raise UserError(f"there is no {words[0]}")
    real = argparse.ArgumentParser.parse_args

    def parse_args(self: Any, *given: Any, **more: Any) -> Any:
        parsed = real(self, *given, **more)
        if run:
            return parsed
        raise Parsed

    before = sys.argv, list(sys.path)
    sys.argv = [str(path), *words[1:]]
    sys.path.insert(0, str(path.parent))
    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]
    err = io.StringIO()
    try:
        with silent(err=err):
            runpy.run_path(str(path), run_name="__main__")
        if not run:
            raise UserError(f"{words[0]} ended without parsing its arguments")
    except Parsed:
        return
    except SystemExit as error:
        if error.code:
            raise UserError(f"{words[0]}: {error.code} {err.getvalue().strip()[-300:]}") from error
    finally:
        argparse.ArgumentParser.parse_args = real  # type: ignore[method-assign]
        sys.argv, sys.path[:] = before
