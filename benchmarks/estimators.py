"""Error of every likelihood estimator at equal numbers of forwards, on one model.

    python benchmarks/estimators.py --model tiny
    python benchmarks/estimators.py --model llada --model_args pretrained=DIR,dtype=float32 --text FILE --n 8,16 --budgets 32,128

For each number of open tokens n and each budget it prints the standard deviation over repeats of the estimate (nats, root mean square over the
canvases) and, where it is more than noise, the bias; then how many forwards each estimator needs to match LLaDA's 128, and its variance at
128 in units of LLaDA's. The true ELBO is enumerated where 2^n - 1 <= 4095, else the mean of all unbiased estimates made here.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlm_eval.canvas import Canvas, Score
from dlm_eval.engine import Engine
from dlm_eval.errors import DlmEvalError, SampleError
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.noise import Noise, digest
from dlm_eval.scoring import EstimatorSettings, parse_estimator
from dlm_eval.scoring.estimates import ESTIMATES
from dlm_eval.scoring.rounds import WEIGHT
from dlm_eval.scoring.target import Target, targets
from dlm_eval.settings import parse_pairs

CONTEXT = 16  # tokens before the target
REFERENCE, REFERENCE_FORWARDS = "llada", 128
ENUMERATED = 12  # n up to which the truth is enumerated
PENDING = {"chain": lambda n: 2 * n - 1}  # forwards that an estimator takes at least


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


def canvases(model: Denoiser, documents: Sequence[Sequence[int]], n: int, count: int, seed: int) -> list[Target]:
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


def estimates(engine: Engine, target: Target, settings: EstimatorSettings, repeats: int, seed: int) -> list[Score]:
    """Returns the scores of `repeats` runs with independent noise. What one run learnt of a pattern, the others use: only the clock notices."""
    walks = [
        ESTIMATES[settings.name](
            target, settings, Noise(digest("benchmark", seed, settings.name, settings.samples, repeat))
        )
        for repeat in range(repeats)
    ]
    scores = []
    for outcome in engine.drive(walks):
        if isinstance(outcome.answer, SampleError):
            raise outcome.answer
        scores.append(outcome.answer)
    return scores


def truth(engine: Engine, target: Target, runs: dict[tuple[str, int], list[Score]]) -> tuple[float, float]:
    """Returns the ELBO (nats) and its standard error."""
    if target.n <= ENUMERATED:
        (score,) = estimates(engine, target, EstimatorSettings("exact"), 1, 0)
        return score.logprob, 0.0
    total = weight = 0.0
    for (name, forwards), scores in runs.items():
        if name == "cubature":
            own = WEIGHT[name](target.n, forwards) * len(scores)
            total, weight = total + own * float(np.mean([s.logprob for s in scores])), weight + own
    best = max((forwards for name, forwards in runs if name == "cubature"))
    spread = np.std([s.logprob for s in runs["cubature", best]], ddof=1)
    return total / weight, float(spread / math.sqrt(len(runs["cubature", best])))


def errors(
    engine: Engine, found: Sequence[Target], names: Sequence[str], budgets: Sequence[int], repeats: int, seed: int
) -> dict[tuple[str, int], tuple[float, float, float, float]]:
    """Returns (estimator, budget) -> standard deviation, bias, error of the bias, reported standard error; means over the targets."""
    sums: dict[tuple[str, int], list[tuple[float, float, float, float]]] = {}
    for number, target in enumerate(found):
        runs = {}
        for name in names:
            for forwards in budgets:
                if forwards >= PENDING.get(name, lambda n: 1)(target.n):
                    settings = parse_estimator(name, {"samples": forwards})
                    runs[name, forwards] = estimates(engine, target, settings, repeats, seed + number)
        value, doubt = truth(engine, target, runs)
        for key, scores in runs.items():
            values = np.array([s.logprob for s in scores])
            spread = values.std(ddof=1)
            reported = math.sqrt(np.mean([s.stderr**2 for s in scores]))
            row = (spread, values.mean() - value, math.hypot(spread / math.sqrt(repeats), doubt), reported)
            sums.setdefault(key, []).append(row)
    table = {}
    for key, rows in sums.items():
        spread, bias, doubt, reported = np.array(rows).T
        table[key] = (
            math.sqrt(np.mean(spread**2)),
            float(bias.mean()),
            math.sqrt(np.sum(doubt**2)) / len(rows),
            math.sqrt(np.mean(reported**2)),
        )
    return table


def forwards_needed(table: dict[tuple[str, int], tuple[float, float, float, float]], name: str, goal: float) -> str:
    """Returns the forwards at which `name` reaches the standard deviation `goal`, interpolated between budgets on logarithmic scales."""
    points = sorted((forwards, row[0]) for (own, forwards), row in table.items() if own == name)
    before: tuple[int, float] | None = None
    for forwards, spread in points:
        if spread <= goal:
            if before is None or spread <= 0:
                return f"<={forwards}"
            share = math.log(before[1] / goal) / math.log(before[1] / spread)
            return f"{before[0] * (forwards / before[0]) ** share:.0f}"
        before = (forwards, spread)
    return f">{points[-1][0]}" if points else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--model_args", default="", help="k=v,... of the model")
    parser.add_argument(
        "--text", help="a file with one document per line (default: held-out documents of the generator)"
    )
    parser.add_argument("--n", default="2,4,8,16,32,64", help="open tokens")
    parser.add_argument("--budgets", default="8,32,128", help="forwards (8 to 512)")
    parser.add_argument("--estimators", default="llada,k,t,chain,cubature,auto")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--canvases", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        model = load_model(args.model, **parse_pairs(args.model_args, "--model_args"))
        names = args.estimators.split(",")
        lengths, budgets = [int(n) for n in args.n.split(",")], [int(k) for k in args.budgets.split(",")]
        report(model, texts(model, args.text), names, lengths, budgets, args)
    except DlmEvalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def report(
    model: Denoiser,
    documents: list[list[int]],
    names: list[str],
    lengths: list[int],
    budgets: list[int],
    args: argparse.Namespace,
) -> None:
    """Prints the tables, one line as soon as it is known."""
    engine = Engine(model)
    print(
        f"{model.name}: {args.canvases} canvases, {args.repeats} repeats; sd in nats [bias where above 3 errors] (reported/actual error)"
    )
    print(f"{'n':>3} {'forwards':>8}  " + "  ".join(f"{name:>22}" for name in names))
    summary = []
    for n in lengths:
        start = time.perf_counter()
        own = sorted({*budgets, REFERENCE_FORWARDS})
        table = errors(
            engine, canvases(model, documents, n, args.canvases, args.seed), names, own, args.repeats, args.seed
        )
        for forwards in own:
            print(
                f"{n:>3} {forwards:>8}  " + "  ".join(f"{_cell(table.get((name, forwards))):>22}" for name in names),
                flush=True,
            )
        reference = table.get((REFERENCE, REFERENCE_FORWARDS))
        if reference is not None:
            summary.append((n, reference[0], table))
        print(f"    ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"\nforwards to match {REFERENCE} at {REFERENCE_FORWARDS} | variance at {REFERENCE_FORWARDS} in units of its")
    print(f"{'n':>3}  " + "  ".join(f"{name:>16}" for name in names))
    for n, goal, table in summary:
        cells = []
        for name in names:
            at = table.get((name, REFERENCE_FORWARDS))
            ratio = "-" if at is None or goal == 0 else f"{(at[0] / goal) ** 2:.2g}"
            cells.append(f"{forwards_needed(table, name, goal):>6} | {ratio:>7}")
        print(f"{n:>3}  " + "  ".join(f"{cell:>16}" for cell in cells))


def _cell(row: tuple[float, float, float, float] | None) -> str:
    if row is None:
        return "-"
    spread, bias, doubt, reported = row
    off = f" [{bias:+.2g}]" if abs(bias) > 3 * doubt + 1e-6 else ""
    calibration = f" ({reported / spread:.1f})" if spread > 1e-6 else ""
    return f"{spread:.3f}{off}{calibration}"


if __name__ == "__main__":
    raise SystemExit(main())
