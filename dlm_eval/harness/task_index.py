"""The names of the installed tasks, groups and tags (lm-eval's and ours), read once in a process.

lm-eval parses each of its 14 000 YAMLs, and an included file again for each file that includes it.
Here the names of most tasks are read from the lines that set `task`, `tag` and `include`. A file
that is a group, or is written in any other way, is parsed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
KEY = r"""(["']?)([A-Za-z_]\w*)\1[ \t]*:"""
# Lines that are neither a key, nor below one, nor a comment: continued texts, flow mappings, ...
OTHER_LINE = re.compile(rf"^(?!{KEY}|[ \t#\r\n]|- |$)", re.MULTILINE)
SETTING = re.compile(rf"^{KEY}(.*(?:\n[ \t].*)*)", re.MULTILINE)  # with its indented lines
READ, PARSED = {"task", "tag", "include"}, {"group", "class"}  # keys
# Text that YAML reads as itself, in quotes or not.
PLAIN = re.compile(r"""(["']?)([A-Za-z_][\w./-]*)\1""")
NOT_TEXT = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


@cache
def names_below(root: Path) -> Mapping[str, Any]:
    """Returns lm-eval's `Entry` of every name under a folder, as `TaskIndex.build` does.

    Entries of groups have their configuration (`cfg`). Those of tasks may have a part of it.
    """
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    parsed = cache(partial(load_yaml, resolve_func=False))
    index: dict[str, Any] = {}
    for path in TaskIndex._iter_yaml_files(root):
        try:
            TaskIndex.process_cfg(_config(path, parsed), path, index)
        except Exception as error:  # as lm-eval: a broken file defines nothing
            log.debug("skipped %s (%s)", path, error)
    return index


def _config(path: Path, parsed: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Returns what a YAML and the files it includes define.

    Args:
        parsed: Parses an included file; remembers it.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    own = naming_lines(path.read_text(encoding="utf-8"))
    if own is None:
        own = load_yaml(path, resolve_func=False, recursive=False)
    included = own.pop("include", "")
    if not isinstance(included, str):  # lm-eval takes a file that two of them include for a cycle
        return dict(load_yaml(path, resolve_func=False))
    whole = parsed(path.parent / included) if included else {}
    return {key: value for key, value in whole.items() if key != "task_list"} | own


def naming_lines(text: str) -> dict[str, Any] | None:
    """Returns `task`, `tag` and `include` of a YAML text whose lines show them, else None."""
    if OTHER_LINE.search(text):
        return None
    found: dict[str, Any] = {}
    for _, key, value in SETTING.findall(text):
        if key not in READ | PARSED:
            continue
        plain = PLAIN.fullmatch(value.strip())
        if key in PARSED or key in found or plain is None or plain[2].lower() in NOT_TEXT:
            return None
        found[key] = plain[2]
    return found or None
