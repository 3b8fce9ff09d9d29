"""Damaged checkpoints, hundreds of them by one seed: each must load, or be refused in one line, in bounded time and memory.

    python tests/fuzz_checkpoints.py --count 300 --seed 1 [--goldens ../shared/goldens]

Prints one line per surprise and a last line with the counts; exit code 1 if there was a surprise.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import models_builders as build

from dlm_eval.errors import DlmEvalError, SampleError, UserError
from dlm_eval.models import load_model

SECONDS = 60  # of processor time that one checkpoint may take
MEMORY = 2 * 2**30  # bytes of address space above those of the imports and one honest load
NUMBERS = [
    0,
    -1,
    1,
    2,
    3,
    7,
    2**31,
    2**62,
    10**12,
    10**30,
    1.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    True,
]
VALUES = [
    *NUMBERS,
    None,
    "",
    "12",
    "x" * 5000,
    "../../x",
    "a/b",
    [],
    [1],
    {},
    {"a": 1},
    [[[]]],
    "\ud800",
    "\x1b[2J",
]
TEXTS = ["(a+)+$", "(", "", "\x00", "\ud800", "x" * 10_000, "[UNK]"]


def main() -> int:
    """Runs the mutations and returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--goldens", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        sources = list(_sources(Path(home), options.goldens))
        for family, source in sources:
            load_model(family, pretrained=str(source), device="cpu")
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, resource.RLIM_INFINITY))
        counts = {"loaded": 0, "refused": 0, "surprises": 0}
        for number in range(options.count):
            dice = random.Random(f"{options.seed}:{number}")
            family, source = dice.choice(sources)
            folder = Path(home) / f"mutant{number}"
            shutil.copytree(source, folder)
            what = _mutate(folder, dice)
            counts[_outcome(family, folder, f"{number} {source.name}: {what}")] += 1
            shutil.rmtree(folder)
    print(json.dumps(counts))
    return 1 if counts["surprises"] else 0


def _sources(home: Path, goldens: Path | None) -> Iterator[tuple[str, Path]]:
    yield "llada", build.llada(home / "llada", chat=True)[0]
    yield "diffugpt", build.diffugpt(home / "diffugpt")[0]
    for config in sorted(goldens.glob("*/config.json")) if goldens else ():
        family = config.parent.name.replace("fast_dllm", "llada").replace("llada21", "llada2")
        yield family, config.parent


def _outcome(family: str, folder: Path, what: str) -> str:
    start = time.process_time()
    try:
        model = load_model(family, pretrained=str(folder), device="cpu")
        try:
            model.decode(
                model.encode("the cat sat on the mat, aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab")
            )
        except SampleError as error:
            assert "\n" not in str(error)
        outcome = "loaded"
    except UserError as error:
        outcome = "refused"
        if "\n" in str(error) or len(str(error)) > 1500:
            return _surprise(what, f"more than a line: {str(error)[:300]!r}")
    except DlmEvalError as error:
        return _surprise(what, f"no UserError: {type(error).__name__}: {error}")
    except BaseException:
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            raise
        return _surprise(what, traceback.format_exc())
    taken = time.process_time() - start
    return outcome if taken < SECONDS else _surprise(what, f"{taken:.0f} s")


def _surprise(what: str, how: str) -> str:
    print(f"SURPRISE {what}: {how}", flush=True)
    return "surprises"


def _mutate(folder: Path, dice: random.Random) -> str:
    """Damages one file of `folder` and returns what was done."""
    kind = dice.choice([_json, _json, _json, _json, _header, _header, _bytes, _cut, _tokenizer])
    return f"{kind.__name__} {kind(folder, dice)}"


def _json(folder: Path, dice: random.Random, names: tuple[str, ...] = ("*config.json",)) -> str:
    """Gives one entry, at any depth, another value; drops it; or repeats it under another name."""
    file = dice.choice(sorted(f for name in names for f in folder.glob(name)))
    content = json.loads(file.read_text())
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return "nothing"
        key = dice.choice(keys)
        if isinstance(place[key], (dict, list)) and place[key] and dice.random() < 0.7:
            place = place[key]
            continue
        break
    action = dice.random()
    value = dice.choice(VALUES)
    if action < 0.75:
        place[key] = value
    elif isinstance(place, dict):
        place[
            str(
                dice.choice(
                    ["n_layers", "auto_map", "_attn_implementation", "dtype", "pad_token_id"]
                )
            )
        ] = value
        place.pop(key) if action > 0.9 else None
    else:
        place.pop(key)
    file.write_text(json.dumps(content))
    return f"{file.name} {key} {str(value)[:40]!r} {action:.2f}"


def _tokenizer(folder: Path, dice: random.Random) -> str:
    if dice.random() < 0.6:
        return _json(folder, dice, ("tokenizer.json",))
    content = json.loads((folder / "tokenizer.json").read_text())
    pattern = {
        "type": "Split",
        "pattern": {"Regex": dice.choice(TEXTS)},
        "behavior": "Isolated",
        "invert": False,
    }
    nested: Any = pattern
    for _ in range(dice.choice([0, 3, 60, 200])):
        nested = {"type": "Sequence", "pretokenizers": [nested]}
    content["pre_tokenizer"] = nested
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return f"pre_tokenizer {pattern['pattern']}"


def _header(folder: Path, dice: random.Random) -> str:
    """Changes the header of the weights."""
    file = dice.choice(sorted(folder.glob("*.safetensors")))
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = dice.choice(sorted(set(header) - {"__metadata__"}))
    entry, action = header[name], dice.randrange(7)
    if action == 0:
        entry["dtype"] = dice.choice(["F64", "U8", "I4", "F4", "C64", "", 3, None])
    elif action == 1:
        entry["shape"] = dice.choice(
            [[], [-1], [2**62, 4], [1.5], "3", None, [0], [10**9, 10**9], entry["shape"][::-1]]
        )
    elif action == 2:
        entry["data_offsets"] = dice.choice(
            [[0, 4], [-8, 8], [8, 4], [0, 2**62], [0], None, [0, 10**30], "ab"]
        )
    elif action == 3:
        header[name + dice.choice(["x", "\x1b[2J", "\ud800", "." * 3000])] = header.pop(name)
    elif action == 4:
        header = dice.choice([[], 3, {}, {"a": 1}, {name: None}])
    elif action == 5:
        header["__metadata__"] = dice.choice([3, {"format": 5}, {"format": "x" * 9999}, None])
    else:
        length = dice.choice([2**62, 2**63, 2**64 - 1, 0, 1, length - 1, length + 1, 10**8])
        file.write_bytes(struct.pack("<Q", length) + content[8:])
        return f"length {length}"
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return f"{action} {name} {str(header)[:60]}"


def _bytes(folder: Path, dice: random.Random) -> str:
    """Changes some bytes of one file."""
    file = dice.choice(sorted(f for f in folder.iterdir() if f.is_file()))
    content = bytearray(file.read_bytes())
    places = [
        dice.randrange(min(len(content), dice.choice([16, 4096, 10**9])))
        for _ in range(dice.choice([1, 4, 64]))
    ]
    for place in places:
        content[place] = dice.randrange(256)
    file.write_bytes(bytes(content))
    return f"{file.name} {places[:3]}"


def _cut(folder: Path, dice: random.Random) -> str:
    """Shortens, empties, lengthens or removes one file, or puts something else there."""
    file = dice.choice(sorted(f for f in folder.iterdir() if f.is_file()))
    content, action = file.read_bytes(), dice.randrange(6)
    file.unlink()
    if action == 0:
        file.write_bytes(content[: dice.randrange(len(content))])
    elif action == 1:
        file.write_bytes(b"")
    elif action == 2:
        file.write_bytes(content + content)
    elif action == 3:
        file.write_bytes(b"[" * 200_000)
    elif action == 4:
        file.symlink_to("/nowhere/at/all")
    return f"{file.name} {action}"


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError("longer than ten minutes")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _too_long)
    sys.exit(main())
