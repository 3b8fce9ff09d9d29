"""Hooks of mkdocs.yml: pages that are made at build, the `*` of `nav`, and links that leave docs/.

A page is read in the repository and on the site, so a link in it is relative to its file in the
repository. On the site, a link to a page of docs/ stays; a link to a file that has a page of its own
(`SHOWN`, notebooks) leads to that page; a link to any other file of the repository leads to DLM_EVAL_REPO_URL if
that is set, else the file's path stands there as code. A link to a file that does not exist is a
warning, as mkdocs warns of pages.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import ConfigurationError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebooks import PAGES as NOTEBOOKS
from notebooks import notebook_pages
from reference import pages as reference_pages

ROOT = Path(__file__).resolve().parents[2]
# Files of the repository outside docs/ that are pages of the site.
SHOWN = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "design/contributing.md",
    "leaderboards/README.md": "reproduce/published.md",
}
PAGE_OF = {**SHOWN, **NOTEBOOKS}
FILE_OF = {page: file for file, page in PAGE_OF.items()}
OUTPUTS: dict[str, dict[str, str]] = {}  # page of a notebook -> its outputs that are HTML
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
# Search runs in a worker, which a browser does not start from a file on disk; from a text it does.
WORKER = "assets/javascripts/search_from_disk.js"
START_WORKER = """if (location.protocol === "file:") {
  const text = %s, Started = window.Worker;
  window.Worker = function () {
    return new Started(URL.createObjectURL(new Blob([text], {type: "text/javascript"})));
  };
}
"""
RUN_NOTEBOOKS = ("nbformat", "nbclient", "nbconvert", "ipykernel")
log = logging.getLogger("mkdocs.hooks.site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Sets anchors as GitHub writes them, and our file for search from disk in place of an address.

    Raises:
        ConfigurationError: a package that runs or shows the notebooks is missing.
    """
    if missing := [name for name in RUN_NOTEBOOKS if find_spec(name) is None]:
        raise ConfigurationError(
            f"the site runs the notebooks, and {', '.join(missing)} is missing; "
            "install the extra: pip install -c constraints.txt -e '.[docs]'"
        )
    config.mdx_configs["toc"]["slugify"] = anchor_of
    config.extra["polyfills"] = [WORKER]
    return config


def anchor_of(heading: str, separator: str = "-") -> str:
    """Returns the anchor of a heading, as in the repository."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that have no file in docs/, and completes `nav`."""
    made = {page: (ROOT / file).read_text(encoding="utf-8") for file, page in SHOWN.items()}
    for page, text in {**made, **reference_pages()}.items():
        files.append(File.generated(config, page, content=text))
    for page, notebook in notebook_pages():
        files.append(File.generated(config, page, content=notebook.markdown))
        for name, data in notebook.files.items():
            beside = posixpath.join(posixpath.dirname(page), name)
            files.append(File.generated(config, beside, content=data))
        OUTPUTS[page] = notebook.html
    pages = sorted(file.src_uri for file in files.documentation_pages())
    if config.nav is not None:
        config.nav = _expanded(config.nav, pages, _named(config.nav))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes the links of a page lead to their place on the site."""
    here = page.file.src_uri
    source = FILE_OF.get(here, f"docs/{here}")

    def link(match: re.Match[str]) -> str:
        return _link(match, here, source, config.repo_url)

    return _outside_code(markdown, lambda text: LINK.sub(link, text))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts the outputs of a notebook that are HTML where Markdown has left their comments."""
    for mark, output in OUTPUTS.get(page.file.src_uri, {}).items():
        html = html.replace(mark, f'<div class="notebook-output">{output}</div>')
    return html


def on_post_build(config: MkDocsConfig) -> None:
    """Writes the file for search from disk."""
    site = Path(config.site_dir)
    [worker] = (site / "assets/javascripts/workers").glob("search.*.min.js")
    text = re.sub(r"\n//# sourceMappingURL.*", "", worker.read_text(encoding="utf-8"))
    (site / WORKER).write_text(START_WORKER % json.dumps(text), encoding="utf-8")


def _link(match: re.Match[str], here: str, source: str, repo_url: str | None) -> str:
    mark, text, target = match.groups()
    path, hash_, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target) or path.startswith("/"):
        return match[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    page = PAGE_OF.get(file, file.removeprefix("docs/") if file.startswith("docs/") else None)
    if page is not None:
        to = posixpath.relpath(page, posixpath.dirname(here) or ".")
        return f"{mark}[{text}]({to}{hash_}{anchor})"
    if file.startswith("..") or not (ROOT / file).exists():
        log.warning("%s: the link '%s' leads to no file of the repository", source, target)
    if repo_url:
        return f"{mark}[{text}]({repo_url.rstrip('/')}/blob/main/{file}{hash_}{anchor})"
    plain = text.replace("`", "")
    return f"`{file}`" if plain in (file, path) else f"{text} (`{file}`)"


def _outside_code(markdown: str, change: Any) -> str:
    """Returns the page with `change` applied to what is neither a code block nor inline code."""
    kept: list[str] = []

    def hide(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\x00{len(kept) - 1}\x00"

    hidden = FENCE.sub(hide, markdown)
    # Inline code in the text of a link stays in it: only the target is looked at.
    # A bar in code of a table is written \\| for GitHub; here the backslash would be seen.
    hidden = re.sub(r"^\|.*$", lambda row: INLINE.sub(_bars, row[0]), hidden, flags=re.MULTILINE)
    hidden = change(INLINE.sub(hide, hidden))
    while "\x00" in hidden:
        hidden = re.sub(r"\x00(\d+)\x00", lambda match: kept[int(match[1])], hidden)
    return hidden


def _bars(code: re.Match[str]) -> str:
    return code[0].replace("\\|", "|")


# -- nav -------------------------------------------------------------------------------------------


def _named(nav: Any) -> set[str]:
    """Returns the pages that `nav` names without a `*`."""
    if isinstance(nav, str):
        return set() if "*" in nav else {nav}
    parts = nav.values() if isinstance(nav, dict) else nav or []
    return {name for part in parts for name in _named(part)}


def _expanded(nav: Any, pages: list[str], named: set[str]) -> list[Any]:
    """Returns `nav` with pages for each `*`, and without the sections that have none."""
    found: list[Any] = []
    for item in nav:
        if isinstance(item, dict):
            [(title, below)] = item.items()
            inner = below if isinstance(below, str) else _expanded(below, pages, named)
            if inner:
                found.append({title: inner})
        elif "*" in item:
            new = [page for page in pages if fnmatchcase(page, item) and page not in named]
            named.update(new)
            found += new
        else:
            found.append(item)
    return found
