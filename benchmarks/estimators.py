"""Error of every likelihood estimator at equal numbers of forwards, on one model.

    python benchmarks/estimators.py --model tiny                    # some minutes on one core
    python benchmarks/estimators.py --model tiny --n 2,3,4,6,8,9,10,11,12,16,24,32,48,64 --budgets 8,16,32,64,128,256,512 --cache FILE
    python benchmarks/estimators.py --model llada --model_args pretrained=DIR,dtype=float32 --text FILE --n 8,16 --budgets 32,128

For each number of open tokens n and each budget it prints the standard deviation of the estimate (nats, root mean square over the canvases), in brackets
the bias where it is more than noise, in parentheses the reported over the actual error; then how many forwards each estimator needs to match LLaDA's
128, and its variance at 128 in units of LLaDA's, both with 90 % bootstrap intervals. The true ELBO is enumerated up to n = 12, where repeats are free; beyond
it, the mean of the runs with the largest budget stands for it. Draws of `llada` and `k` are independent given their sizes, so that their error follows
from single draws of every size. `--cache` keeps what was measured: the same command goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from spreads import REFERENCE, REFERENCE_FORWARDS, Draws, Key, Runs, Table

from dlm_eval.canvas import Canvas
from dlm_eval.engine import Engine, Program
from dlm_eval.errors import DlmEvalError, SampleError
from dlm_eval.likelihood import Estimator, parse_estimator
from dlm_eval.likelihood.exact import Exact
from dlm_eval.likelihood.masks import Planned
from dlm_eval.likelihood.target import Target, targets
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.rng import Noise, digest
from dlm_eval.settings import parse_pairs

CONTEXT = 16  # tokens before the target
# n up to which all patterns are tabulated, and the repeats that this makes free
ENUMERATED, FREE_REPEATS = (12, 200)
DRAWN = ("llada", "mask_count")  # independent draws, given their sizes


def texts(model: Denoiser, path: str | None) -> list[list[int]]:
    """Returns encoded documents: the lines of a file, or held-out documents of the generator that `tiny` learnt from."""
    if path is not None:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return [model.encode(line) for line in lines if line.strip()]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    from tiny_text import held_out_documents  # the generator is a script, not a part of the package

    documents = []
    for family in ("story", "problem", "function"):
        source = held_out_documents(family, seed=1)
        documents += [model.encode(next(source).text) for _ in range(40)]
    return documents


def canvases(
    model: Denoiser, documents: Sequence[Sequence[int]], n: int, count: int, seed: int
) -> list[Target]:
    """Returns targets of n tokens after `CONTEXT` tokens, from the documents run together (a document may be shorter)."""
    rng = random.Random(f"{seed} {n}")
    head = [] if model.bos_id is None or not model.needs_bos else [model.bos_id]
    found = []
    while len(found) < count:
        stream = [token for document in rng.sample(list(documents), 8) for token in document]
        if len(stream) < CONTEXT + n:
            continue
        start = rng.randrange(len(stream) - CONTEXT - n + 1)
        middle = start + CONTEXT
        canvas = Canvas.continuation([*head, *stream[start:middle]], stream[middle : middle + n])
        (target,) = targets(model, canvas)
        found.append(target)
    return found


def answers(engine: Engine, programs: Sequence[Program[Any]]) -> list[Any]:
    """Returns what the programs return."""
    found = [outcome.answer for outcome in engine.drive(programs)]
    for answer in found:
        if isinstance(answer, SampleError):
            raise answer
    return found


def run(engine: Engine, target: Target, settings: Estimator, repeats: int, seed: int) -> Runs:
    """Returns `repeats` runs with independent noise. What one run learnt of a pattern, the others use: only the clock notices."""
    keys = [digest("benchmark", seed, settings.identity(), repeat) for repeat in range(repeats)]
    scores = answers(engine, [settings.estimate(target, Noise(key)) for key in keys])
    return Runs(
        [s.logprob for s in scores], [math.nan if s.stderr is None else s.stderr for s in scores]
    )


def draw(engine: Engine, target: Target, count: int, seed: int) -> list[list[float]]:
    """Returns n / z times the summed log-probabilities of `count` random patterns of each size z."""
    n, rng = target.n, np.random.default_rng([seed, target.n])
    hidden = np.stack([rng.random(n).argsort() < z for z in range(1, n + 1) for _ in range(count)])
    (logs,) = answers(engine, [target.measure(hidden, hidden)])
    values = np.where(hidden, logs, 0.0).sum(1) * n / hidden.sum(1)
    return values.reshape(n, count).tolist()


def settings_of(name: str, forwards: int) -> Estimator:
    """Returns the estimator's settings at a budget; LLaDA's batches are not larger than it."""
    options: dict[str, int] = {"batch": min(32, forwards)} if name == "llada" else {}
    return parse_estimator(name, {"max_forwards": forwards, **options})


def planned(name: str, n: int, forwards: int, seed: int) -> list[list[int]]:
    """Returns how often each size occurs in 200 random plans of the estimator `name`."""
    settings = settings_of(name, forwards)
    assert isinstance(settings, Planned)
    plans = [settings.plan(n, Noise(digest("plan", seed, i))) for i in range(200)]
    return [np.bincount(plan.hidden.sum(1), minlength=n + 1)[1:].tolist() for plan in plans]


def measured(
    engine: Engine, target: Target, keys: Sequence[Key], args: argparse.Namespace, seed: int
) -> dict[Key, Runs | Draws]:
    """Returns what each (estimator, forwards) gave on one canvas."""
    n, free = target.n, target.n <= ENUMERATED
    if free:
        run(engine, target, Exact(), 1, 0)
    found: dict[Key, Runs | Draws] = {}
    single: list[list[float]] = []
    for name, forwards in keys:
        if name in DRAWN and not free:
            single = single or draw(engine, target, max(4, args.draws // n), seed)
            found[name, forwards] = Draws(single, planned(name, n, forwards, seed))
        # below one pair it would take more forwards than it is given
        elif name != "chain" or forwards >= 2 * n - 1:
            settings = settings_of(name, forwards)
            found[name, forwards] = run(
                engine, target, settings, FREE_REPEATS if free else args.repeats, seed
            )
    return found


def truth(engine: Engine, target: Target, found: dict[Key, Runs | Draws]) -> tuple[float, float]:
    """Returns the ELBO (nats) and its standard error."""
    if target.n <= ENUMERATED:
        return run(engine, target, Exact(), 1, 0).values[0], 0.0
    best = max((key for key in found if key[0] in ("cubature", "auto")), key=lambda key: key[1])
    runs = found[best]
    assert isinstance(runs, Runs)
    return float(np.mean(runs.values)), math.sqrt(runs.variance() / len(runs.values))


class Cache:
    """What was measured, one JSON line per canvas; nothing is kept without a file."""

    def __init__(self, path: str | None) -> None:
        self.path = None if path is None else Path(path)
        lines = (
            self.path.read_text().splitlines()
            if self.path is not None and self.path.exists()
            else []
        )
        self.known = {row["key"]: row["found"] for row in map(json.loads, lines)}

    def get(self, key: str) -> dict[Key, Runs | Draws] | None:
        rows = self.known.get(key)
        return (
            None
            if rows is None
            else {
                (name, k): (Runs if "values" in data else Draws)(**data) for name, k, data in rows
            }
        )

    def put(self, key: str, found: dict[Key, Runs | Draws]) -> None:
        if self.path is not None:
            rows = [(name, k, asdict(own)) for (name, k), own in found.items()]
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "found": rows}) + "\n")


def table(
    engine: Engine,
    documents: list[list[int]],
    n: int,
    keys: list[Key],
    args: argparse.Namespace,
    cache: Cache,
) -> Table:
    """Returns the table of one n, from the cache as far as it is known."""
    found, truths = [], []
    for number, target in enumerate(canvases(engine.model, documents, n, args.canvases, args.seed)):
        place = digest(
            engine.model.describe(),
            target.tokens.tolist(),
            n,
            keys,
            args.repeats,
            args.draws,
            args.seed,
        )
        one = cache.get(place)
        if one is None:
            one = measured(engine, target, keys, args, args.seed + number)
            cache.put(place, one)
        found.append(one)
        truths.append(truth(engine, target, one))
    return Table(n, found, truths)


def report(model: Denoiser, documents: list[list[int]], args: argparse.Namespace) -> None:
    """Prints the tables, one line as soon as it is known."""
    engine, cache = Engine(model), Cache(args.cache)
    names = args.estimators.split(",")
    budgets = sorted({*map(int, args.budgets.split(",")), REFERENCE_FORWARDS})
    print(
        f"{model.name}: {args.canvases} canvases, {args.repeats} repeats (n <= {ENUMERATED}: {FREE_REPEATS}); sd in nats [bias] (reported/actual)"
    )
    print(f"{'n':>3} {'forwards':>8}  " + "  ".join(f"{name:>20}" for name in names), flush=True)
    tables = []
    for n in map(int, args.n.split(",")):
        start = time.perf_counter()
        tables.append(
            table(engine, documents, n, [(name, k) for name in names for k in budgets], args, cache)
        )
        for k in budgets:
            print(
                f"{n:>3} {k:>8}  "
                + "  ".join(f"{tables[-1].cell((name, k)):>20}" for name in names)
            )
        print(f"    ({time.perf_counter() - start:.0f} s)", flush=True)
    if REFERENCE in names:
        print(
            f"\nforwards to match {REFERENCE} at {REFERENCE_FORWARDS} | variance at {REFERENCE_FORWARDS} in units of its [90 % interval]"
        )
        print(f"{'n':>3}  " + "  ".join(f"{name:>40}" for name in names))
        for own in tables:
            if own.variance((REFERENCE, REFERENCE_FORWARDS)) > 0:
                print(f"{own.n:>3}  " + "  ".join(f"{own.summary(name):>40}" for name in names))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--model_args", default="", help="k=v,... of the model")
    parser.add_argument(
        "--text",
        help="a file with one document per line (default: held-out documents of the generator)",
    )
    parser.add_argument("--n", default="2,4,8,16,32,64", help="open tokens")
    parser.add_argument("--budgets", default="8,32,128", help="forwards (8 to 512)")
    parser.add_argument("--estimators", default="llada,mask_count,chain,cubature")
    parser.add_argument(
        "--repeats", type=int, default=16, help="runs per canvas where they are not free"
    )
    parser.add_argument(
        "--draws", type=int, default=640, help="single draws per canvas for llada and mask_count"
    )
    parser.add_argument("--canvases", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="a file that keeps what was measured")
    args = parser.parse_args()
    try:
        model = load_model(args.model, **parse_pairs(args.model_args, "--model_args"))
        report(model, texts(model, args.text), args)
    except DlmEvalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
