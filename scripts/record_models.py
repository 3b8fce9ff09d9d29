"""The models of a recording: a checkpoint for every family that has one, small enough for a CPU.

`toy` and `tiny` travel with the package. Checkpoints with the authors' recorded outputs lie in the shared folder ($DLM_EVAL_SHARED, else ../shared);
those of the other families are written by record_built.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("DLM_EVAL_SHARED", ROOT.parent / "shared")).resolve()
sys.path.insert(0, str(ROOT / "tests"))
PACKAGED: dict[str, dict[str, Any]] = {
    "toy": {"family": "toy"},
    "toy_rough": {"family": "toy", "inconsistency": 1.0, "vocab": 12, "seed": 3},
    "tiny": {"family": "tiny"},
}
GOLDENS: dict[str, dict[str, Any]] = {
    name: {"family": name}
    for name in (
        "llada",
        "diffullama",
        "diffugpt",
        "dream",
        "mdlm",
        "sedd",
        "bd3lm",
        "sdar",
        "lladamoe",
        "wedlm",
        "smdm",
    )
}
GOLDENS |= {name: {"family": "llada2", "block_length": 4} for name in ("llada2", "llada21")}
BUILT: dict[str, dict[str, Any]] = {
    "ar2diff": {"family": "ar2diff"},
    "fastdllm": {"family": "fastdllm"},
    "generic": {"family": "generic", "shift": True},
    "generic_block": {"family": "generic", "attention": "block", "block_length": 4},
    "nemotron": {"family": "nemotron"},
    "diffusiongemma": {"family": "diffusiongemma"},
    "diffusionllm": {"family": "diffusionllm"},
    "ddlm": {"family": "ddlm"},
}


def names() -> list[str]:
    """Returns the models that can be had on this machine."""
    goldens = [name for name in GOLDENS if (SHARED / "goldens" / name / "config.json").is_file()]
    return [*PACKAGED, *goldens, *BUILT]


def arguments(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Returns what `load_model` takes; a checkpoint that no one has is written below `folder`."""
    if name in PACKAGED:
        options = dict(PACKAGED[name])
    elif name in GOLDENS:
        options = {
            **GOLDENS[name],
            "pretrained": str(SHARED / "goldens" / name),
            "dtype": "float32",
        }
    else:
        if not (folder / name).is_dir():
            import record_built

            record_built.write(name, folder / name)
        options = {**BUILT[name], "pretrained": str(folder / name), "dtype": "float32"}
    return options.pop("family"), options


def known_families() -> set[str]:
    """Returns the families that a recording on this machine covers."""
    facts = {**PACKAGED, **GOLDENS, **BUILT}
    return {facts[name]["family"] for name in names()}
