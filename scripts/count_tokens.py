"""Counts the tokens of texts: the prior of `--decode strategy=pc_sampler,prior=FILE`.

    python scripts/count_tokens.py --tokenizer GSAI-ML/LLaDA-8B-Instruct --output prior.json a.txt b.jsonl

A line of a .jsonl file is a JSON object whose text is under --key; another file is one text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer

from dlm_eval.decoding.token_prior import count_tokens


def texts_of(files: list[Path], key: str) -> Iterator[str]:
    """Yields the texts of `files`."""
    for file in files:
        content = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            yield from (json.loads(line)[key] for line in content.splitlines() if line.strip())
        else:
            yield content


def main() -> None:
    """Writes the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="texts, or .jsonl files")
    parser.add_argument("--tokenizer", required=True, help="name on the hub, or folder")
    parser.add_argument("--key", default="text", help="field of a .jsonl file that is counted")
    parser.add_argument("--output", required=True, type=Path, help="the file to write")
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    found = count_tokens(encode, texts_of(given.files, given.key))
    given.output.write_text(json.dumps(found) + "\n", encoding="utf-8")
    print(f"{found['num_token']} tokens, {len(found['p_baseline_dict'])} different ones")


if __name__ == "__main__":
    main()
