"""Runs what `printed_blocks` finds on the pages: commands in this process, through the command line's own
`main`, and Python blocks, both in a folder of the page.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
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

import printed_output
from printed_blocks import Block, Command, blocks, commands
from printed_commands import (
    LIMIT,
    ONLY_PARSED,
    OTHER_PROGRAMS,
    QUICK_SCRIPTS,
    SUBSTITUTIONS,
    alternatives,
    check,
    is_slow,
    parse_script,
    prepared,
    value_of,
)
from printed_stage import ROOT, NotRun, Stage, silent

import dlm_eval
from dlm_eval.cli import main
from dlm_eval.errors import DlmEvalError, UserError

NO_DATA = re.compile(
    r"dataset '([^']+)'.*the Hub is unreachable|no local file of ('\S+')", re.DOTALL
)


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


def run_page(stage: Stage, page: Path, report: Report, write: bool = False) -> list[Entry]:
    """Runs a page; returns its entries, which are added to the report.

    With `write`, shown outputs are replaced on the page.
    """
    before = len(report.entries)
    PageRun(stage, page, report, write).run()
    return report.entries[before:]


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
        own = {Path(block.name).name for block in files}
        for block in files:
            path = self.home / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n")
            self._beside(block.text, own)
        with contextlib.chdir(self.home) if sys.version_info >= (3, 11) else _chdir(self.home):
            self.names.update(_given())
            for block in found:
                self._block(block)

    def _beside(self, text: str, own: set[str]) -> None:
        """Copies the packaged task that a task of the page includes, and what that one includes, unless it
        is a file of the page (`own`).
        """
        included = re.search(r"^include: (\S+\.yaml)", text, re.MULTILINE)
        if included is not None and included[1] not in own:
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
        for text in alternatives(command.text):
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
