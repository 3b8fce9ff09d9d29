"""Where the blocks of pages run: small random models for those of the hub (`StandIns`), data, results of
earlier runs (`Stage`).
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import models_builders as build
import suite_checkpoints

from dlm_eval.cli import main

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
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


class NotRun(Exception):
    """Something cannot be run here; the message is the reason."""


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


@contextlib.contextmanager
def silent(out: io.StringIO | None = None, err: io.StringIO | None = None) -> Iterator[None]:
    """Catches what is printed."""
    with (
        contextlib.redirect_stdout(out or io.StringIO()),
        contextlib.redirect_stderr(err or io.StringIO()),
    ):
        yield
