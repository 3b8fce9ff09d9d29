"""An estimator from a user's file: the example of docs/guides/adding-an-estimator.md, in Python, on the command line and in workers."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import write_tasks
from plugin_files import example, left_as_it_was

from dlm_eval import score
from dlm_eval.canvas import Canvas
from dlm_eval.cli import main
from dlm_eval.errors import RunError, UserError
from dlm_eval.likelihood import ESTIMATORS, Estimator, parse_estimator
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.options import check_options, describe_options, option, parse_options

EXAMPLE = example("adding-an-estimator.md", "half_hidden.py")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "half_hidden.py"
    path.write_text(EXAMPLE, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def registry_as_before() -> Iterator[None]:
    with left_as_it_was(ESTIMATORS):
        yield


def test_the_example_is_short_and_its_score_is_right(file: Path) -> None:
    """Half of two tokens is one: the mean is the pseudo-log-likelihood. Within 5 errors of it at a fixed seed."""
    assert len(EXAMPLE.splitlines()) < 40
    toy = Toy(ToySettings(inconsistency=0.5))
    canvases = [Canvas.continuation([0, 1], [2, 4]), Canvas.continuation([0, 1], [3])]
    found = score(toy, canvases, f"{file}:HalfHidden", forwards=64)
    pseudo = score(toy, canvases, "pseudo")
    assert found[0].stderr is not None and found[0].stderr > 0
    assert abs(found[0].logprob - pseudo[0].logprob) < 5 * found[0].stderr
    assert found[1].logprob == pseudo[1].logprob
    assert [(s.kind, s.estimator, s.rows) for s in found] == [
        ("score", "half_hidden", 2),
        ("score", "half_hidden", 1),
    ]
    by_name = score(toy, canvases, "half_hidden", forwards=64)
    assert [s.logprob for s in by_name] == [s.logprob for s in found]


def run(
    tasks: Path, out: Path, estimator: str, *more: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the scores and the `dlm_eval` block of a run of the command line."""
    where = ["--include_path", str(tasks), "--output_path", str(out), "--verbosity", "ERROR"]
    assert (
        main(
            [
                "--model",
                "toy",
                "--tasks",
                "t_choice,t_last",
                "--estimator",
                estimator,
                *where,
                *more,
            ]
        )
        == 0
    )
    newest = max(out.glob("*/results_*.json"), key=lambda path: path.stat().st_mtime_ns)
    stored = json.loads(newest.read_text(encoding="utf-8"))
    return stored["results"], stored["dlm_eval"]


def test_a_run_two_workers_and_an_edited_file(tmp_path: Path, file: Path) -> None:
    (tmp_path / "tasks").mkdir()
    tasks, out, name = (
        write_tasks(tmp_path / "tasks"),
        tmp_path / "out",
        f"{file}:HalfHidden,forwards=4",
    )
    scores, block = run(tasks, out, name)
    stored = block["settings"]["estimator"]
    assert (stored["name"], stored["forwards"]) == ("half_hidden", 4) and len(
        stored["source_sha256"]
    ) == 64
    assert block["cost"]["total"]["device_rows"] > 0
    assert str(tmp_path) not in json.dumps(stored)

    again, resumed = run(tasks, out, name)
    assert again == scores and resumed["cost"]["total"]["device_rows"] == 0
    parallel, spread = run(tasks, tmp_path / "two", name, "--devices", "cpu:2")
    assert parallel == scores and spread["fingerprint"] == block["fingerprint"]

    file.write_text(EXAMPLE.replace("target.n / size", "1 / size"), encoding="utf-8")
    edited, anew = run(tasks, out, name)
    assert anew["cost"]["total"]["device_rows"] > 0 and anew["fingerprint"] != block["fingerprint"]
    assert edited != scores


def test_show_and_ls(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Entry points are listed, a broken one with its reason; `show` prints every setting with meaning and default."""
    package = tmp_path / "site"
    (package / "other-1.0.dist-info").mkdir(parents=True)
    (package / "other-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n"
    )
    (package / "other-1.0.dist-info" / "entry_points.txt").write_text(
        "[dlm_eval.estimators]\nthirds = other_estimators:Thirds\nbroken = other_missing:Nothing\n"
    )
    renamed = EXAMPLE.replace("HalfHidden", "Thirds").replace("half_hidden", "thirds")
    (package / "other_estimators.py").write_text(renamed, encoding="utf-8")
    monkeypatch.syspath_prepend(str(package))
    assert main(["ls", "estimators"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "forwards" in lines["thirds"] and "random half" in lines["thirds"]
    assert "other_missing" in lines["broken"] and "cannot be loaded" in lines["broken"]
    assert parse_estimator("thirds,forwards=3").identity()["source_sha256"]
    for name in ("thirds", f"{file}:HalfHidden"):
        assert main(["show", name]) == 0
        told = capsys.readouterr().out
        assert "random halves that are run" in told and "default: 8" in told and "2 or more" in told


BODY = "    def estimate(self, target, noise):\n        yield []\n"
HEAD = "from dataclasses import dataclass\nfrom dlm_eval.options import option\nfrom dlm_eval.likelihood import Estimator\n"
DATACLASS = "@dataclass(frozen=True, kw_only=True)\n"
WRONG = {
    "no such class": (
        DATACLASS + f"class Mime(Estimator, name='mime'):\n{BODY}",
        "class 'Mine' is not known; .*'Mime'",
    ),
    "no estimator": (
        "class Mine:\n    pass\n",
        "is no estimator; it must be a subclass of Estimator with a name",
    ),
    "no name": (
        DATACLASS + f"class Mine(Estimator):\n{BODY}",
        "is no estimator; it must be a subclass .* with a name",
    ),
    "raises": ("1 / 0\n", "cannot be loaded: ZeroDivisionError"),
    "no method": (
        DATACLASS + "class Mine(Estimator, name='mine'):\n    pass\n",
        "estimator mine has no method estimate",
    ),
    "taken": (
        DATACLASS + f"class Mine(Estimator, name='chain'):\n{BODY}",
        "'chain' is already defined by dlm_eval",
    ),
    "kind": (
        DATACLASS + f"class Mine(Estimator, name='mine'):\n    kind = 'bound'\n{BODY}",
        "kind 'bound' is not allowed",
    ),
    "no dataclass": (
        f"class Mine(Estimator, name='mine'):\n    steps: int = option(1)\n{BODY}",
        "needs @dataclass",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, case: str) -> None:
    code, words = WRONG[case]
    path = tmp_path / "mine.py"
    path.write_text(HEAD + code, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        parse_estimator(f"{path}:Mine")
    assert re.search(words, str(caught.value)) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is not a file"):
        parse_estimator(f"{tmp_path}/absent.py:Mine")


def test_a_worker_refuses_a_file_that_was_edited(file: Path) -> None:
    sent = pickle.dumps(parse_estimator(f"{file}:HalfHidden,forwards=5"))
    assert pickle.loads(sent) == parse_estimator(f"{file}:HalfHidden,forwards=5")
    file.write_text(EXAMPLE + "\n# edited\n", encoding="utf-8")
    with pytest.raises(RunError, match="was edited while the run went on"):
        pickle.loads(sent)


@dataclass(frozen=True, kw_only=True)
class Limits:
    least: int = option(1, least=1)
    above: float = option(1.0, above=0, unit="nats")
    between: float | None = option(None, above=0, below=1)
    closed: float = option(0.5, least=0, most=1)
    half: float = option(0.5, above=0, most=1)
    other: float = option(0.5, least=0, below=1)
    named: str = option("a", choices=("a", "b"), help="which")
    many: tuple[int, ...] = option((), least=1)
    needed: int = option()

    def __post_init__(self) -> None:
        check_options(self, "thing")


@pytest.mark.parametrize(
    "given, words",
    [
        ({"least": 0}, "thing least '0' is not allowed; it must be 1 or more"),
        ({"above": "0"}, "thing above '0.0' is not allowed; it must be above 0 (nats)"),
        ({"between": 1}, "thing between '1.0' is not allowed; it must be between 0 and 1"),
        ({"closed": 1.5}, "thing closed '1.5' is not allowed; it must be 0 to 1"),
        ({"half": 0}, "thing half '0.0' is not allowed; it must be above 0 and at most 1"),
        ({"other": 1}, "thing other '1.0' is not allowed; it must be 0 or more and below 1"),
        ({"named": "c"}, "thing named 'c' is not allowed; it must be one of a, b"),
        ({"many": "[2,0]"}, "thing many '[2, 0]' is not allowed; it must be 1 or more"),
        ({"neded": 1}, "thing 'neded' is not known; did you mean 'needed'?"),
    ],
)
def test_a_value_out_of_range_is_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_options(Limits, {"needed": 1, **given}, "thing")
    assert str(caught.value).startswith(words)


def test_an_option_without_a_default_must_be_given() -> None:
    with pytest.raises(UserError, match="thing needs needed=NUMBER"):
        parse_options(Limits, {}, "thing")
    assert parse_options(Limits, {"needed": "3", "many": "[1,2]"}, "thing") == Limits(
        needed=3, many=(1, 2)
    )
    described = describe_options(Limits)
    assert described["needed"] == {"default": "required", "allowed": "a whole number"}
    assert described["named"] == {"default": "a", "allowed": "one of a, b", "meaning": "which"}


def test_a_class_of_the_session_is_known_by_name() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(Estimator, name="own_of_this_test"):
        """Nothing."""

        def estimate(self, target: Any, noise: Any) -> Any:
            logs = yield from target.measure(
                ~target.places[None].astype(bool), ~target.places[None].astype(bool)
            )
            return self.score(float(logs.size))

    assert parse_estimator("own_of_this_test").identity()["source_sha256"]
    assert "own_of_this_test" in ESTIMATORS.names()
