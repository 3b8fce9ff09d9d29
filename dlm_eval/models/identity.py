"""What a fingerprint needs of a checkpoint's files: names, commit and hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from dlm_eval.models.compiled import compile_backend
from dlm_eval.models.loading import Folder, LoadSettings, locate
from dlm_eval.models.stored import header

TOKENIZER_FILES = [
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
]
HASHED_WHOLE = 256 * 2**20  # bytes of weights up to which files are hashed whole; above, their headers and sizes are


def identity(folder: Folder, settings: LoadSettings) -> dict[str, Any]:
    """Returns what a fingerprint needs of the files: names, commit and hashes, never a machine's path."""
    import transformers

    text = locate(settings.tokenizer, setting="tokenizer") if settings.tokenizer else folder
    described: dict[str, Any] = {
        "pretrained": folder.name,
        "revision": folder.commit or settings.revision,
        "weights_sha256": hash_weights(folder.weights),
        "config_sha256": _sha256([folder.path / "config.json"]),
        "tokenizer_sha256": _sha256(
            sorted({file for name in TOKENIZER_FILES for file in text.path.glob(name) if file.is_file()})
        ),
        "transformers": transformers.__version__,
    }
    if settings.peft:
        adapter = locate(settings.peft, setting="peft")
        described |= {
            "peft": adapter.name,
            "peft_sha256": _sha256(sorted(file for file in adapter.path.glob("adapter_*") if file.is_file())),
        }
    chosen = {"quantization": settings.quantization, "compile": compile_backend(settings.compile)}
    return described | {key: value for key, value in chosen.items() if value}


def hash_weights(files: list[Path]) -> str:
    """Returns a sha256 over the weight files; of large ones, over their safetensors headers and sizes."""
    if sum(file.stat().st_size for file in files) <= HASHED_WHOLE:
        return _sha256(files)
    total = hashlib.sha256(b"headers")
    for file in files:
        total.update(f"{file.name}:{file.stat().st_size}".encode())
        if file.suffix == ".safetensors":
            total.update(header(file))
    return total.hexdigest()


def _sha256(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(2**20):
                total.update(chunk)
    return total.hexdigest()
