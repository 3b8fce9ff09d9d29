"""The site: it builds without a warning, links to what exists, and fetches nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import Browser, find_browser

ROOT = Path(__file__).resolve().parents[1]
# Attributes by which a browser fetches what it needs to show a page; `a href` is a link.
FETCHED = {"src", "srcset", "data", "poster"}
pytestmark = pytest.mark.full


class Html(HTMLParser):
    """The ids, links and fetched addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.fetched.append(given["href"])
        self.fetched += [given[name] for name in FETCHED & set(given)]


def build(into: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Builds the site strictly."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(into)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", **variables}
    return subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    for module in ("material", "mkdocstrings"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed (pip install -e '.[docs]')")
    into = tmp_path_factory.mktemp("site")
    built = build(into)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    yield into


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Html]:
    return {
        file.relative_to(site).as_posix(): Html(file.read_text(encoding="utf-8"))
        for file in site.rglob("*.html")
    }


def test_every_page_of_docs_is_in_nav(pages: dict[str, Html]) -> None:
    written = {p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")}
    shown = {page.with_suffix(".html").as_posix() for page in written}
    assert len(shown) > 20
    assert shown <= set(pages)
    start = pages["reference/tasks.html"]  # any page: all have the whole nav
    linked = {
        os.path.normpath(os.path.join("reference", urlsplit(link).path)) for link in start.links
    }
    assert shown - linked - {"index.html"} == {"reference/tasks.html"} - linked


def test_every_link_inside_the_site_leads_to_a_page_and_an_anchor(
    site: Path, pages: dict[str, Html]
) -> None:
    wrong, followed = [], 0
    for name, page in pages.items():
        if name == "404.html":  # its links are from the top of a server
            continue
        for link in page.links:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            path = (site / name).parent / unquote(target.path) if target.path else site / name
            path = path / "index.html" if path.is_dir() else path
            file = Path(os.path.normpath(path)).relative_to(site).as_posix()
            followed += 1
            if not path.exists():
                wrong.append(f"{name}: {link}: no such file")
            elif target.fragment and unquote(target.fragment) not in pages[file].ids:
                wrong.append(f"{name}: {link}: no such anchor")
    assert not wrong, "\n".join(wrong)
    assert followed > 1000


def test_pages_fetch_nothing_from_elsewhere(site: Path, pages: dict[str, Html]) -> None:
    fetched = {(name, address) for name, page in pages.items() for address in page.fetched}
    assert len(fetched) > 100
    assert {one for one in fetched if urlsplit(one[1]).netloc} == set()
    for sheet in site.rglob("*.css"):
        assert not re.search(
            r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")
        )


@pytest.mark.parametrize(
    "name, shown",
    [
        ("evaluate", "<td>demo_choice</td>"),
        ("compare", "<td>decode.steps</td>"),
        ("score_and_fill", "<iframe sandbox="),
    ],
)
def test_a_notebook_is_a_page_with_the_outputs_of_its_cells(
    site: Path, pages: dict[str, Html], name: str, shown: str
) -> None:
    page = site / "guides" / "notebooks" / f"{name}.html"
    text = page.read_text(encoding="utf-8")
    assert shown in text
    plots = [one for one in pages[f"guides/notebooks/{name}.html"].fetched if one.endswith(".png")]
    drawn = [one for one in plots if one.startswith(name)]
    assert drawn and all((page.parent / one).stat().st_size > 1000 for one in drawn)
    assert "<!-- output" not in text and "100%|" not in text  # every output is there, no bars
    assert f"{name}.ipynb" in pages[f"guides/notebooks/{name}.html"].links
    assert page.with_suffix(".ipynb").exists()
    assert f"notebooks/{name}.html" in pages["guides/notebooks.html"].links


def test_search_finds_pages_from_disk(site: Path, tmp_path: Path) -> None:
    browser = find_browser()
    if browser is None:
        pytest.skip("no chromium on this machine")
    field = "document.querySelector('.md-search__input')"
    with Browser(browser, tmp_path) as page:
        page.open((site / "index.html").as_uri())
        page.click(".md-search__input")
        page.value(f"{field}.focus(); {field}.value = 'remasking'")
        for event in (
            "new KeyboardEvent('keyup', {bubbles: true})",
            "new Event('input', {bubbles: true})",
        ):
            page.value(f"{field}.dispatchEvent({event})")
        page.wait_for("document.querySelector('.md-search-result__item') !== null", seconds=60)
        found = page.value("document.querySelector('.md-search-result__list').textContent")
    assert "remask" in found.lower()


def test_reference_pages_have_what_the_package_has(pages: dict[str, Html]) -> None:
    from dlm_eval import __all__ as top
    from dlm_eval.cli import build_parser
    from dlm_eval.decoding import STRATEGIES
    from dlm_eval.likelihood import ESTIMATORS
    from dlm_eval.models import known_families

    def ids(page: str) -> set[str]:
        return pages[f"reference/{page}.html"].ids

    commands = next(
        action.choices for action in build_parser()._actions if action.dest == "command"
    )
    assert {f"dlm-eval-{name}" for name in commands} <= ids("cli")
    for registry, page in ((STRATEGIES, "strategies"), (ESTIMATORS, "estimators")):
        classes = {n: v for n, v in registry.listed().items() if not isinstance(v, str)}
        # not those that another test defines
        ours = {n for n, v in classes.items() if v.__module__.startswith("dlm_eval.")}
        assert len(ours) > 15 and ours - set(registry.aliases) <= ids(page)
    assert set(known_families()) <= ids("checkpoints")
    shown = {anchor.rpartition(".")[2] for anchor in ids("python")}
    assert set(top) | {"Denoiser", "Strategy", "Estimator", "assert_no_regression"} <= shown


def test_every_option_and_key_of_the_reference_has_a_meaning() -> None:
    sys.path.insert(0, str(ROOT / "scripts" / "site"))
    try:
        from reference import pages as reference_pages
    finally:
        sys.path.pop(0)
    lacking, rows = [], 0
    for page, text in reference_pages().items():
        headers: list[str] = []
        for line, after in zip(text.splitlines(), [*text.splitlines()[1:], ""], strict=True):
            cells = [one.strip() for one in re.split(r"(?<!\\)\|", line)[1:-1]]
            if after.startswith("| ---"):
                headers = cells
            elif line.startswith("| ") and "meaning" in headers and not line.startswith("| ---"):
                rows += 1
                if not cells[headers.index("meaning")]:
                    lacking.append(f"{page}: {cells[0]}")
    assert rows > 500
    assert lacking == []


def test_metadata_of_packaged_tasks_is_documented() -> None:
    from dlm_eval.harness.task_metadata import METADATA

    used = set()
    for file in (ROOT / "task_configs").rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        for block in re.findall(r"^metadata:\n((?: .*\n?)+)", text, re.MULTILINE):
            used |= set(re.findall(r"^  (\w+):", block, re.MULTILINE))
    assert {"infill", "version"} <= used <= set(METADATA)


def test_every_package_that_runs_the_notebooks_is_looked_for_first() -> None:
    folder = ROOT / "scripts" / "site"
    used = re.findall(
        r"^ +(?:import|from) (nb\w+)", (folder / "notebooks.py").read_text(), re.MULTILINE
    )
    [named] = re.findall(
        r"^RUN_NOTEBOOKS = \((.*)\)", (folder / "hooks.py").read_text(), re.MULTILINE
    )
    assert {*used, "ipykernel"} == set(re.findall(r"\w+", named))


def test_a_link_to_a_file_of_the_repository_is_code_or_leads_to_its_address(
    site: Path, tmp_path: Path
) -> None:
    sys.path.insert(0, str(ROOT / "scripts" / "site"))
    try:
        from hooks import LINK, _link
    finally:
        sys.path.pop(0)

    def seen(text: str, url: str | None) -> str:
        return LINK.sub(
            lambda match: _link(match, "guides/view.md", "docs/guides/view.md", url), text
        )

    file = "[the settings](../../pyproject.toml)"
    assert seen(file, None) == "the settings (`pyproject.toml`)"
    assert (
        seen(file, "https://example.org/x/")
        == "[the settings](https://example.org/x/blob/main/pyproject.toml)"
    )
    assert seen("[pyproject.toml](../../pyproject.toml)", None) == "`pyproject.toml`"
    assert seen("[b](../../leaderboards/README.md#a)", None) == "[b](../reproduce/published.md#a)"
    for unchanged in ("[t](trace.md#x)", "[x](#y)", "[w](https://a.b/c)"):
        assert seen(unchanged, None) == unchanged


def test_a_wrong_link_stops_the_build(site: Path, tmp_path: Path) -> None:
    """The checks above would not fail otherwise: the strict build reports a file, a page and an anchor that are not there."""
    for link, said in (
        ("../../nothing.py", "leads to no file of the repository"),
        ("nothing.md", "nothing.md"),
        ("view.md#nothing", "#nothing"),
    ):
        docs = tmp_path / said.strip("#").replace(" ", "_")
        (docs / "guides").mkdir(parents=True)
        (docs / "index.md").write_text("# Start\n\n[a](guides/view.md)\n")
        (docs / "guides" / "view.md").write_text(f"# View\n\n[a]({link})\n")
        config = (
            (ROOT / "mkdocs.yml")
            .read_text(encoding="utf-8")
            .replace("docs_dir: docs", f"docs_dir: {docs}")
        )
        config = config.partition("\nnav:")[0].replace(
            "hooks: [scripts", f"hooks: [{ROOT.as_posix()}/scripts"
        )
        (docs.parent / f"{docs.name}.yml").write_text(config)
        command = [
            sys.executable, "-m", "mkdocs", "build", "--strict",
            "-f", str(docs.parent / f"{docs.name}.yml"), "-d", str(tmp_path / "out"),
        ]  # fmt: skip
        built = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
        assert built.returncode != 0
        assert said in built.stderr
