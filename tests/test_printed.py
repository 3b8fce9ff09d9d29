"""Everything that README.md and docs print is run: commands, Python and files, in the page's order.

`printed_blocks` reads the pages, `printed_commands` has the tables of what is replaced and of what is parsed
alone, `printed_stage` has small models and data in place of the hub's, `printed_run` runs a page, and
`printed_output` compares outputs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from printed_blocks import Block, PageError, blocks, commands, pages
from printed_commands import SUBSTITUTIONS, check, parse_script
from printed_output import missing, renewed, replaced
from printed_run import Entry, Report, run_page
from printed_stage import Stage

from dlm_eval.errors import DlmEvalError, UserError

ROOT = Path(__file__).resolve().parents[1]
PAGES = pages(ROOT)
FIRST = [ROOT / "README.md", ROOT / "docs" / "start" / "ten-minutes.md"]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path | None]:
    shared = Path(os.environ.get("DLM_EVAL_SHARED", ROOT.parent / "shared"))
    return tmp_path_factory.mktemp("printed"), shared if shared.is_dir() else None


@pytest.fixture(scope="module")
def stage(places: tuple[Path, Path | None]) -> Stage:
    return Stage(places[0] / "whole", places[1])


@pytest.fixture(scope="module")
def quick_stage(places: tuple[Path, Path | None]) -> Stage:
    return Stage(places[0] / "quick", places[1], quick=True)


@pytest.fixture(scope="module")
def report(pytestconfig: pytest.Config) -> Iterator[Report]:
    """What became of everything; printed when the last page is done."""
    made = Report()
    yield made
    table = [f"  replaced: {words}" for _, _, words in SUBSTITUTIONS]
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n" + "\n".join([*table, *made.lines()]))


def faults(entries: list[Entry]) -> str:
    """What failed, as text; "" if nothing did."""
    return "\n\n".join(f"{e.place}: {e.text}\n{e.fault}" for e in entries if e.fault)


@pytest.mark.full
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_prints_runs(page: Path, stage: Stage, report: Report) -> None:
    assert not faults(run_page(stage, page, report))


@pytest.mark.parametrize("page", FIRST, ids=name)
def test_what_a_newcomer_types_runs(page: Path, quick_stage: Stage, report: Report) -> None:
    assert not faults(run_page(quick_stage, page, report))


# -- the reader ------------------------------------------------------------------------------------

PAGE = """# A page

```bash
dlm-eval --model tiny \\
  --tasks demo   # a comment with a ' in it
dlm-eval compare A B && dlm-eval check B --baseline FILE
```

<!-- not run: gpu, eight of them -->

    dlm-eval --model tiny --tasks demo --devices 0,1

```python
print(1 + 1)
```

<!-- output -->

    2

```yaml
# checks.yaml
alpha: 0.01
```

    $ dlm-eval ls models
    family ...

In Python:

    model = load_model("tiny")

The area is

    AUP = rho_1 y_1 + 1/2
"""


def read(folder: Path, text: str) -> list[Block]:
    (folder / "page.md").write_text(text)
    return blocks(folder / "page.md", folder)


def test_a_page_is_read_in_its_order(tmp_path: Path) -> None:
    found = read(tmp_path, PAGE)
    kinds = [block.kind for block in found]
    assert kinds == [
        "commands",
        "commands",
        "python",
        "output",
        "file",
        "commands",
        "python",
        "text",
    ]
    first, not_run, _, output, file, shown, *_ = found
    assert [command.text for command in commands(first)] == [
        "dlm-eval --model tiny --tasks demo",
        "dlm-eval compare A B",
        "dlm-eval check B --baseline FILE",
    ]
    assert [command.line for command in commands(first)] == [4, 6, 6]
    assert not_run.reason == "gpu, eight of them" and not first.reason
    assert output.text == "2" and file.name == "checks.yaml"
    assert [command.shown for command in commands(shown)] == ["family ..."]


def test_the_files_of_another_page_do_not_make_a_file_of_the_next_block(tmp_path: Path) -> None:
    [block] = read(tmp_path, "<!-- files of: other.md -->\n\n    dlm-eval ls models\n")
    assert (block.kind, block.name) == ("commands", "")


def test_a_reason_must_be_one_of_the_listed_ones(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="'too hard' must begin with hub, gpu"):
        read(tmp_path, "<!-- not run: too hard -->\n\n    dlm-eval ls models\n")


# -- a mistake on a page fails ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "--model tiny --tasks demo --lmit 3",
        "--model tiny --tasks demmo",
        "--model tinny --tasks demo",
        "--model llada --model_args pretraind=DIR --tasks gsm8k",
        "--model tiny --tasks demo --estimator auto,precison=1",
        "--model tiny --tasks demo --decode stps=3",
        "--model tiny --tasks demo --decode strategy=confidnce",
        "--suite llada_bas",
        "compare",
        "leaderbord results",
    ],
)
def test_a_typo_in_a_command_that_is_not_run_fails(command: str) -> None:
    with pytest.raises(UserError):
        check(command.split())


def test_a_wrong_option_of_a_script_fails() -> None:
    parse_script(["scripts/count_tokens.py", "--tokenizer", "X", "--output", "p.json", "c.jsonl"])
    with pytest.raises(DlmEvalError, match="count_tokens"):
        parse_script(["scripts/count_tokens.py", "--tokeniser", "X"])
    with pytest.raises(DlmEvalError, match="there is no scripts/count.py"):
        parse_script(["scripts/count.py"])


def test_a_command_that_fails_and_an_output_that_is_wrong_are_faults(
    tmp_path: Path, quick_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "not_a_page.md"
    monkeypatch.setattr(Path, "read_text", _reading(page, BAD))
    found = Stage(tmp_path, None)
    found._scene = quick_stage.scene
    entries = run_page(found, page, Report())
    assert [bool(entry.fault) for entry in entries] == [True, True, False, True]
    assert "no models" in entries[1].fault and "ZeroDivisionError" in entries[3].fault


BAD = """# Bad

    dlm-eval ls modls

There are

    $ dlm-eval ls estimators
    no models
    ...

```python
print(2)
```

<!-- output -->

    2

```python
1 / 0
```
"""


def _reading(page: Path, text: str) -> object:
    real = Path.read_text

    def read_text(self: Path, *given: object, **more: object) -> str:
        return text if self == page else real(self, *given, **more)  # type: ignore[arg-type]

    return read_text


# -- outputs ---------------------------------------------------------------------------------------

PRINTED = """A  run/results_2026-11-30T07-00-00.123456.json

task   score   seconds B / A
-----  ------  -------------
one    0.5000  1.0321
two    0.2500  0.9000

done in 3.2 s
"""


def test_outputs_are_compared_without_times_and_with_omissions() -> None:
    table = "task   score   seconds B / A\n-----  ------  -------------\n"
    first = "A  run/results_2026-....json\n"
    shown = f"{first}...\n{table}one    0.5000  7.7777\ntwo    0.2500  8.8888\n\ndone in 12 s"
    assert missing(shown, PRINTED) == []
    assert missing(shown.replace("0.2500", "0.2600"), PRINTED) == ["two 0.2600 T"]
    assert missing(f"{table}...\ntwo    0.2500  1.0\n...", PRINTED) == []
    assert missing(f"{table}two    0.2500  1.0", PRINTED)  # a line is left out without saying so
    assert missing(f"{table}...\ntwo    ...", PRINTED) == []
    assert missing(f"{table}...\nten    ...", PRINTED) == ["ten ..."]


def test_an_output_is_renewed_in_place() -> None:
    assert renewed("anything", PRINTED) == PRINTED.strip("\n")
    shown = "...\ntwo    0.9999  0.9000\n..."
    new = renewed(shown, PRINTED)
    assert new == "...\ntwo    0.2500  0.9000\n..."
    page = f"# Page\n\n    {shown.replace(chr(10), chr(10) + '    ')}\n\nEnd\n"
    assert replaced(page, shown, new) == page.replace("0.9999", "0.2500")
    with pytest.raises(ValueError, match="0 times"):
        replaced("# Page\n", shown, new)


def test_rows_of_two_tables_keep_their_table() -> None:
    """A row of the second table is renewed from there, though the first one has the same name."""
    printed = "task  n\n----  --\na     1\nb     2\n\ntask  m\n----  --\na     3\nb     4\n"
    shown = "task  n\n----  --\na     1\n...\n\ntask  m\n----  --\na     9\nb     9"
    assert renewed(shown, printed) == shown.replace("a     9\nb     9", "a     3\nb     4")
