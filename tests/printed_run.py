"""Runs what `printed_blocks` finds on the pages: commands in this process, through the command line's
own `main`, and Python blocks, both in a folder of the page.

Names that stand for something of the reader's are replaced by the table `SUBSTITUTIONS`. Models of
the hub are replaced by small random ones of the same family (`StandIns`), and runs are limited to a
few documents. What is not run is parsed all the same: options, their values, tasks, models and
strategies must exist.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import time
import traceback
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models_builders as build
import printed_output
import suite_checkpoints
from printed_blocks import Block, Command, blocks, commands

import dlm_eval
from dlm_eval.cli import build_parser, main
from dlm_eval.errors import DlmEvalError, UserError

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"

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
    (r"preset=daedal", "elsewhere: random weights never end the text (tests/test_samplers_lengths.py)"),
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
PACKAGED = ("tiny", "tiny-ar", "toy", "recorded")
# Families whose stand-in is a recorded checkpoint; the others' are built.
GOLDEN = {
    "diffugpt": "diffugpt",
    "diffullama": "diffullama",
    "dream": "dream",
    "llada2": "families-2026/llada22_routing",
    "mdlm": "mdlm",
    "sdar": "sdar",
    "wedlm": "wedlm",
    "bd3lm": "bd3lm",
    "smdm": "smdm",
    "lladamoe": "lladamoe",
}


NO_DATA = re.compile(
    r"dataset '([^']+)'.*the Hub is unreachable|no local file of ('\S+')", re.DOTALL
)


class NotRun(Exception):
    """Something cannot be run here; the message is the reason."""


class Parsed(Exception):
    """A script has parsed its arguments."""


@dataclass
class Entry:
    """What became of one command or Python block: 'run', 'parsed' or 'not run', and the reason."""

    place: str
    text: str
    state: str
    reason: str = ""
    fault: str = ""
    seconds: float = 0.0


@dataclass
class Report:
    """All entries of the pages that were run."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def faults(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.fault]

    def lines(self) -> list[str]:
        """Returns the numbers, the reasons and the faults, for the terminal."""
        count = {
            s: sum(entry.state == s for entry in self.entries) for s in ("run", "parsed", "not run")
        }
        found = [
            f"printed: {count['run']} run, {count['parsed']} parsed only, {count['not run']} not run"
        ]
        for state in ("parsed", "not run"):
            reasons: dict[str, int] = {}
            for entry in self.entries:
                if entry.state == state:
                    reasons[entry.reason] = reasons.get(entry.reason, 0) + 1
            found += [
                f"  {state}: {number} {reason}"
                for reason, number in sorted(reasons.items(), key=lambda item: -item[1])
            ]
        return found


class StandIns:
    """Small checkpoints in place of published ones, made when they are first needed."""

    def __init__(self, folder: Path, goldens: Path | None) -> None:
        self.folder, self.goldens = folder, goldens
        self._made: dict[str, Path] = {}

    def __call__(self, family: str) -> Path:
        """Returns the folder of a family's checkpoint.

        Raises:
            NotRun: there is none.
        """
        if family not in self._made:
            self._made[family] = self._make(family)
        return self._made[family]

    def _make(self, family: str) -> Path:
        folder = self.folder / family
        if family == "llada":
            return suite_checkpoints.llada(folder, suite_checkpoints.POSITIONS)
        if family in suite_checkpoints.BUILDERS:
            return suite_checkpoints.BUILDERS[family](folder)
        if family == "generic":
            model = build.llama(is_causal=True, max_position_embeddings=2048)
            model.save_pretrained(folder)
            build.tokenizer().save_pretrained(folder)
            return folder
        if family == "hf":
            return _gpt2(folder)
        if family in GOLDEN and self.goldens is not None:
            return self.goldens / GOLDEN[family]
        raise NotRun(f"hub: no small checkpoint of {family}")


def _gpt2(folder: Path) -> Path:
    """An autoregressive GPT-2 of random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = suite_checkpoints.tokenizer()
    tokenizer.save_pretrained(folder)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 2048}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ids)).save_pretrained(folder)
    return folder


class Stage:
    """Where pages run: a folder for each, the data, the stand-ins, and the answers of earlier runs.

    Args:
        folder: everything is written below it.
        shared: recorded checkpoints and benchmark files; None if this machine has none.
        quick: parse what needs a stand-in or several runs, and run the rest.
    """

    def __init__(self, folder: Path, shared: Path | None, quick: bool = False) -> None:
        self.folder, self.shared, self.quick = folder, shared, quick
        goldens = None if shared is None else shared / "goldens"
        self.stand_ins = StandIns(folder / "models", goldens)
        self.data = _joined_data(folder / "data", shared)
        self.known = folder / "journal.sqlite"  # answers of the packaged models, for every page
        self._scene: Path | None = None

    @property
    def scene(self) -> Path:
        """A folder with what pages take for granted: results/, A, B, RUN1, RUN2, FILE, FOLDER, my_task.yaml."""
        if self._scene is None:
            self._scene = self.folder / "scene"
            self._scene.mkdir(parents=True)
            _make_scene(self._scene)
        return self._scene

    def page(self, page: Path, report: Report, write: bool = False) -> list[Entry]:
        """Runs a page; returns its entries, which are added to the report.

        With `write`, shown outputs are replaced on the page.
        """
        before = len(report.entries)
        PageRun(self, page, report, write).run()
        return report.entries[before:]


def _make_scene(folder: Path) -> None:
    for name in ("scripts", "benchmarks", "task_configs", "dlm_eval", "tests"):
        (folder / name).symlink_to(ROOT / name)
    boards = folder / "leaderboards"
    shutil.copytree(ROOT / "leaderboards", boards)
    (folder / "FOLDER").mkdir()
    tasks = "demo_choice,demo_word_problem,demo_story_infill"
    for name, more in {"results": ["--log_trajectories"], "B": ["--decode", "steps=8"]}.items():
        words = ["--model", "tiny", "--tasks", tasks, "--limit", "4", "-o", str(folder / name)]
        with silent():
            assert main([*words, *more]) == 0
    (folder / "results" / "journal.sqlite").unlink()  # a page's runs begin without known answers
    for name in ("A", "RUN", "RUN1", "RUN2"):
        shutil.copytree(folder / "results", folder / name)
    (samples,) = (folder / "results" / "tiny").glob("samples_demo_word_problem_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    for row in rows:
        row |= {"question": row["doc"]["question"], "generation": row["resps"][0][0]}
    (folder / "FILE.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (packaged,) = (ROOT / "task_configs").rglob("demo_choice.yaml")
    task = f"include: {packaged}\ntask: my_task\n"
    (folder / "my_task.yaml").write_text(task)
    (folder / "corpus.jsonl").write_text(json.dumps({"text": "Anna had a red hat."}) + "\n")


def _joined_data(folder: Path, shared: Path | None) -> Path:
    """Returns a folder with our own small data sets, and of others the real ones of this machine."""
    folder.mkdir(parents=True)
    places = [TESTS / "data", TESTS / "suite_data"]
    if shared is not None:
        places.append(shared / "data")
    for place in places:
        for path in sorted(place.glob("*/*")):
            target = folder / path.parent.name / path.name
            if path.is_dir() and not target.exists():
                target.parent.mkdir(exist_ok=True)
                target.symlink_to(path)
    return folder


class PageRun:
    """One page: its folder, its names in Python, the report."""

    def __init__(self, stage: Stage, page: Path, report: Report, write: bool) -> None:
        self.stage, self.path, self.report, self.write = stage, page, report, write
        module = types.ModuleType(f"page_{id(self)}")  # dataclasses look their module up
        sys.modules[module.__name__] = module
        self.names = vars(module)
        self.variables: dict[str, str] = {}
        self.whole: set[int] = set()
        self.printed: str | None = None  # by the last command or Python block
        self.home = stage.folder / "pages" / re.sub(r"\W+", "_", str(page.relative_to(ROOT)))

    def run(self) -> None:
        found = blocks(self.path, ROOT)
        self.whole = followed_by_output(found)
        shutil.copytree(self.stage.scene, self.home, symlinks=True)
        files = [block for block in found if block.kind == "file"]
        for other in re.findall(r"<!-- files of: (\S+) -->", self.path.read_text(encoding="utf-8")):
            files += [one for one in blocks(self.path.parent / other, ROOT) if one.kind == "file"]
        for block in files:
            path = self.home / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n")
            self._beside(block.text)
        with contextlib.chdir(self.home) if sys.version_info >= (3, 11) else _chdir(self.home):
            self.names.update(_given())
            for block in found:
                self._block(block)

    def _beside(self, text: str) -> None:
        """Copies the packaged task that a task of the page includes, and what that one includes."""
        if included := re.search(r"^include: (\S+\.yaml)", text, re.MULTILINE):
            (packaged,) = (ROOT / "task_configs").rglob(included[1])
            for file in packaged.parent.iterdir():
                if file.is_file() and not (self.home / file.name).exists():
                    shutil.copyfile(file, self.home / file.name)

    def _block(self, block: Block) -> None:
        unused = block.name.endswith(".py") and not self._used(block.name)
        if block.kind == "python" or unused:
            self._python(block)
        elif block.kind == "output":
            self._compare(block.place, block.text)
        elif block.kind == "commands":
            for command in commands(block):
                self._command(block, command)

    def _used(self, name: str) -> bool:
        """Returns whether a command of the page loads a file."""
        return any(
            name in command.text
            for block in blocks(self.path, ROOT)
            if block.kind == "commands"
            for command in commands(block)
        )

    def _python(self, block: Block) -> None:
        entry = Entry(block.place, block.text.split("\n", 1)[0], "run")
        self.report.entries.append(entry)
        if block.reason:
            entry.state, entry.reason = "parsed", block.reason
            compile(block.text, block.place, "exec")
            return
        out = io.StringIO()
        try:
            with limited_evaluate(self.stage.data), silent(out):
                exec(compile(block.text, block.place, "exec", dont_inherit=True), self.names)
        except BaseException:
            entry.fault = traceback.format_exc(limit=-3)
        self.printed = out.getvalue()

    def _command(self, block: Block, command: Command) -> None:
        place = f"{block.page}:{command.line}"
        for text in _alternatives(command.text):
            entry = Entry(place, text, "run")
            self.report.entries.append(entry)
            began = time.monotonic()
            try:
                self._one(text, block.reason, entry, full=self._is_shown(block))
            except NotRun as reason:
                entry.state, entry.reason = "not run", str(reason)
            except (DlmEvalError, SystemExit) as error:
                entry.fault = f"{type(error).__name__}: {error}"
            except Exception:
                entry.fault = traceback.format_exc(limit=-4)
            entry.seconds = time.monotonic() - began
            if command.shown is not None and entry.state == "run" and not entry.fault:
                self._compare(place, command.shown)

    def _is_shown(self, block: Block) -> bool:
        """Returns whether outputs of the block are on the page, so that its runs must be whole."""
        return block.line in self.whole or any(c.shown is not None for c in commands(block))

    def _one(self, text: str, reason: str, entry: Entry, full: bool) -> None:
        """Runs or parses one command."""
        if assigned := re.fullmatch(r'([A-Z]+)="(.*)"', text):
            self.variables[assigned[1]] = assigned[2]
            entry.state, entry.reason = "parsed", "elsewhere: a variable of the next commands"
            return
        for name, value in self.variables.items():
            text = text.replace(f"${name} ", f"{value} ")
        if text.startswith("--"):
            text = f"dlm-eval --model llada --tasks gsm8k {text}"
        inner = re.search(r"(?:^|(?<=\s))(')?(dlm-eval .*?)(?(1)')$", text, re.DOTALL)
        program = re.sub(r"^(\w+=\S+\s+)*", "", text).split()
        first = re.split(r"\W", text, maxsplit=1)[0]
        if text.startswith("python "):
            words = shlex.split(self._substituted(text))[1:]
            parse_script(words, run=words[0] in QUICK_SCRIPTS)
            if words[0] in QUICK_SCRIPTS:
                return
            entry.state, entry.reason = (
                "parsed",
                reason or "minutes: a script, whose options are parsed",
            )
        elif inner is None:
            known = OTHER_PROGRAMS.get(program[0] if program else first) or OTHER_PROGRAMS.get(
                first
            )
            if known is None and not reason:
                raise UserError(
                    f"'{text}' is no command that the test knows; say why it is not run"
                )
            raise NotRun(reason or known)
        else:
            argv = shlex.split(self._substituted(inner[2]))[1:]
            if program[0] != "dlm-eval" and not reason:
                reason = OTHER_PROGRAMS.get(program[0]) or OTHER_PROGRAMS.get(first) or ""
            reason = reason or next((why for p, why in ONLY_PARSED if re.search(p, inner[2])), "")
            if not reason and self.stage.quick and is_slow(argv):
                reason = "minutes: pytest -m full runs it"
            if reason:
                check(argv)
                entry.state, entry.reason = "parsed", reason
            else:
                self._run(argv, full)

    def _substituted(self, text: str) -> str:
        for pattern, replacement, _ in SUBSTITUTIONS:
            places = {"data": str(self.stage.data), "goldens": str(self.stage.stand_ins.goldens)}
            if "{llada}" in replacement and re.search(pattern, text):
                places["llada"] = str(self.stage.stand_ins("llada"))
            if (
                "{goldens}" in replacement
                and self.stage.shared is None
                and re.search(pattern, text)
            ):
                raise NotRun("data: no recorded checkpoints on this machine")
            if replacement == "{newest}":
                text = re.sub(rf"\S*(?:{pattern})\S*", _newest, text)
            else:
                for name, value in places.items():
                    replacement = replacement.replace(f"{{{name}}}", value)
                text = re.sub(pattern, replacement, text)
        return text

    def _run(self, argv: list[str], full: bool) -> None:
        """Runs `dlm-eval`; raises AssertionError unless it ends as it should."""
        words = prepared(argv, self.stage, full)
        seeded = self._seed(words)
        out, err = io.StringIO(), io.StringIO()
        with silent(out, err):
            code = main(words)
        if code == 2 and (lacking := NO_DATA.search(err.getvalue())):
            check(argv)
            raise NotRun(f"data: {lacking[1] or lacking[2]} is not on this machine; parsed")
        allowed = (0, 3) if words[0] == "check" else (0,)
        assert code in allowed, (
            f"exit code {code} of dlm-eval {shlex.join(words)}\n{err.getvalue()[-1500:]}{out.getvalue()[-1500:]}"
        )
        self.printed = out.getvalue()
        if seeded is not None and seeded.exists():
            shutil.copyfile(seeded, self.stage.known)

    def _seed(self, words: list[str]) -> Path | None:
        """Puts the known answers of the packaged models into the run's folder; returns its journal."""
        if not words[0].startswith("-") or "tiny" not in words or "--dry_run" in words:
            return None
        if "--shard" in words or "--suite" in words:
            return None
        journal = Path(value_of(words, "-o", "--output_path") or "results") / "journal.sqlite"
        if (
            not journal.exists()
            and self.stage.known.exists()
            and not journal.name.endswith(".json")
        ):
            journal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.stage.known, journal)
        return journal

    def _compare(self, place: str, shown: str) -> None:
        entry = self.report.entries[-1]
        if entry.fault or entry.state != "run" or self.printed is None:
            return
        if self.write:
            new = printed_output.renewed(shown, self.printed)
            if new != shown:
                text = self.path.read_text(encoding="utf-8")
                self.path.write_text(printed_output.replaced(text, shown, new), encoding="utf-8")
            return
        if self.stage.quick:  # the runs behind outputs are whole ones
            return
        if missing := printed_output.missing(shown, self.printed):
            entry.fault = f"the output at {place} has lines that were not printed:\n" + "\n".join(
                [*missing, "-- printed:", self.printed[-6000:]]
            )


@contextlib.contextmanager
def _chdir(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def silent(out: io.StringIO | None = None, err: io.StringIO | None = None) -> Iterator[None]:
    """Catches what is printed."""
    with (
        contextlib.redirect_stdout(out or io.StringIO()),
        contextlib.redirect_stderr(err or io.StringIO()),
    ):
        yield


@contextlib.contextmanager
def limited_evaluate(data: Path) -> Iterator[None]:
    """Limits `evaluate` of Python blocks as the command line is limited."""
    from dlm_eval.harness.run import evaluate as real

    def evaluate(model: Any = None, tasks: Any = None, suite: Any = None, **given: Any) -> Any:
        given["limit"] = min(given.get("limit") or LIMIT, LIMIT)
        given.setdefault("data_dir", str(data))
        return real(model, tasks, suite, **given)

    dlm_eval.evaluate = evaluate
    try:
        yield
    finally:
        del dlm_eval.evaluate


def _given() -> dict[str, Any]:
    """Returns names that Python blocks take for granted: the reader's function, tokenizer and texts."""
    import torch

    from dlm_eval import load_model

    tiny = load_model("tiny")

    def f(tokens: Any) -> Any:
        """Logits of `tiny`, padded to the ids of the page's mask."""
        found = tiny.logits(torch.where(tokens < tiny.vocab_size, tokens, tiny.mask_id))
        return torch.nn.functional.pad(found, (0, 126340 - found.shape[-1]), value=-1e9)

    return {
        "f": f, "tok": tiny, "programs": ["assert True", ("x = 1", "assert x == 1")],
        "prefix": tiny.encode("Anna had a"), "ids": tiny.encode(" red"), "suffix": tiny.encode(" hat."),
    }  # fmt: skip


def _alternatives(text: str) -> list[str]:
    """Returns one command for each of `ls a | b | c`."""
    if re.match(r"dlm-eval ls [\w| ]+$", text):
        return [
            f"dlm-eval ls {word.strip()}" for word in text.removeprefix("dlm-eval ls ").split("|")
        ]
    return [text]


def followed_by_output(found: list[Block]) -> set[int]:
    """Returns the lines of the blocks whose output stands in a block of its own."""
    lines: set[int] = set()
    before: Block | None = None
    for block in found:
        if block.kind == "output" and before is not None:
            lines.add(before.line)
        if block.kind in ("commands", "python"):
            before = block
    return lines


def _newest(found: re.Match[str]) -> str:
    """Returns the newest file whose name fits a name with a left out time."""
    option, _, name = found[0].rpartition("=")
    pattern = re.sub(r"<time>|\.\.\.\.(?=jsonl?\b)", "*.", name).replace("*..", "*.")
    files = sorted(Path().glob(pattern))
    if not files:
        raise UserError(f"no file {name} in the folder of the page")
    return f"{option}={files[-1]}" if option else str(files[-1])


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
    from dlm_eval.decoding.settings import resolve
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

    with patches.quiet_index(), patches.quick_index():
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
