"""Pages of the notebooks: each is run while the site is built, and its cells and outputs become Markdown.

The notebooks are stored without outputs, so what a page shows is what today's code gives. What was run
is kept under build/notebooks for as long as neither the notebook nor the package changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "guides" / "notebooks"
KEPT = ROOT / "build" / "notebooks"
# Notebook -> its page.
PAGES = {
    file.relative_to(ROOT).as_posix(): file.with_suffix(".md").relative_to(ROOT / "docs").as_posix()
    for file in sorted(FOLDER.glob("*.ipynb"))
}
TIMEOUT = 600  # seconds of a cell
HEAD = (
    'Run while this site was built. <a href="{name}" download>{name}</a> is the notebook itself; '
    "[notebooks](../notebooks.md) says how to open it.\n"
)


@dataclass
class NotebookPage:
    """A notebook as Markdown.

    Attributes:
        markdown: cells and outputs; an output that is HTML has a comment in its place.
        html: comment -> HTML, for the page after Markdown has become HTML.
        files: name -> bytes of the pictures beside the page.
    """

    markdown: str
    html: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


def notebook_pages() -> Iterator[tuple[str, NotebookPage]]:
    """Yields (page, content) of every notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    for file, page in PAGES.items():
        yield page, as_page(ROOT / file, run(ROOT / file))


def run(file: Path) -> str:
    """Returns the notebook with its outputs, as JSON; it is run if that is not kept from before."""
    import nbclient
    import nbformat
    from traitlets.config import Config

    kept = KEPT / f"{file.stem}-{_digest(file)}.ipynb"
    if kept.exists():
        return kept.read_text(encoding="utf-8")
    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        # Over TCP the kernel warns that nothing is encrypted. The path is absolute: the kernel runs in `folder`.
        sockets = {"transport": "ipc", "ip": str(Path(folder) / "ipc")}
        client = nbclient.NotebookClient(
            notebook,
            timeout=TIMEOUT,
            startup_timeout=TIMEOUT,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            config=Config({"ConnectionFileMixin": sockets}),
        )
        client.execute(env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)})
    text: str = nbformat.writes(notebook)
    KEPT.mkdir(parents=True, exist_ok=True)
    for old in KEPT.glob(f"{file.stem}-*.ipynb"):
        old.unlink(missing_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=KEPT, delete=False, encoding="utf-8") as new:
        new.write(text)
    Path(new.name).replace(kept)  # at once: several builds may run
    return text


def as_page(file: Path, text: str) -> NotebookPage:
    """Returns the page of a notebook that was run."""
    import nbformat
    from nbconvert import MarkdownExporter
    from traitlets.config import Config

    notebook = nbformat.reads(text, as_version=4)
    html: dict[str, str] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if not _is_progress(one)]
            for output in cell.outputs:
                if "text/html" in output.get("data", {}):
                    mark = f"<!-- output {len(html) + 1} of {file.name} -->"
                    html[mark] = _table(output["data"]["text/html"])
                    output["data"] = {"text/html": mark}
    given = {"unique_key": file.stem, "output_files_dir": "."}
    exporter = MarkdownExporter(config=Config({"CoalesceStreamsPreprocessor": {"enabled": True}}))
    body, resources = exporter.from_notebook_node(notebook, resources=given)
    files = {Path(name).name: data for name, data in resources.get("outputs", {}).items()}
    body = re.sub(r"!\[png\]\((?:\./)?([^)]+)\)", r"![Plot that the cell draws](\1)", body)
    title, _, rest = body.lstrip().partition("\n")
    return NotebookPage(f"{title}\n\n{HEAD.format(name=file.name)}\n{rest}", html, files)


def _is_progress(output: dict[str, object]) -> bool:
    """Returns whether an output is a progress bar, which means nothing when it has ended."""
    return output["output_type"] == "stream" and output["name"] == "stderr"


def _table(html: str) -> str:
    """Returns a data frame without its own style, so that it looks like the site's tables."""
    html = re.sub(r"<style scoped>.*?</style>", "", html, flags=re.DOTALL)
    return html.replace(' border="1" class="dataframe"', "")


def _digest(file: Path) -> str:
    """Returns what the outputs depend on, in one name: the notebook, the package and its tasks."""
    found = hashlib.sha256(file.read_bytes())
    for folder in ("dlm_eval", "task_configs"):
        for source in sorted((ROOT / folder).rglob("*")):
            if source.suffix in (".py", ".yaml", ".jsonl", ".json", ".safetensors"):
                found.update(json.dumps(source.relative_to(ROOT).as_posix()).encode())
                found.update(source.read_bytes())
    return found.hexdigest()[:16]
