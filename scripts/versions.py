"""Moves the files of versions: constraints.txt and constraints-newest.txt (what the suite is run with), and requirements.lock (with hashes).

    python scripts/versions.py newest --torch 2.13.0                        # the newest releases of all but torch: constraints-newest.txt
    python scripts/versions.py pinned --torch 2.13.0 --most 'transformers<5.24'   # bounds: constraints.txt, and its lock
    python scripts/versions.py lock                                         # the lock alone, from constraints.txt

A set is installed into a fresh environment, the suite runs there (`--no_tests` leaves that out), and what was installed is written: only if the suite
has passed. The lock is made by uv (pip install uv) from the public index; it leaves out torch, and so the CUDA libraries that torch brings: which
build it is, is the user's choice.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ".[dev,peft,ray,quantization,ifeval,math,api,mauve,tasks,docs]"
FILES = {"pinned": "constraints.txt", "newest": "constraints-newest.txt"}
HEADS = {
    "pinned": "# Versions that the test suite is run with: pip install -c constraints.txt . ('+cpu' and CUDA builds of torch both satisfy its line)",
    "newest": "# The newest releases that the test suite was run with (scripts/versions.py newest): pip install -c constraints-newest.txt .",
}
TORCH_NEEDS = [
    "filelock",
    "typing-extensions",
    "sympy",
    "networkx",
    "jinja2",
    "fsspec",
    "setuptools",
]


def main() -> int:
    """Returns 0 if the files were written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*FILES, "lock"])
    parser.add_argument(
        "--torch",
        help="the version of torch to keep; it is installed first, from where pip is set up to find it",
    )
    parser.add_argument("--most", nargs="*", default=[], help="bounds such as 'transformers<5.24'")
    parser.add_argument(
        "--no_tests", action="store_true", help="write the file without running the suite"
    )
    given = parser.parse_args()
    if given.what != "lock":
        move(given.what, given.torch, given.most, not given.no_tests)
    if given.what != "newest":
        lock()
    return 0


def move(what: str, torch: str | None, most: list[str], tests: bool) -> None:
    """Installs a set into a fresh environment, runs the suite, and writes what was installed."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python"
        bounds = Path(folder) / "bounds.txt"
        bounds.write_text("\n".join([*most, *([f"torch=={torch}"] if torch else [])]) + "\n")
        if torch:
            call(python, "-m", "pip", "install", "-q", f"torch=={torch}")
        call(python, "-m", "pip", "install", "-q", "-c", bounds, "-e", EXTRAS)
        if tests:
            call(python, "-m", "pytest")
        frozen = call(
            python,
            "-m",
            "pip",
            "list",
            "--format=freeze",
            "--exclude-editable",
            "--exclude",
            "pip",
            out=True,
        )
    lines = sorted((re.sub(r"\+\S+$", "", line) for line in frozen.split()), key=str.lower)
    (ROOT / FILES[what]).write_text("\n".join([HEADS[what], *lines]) + "\n", encoding="utf-8")
    print(f"{FILES[what]}: {len(lines)} packages")


def lock() -> None:
    """Writes requirements.lock: the plain install on Python 3.11 or newer, for every platform, with the hashes of all files on the index."""
    torch = next(
        line
        for line in (ROOT / FILES["pinned"]).read_text().splitlines()
        if line.startswith("torch==")
    )
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder) / "uv.toml", Path(folder) / "lock"
        needs = ", ".join(f'"{name}"' for name in TORCH_NEEDS)
        config.write_text(
            f'[[dependency-metadata]]\nname = "torch"\nversion = "{torch.partition("==")[2]}"\nrequires-dist = [{needs}]\n'
        )
        options = [
            "--universal",
            "--python-version",
            "3.11",
            "--generate-hashes",
            "--no-emit-package",
            "torch",
        ]
        options += [
            "--no-header",
            "--no-annotate",
            "--config-file",
            config,
            "-c",
            FILES["pinned"],
            "-o",
            out,
            "-q",
        ]
        call("uv", "pip", "compile", "pyproject.toml", *options)
        text = out.read_text()
    (ROOT / "requirements.lock").write_text(
        "# The plain install with hashes, made by 'scripts/versions.py lock'. Install torch first, then\n"
        "#   pip install --no-deps --require-hashes -r requirements.lock && pip install --no-deps .\n"
        + text,
        encoding="utf-8",
    )
    print(f"requirements.lock: {sum(line[:1].isalnum() for line in text.splitlines())} packages")


def call(*command: object, out: bool = False) -> str:
    """Runs a command at the top of the checkout; returns what it printed if `out`."""
    words = [str(word) for word in command]
    try:
        ran = subprocess.run(
            words, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE if out else None
        )
    except FileNotFoundError:
        sys.exit(f"{words[0]} is not installed (pip install {words[0]})")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(words)} ended with {error.returncode}; nothing was written")
    return ran.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
