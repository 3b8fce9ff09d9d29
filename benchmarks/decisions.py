"""How good decisions are that end early: on models whose truth is known, and on a real one.

    python benchmarks/decisions.py tables                    # 300 questions a cell, minutes on one core
    python benchmarks/decisions.py model --model tiny        # acc and acc_norm over seeds: precision against fixed budgets

`tables`: three choices a question, 8 to 12 tokens each; the best leads by 0.005 to 3 nats (evenly on the logarithm); truth by enumeration. Of each cell:
how many questions end early and how many of those on a choice that is not the best; whether those that ran to the end have the scores of the full
budget; how often the answer is wrong with `decide` and with the full budget; forwards spent.

`model`: questions of four choices of 8 to 30 tokens, the true ending of a held-out text and three changed ones; the standard deviation over seeds
of acc and acc_norm, their root mean square distance from the reference's, and the forwards a choice. The reference has 1024 forwards a choice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlm_eval.canvas import Canvas, Score
from dlm_eval.engine import Engine, Reading, Row, Walk
from dlm_eval.models.toy import Toy, ToySettings
from dlm_eval.noise import Noise
from dlm_eval.scoring import EstimatorSettings, parse_estimator, question_walk

Bools, Floats = NDArray[np.bool_], NDArray[np.float64]
Model = Callable[[Bools], Floats]  # patterns [R, n] -> log-probabilities [R, n] of the hidden tokens, nats
KINDS = ("smooth", "peaked", "dense")


def table_model(kind: str, n: int, rng: np.random.Generator) -> Model:
    """Returns a model of n tokens: log-probabilities that rise with what is shown (smooth), by pairs (dense), or of a few contexts (peaked)."""
    level, slope = rng.gamma(2.0, 1.2, n), rng.gamma(1.0, 1.0, n)
    one, two = rng.normal(0, 1, (n, n)) / np.sqrt(n), rng.normal(0, 1, (n, n, n)) / n
    waves, voices = rng.normal(0, 1, (6, n)), rng.normal(0, 1, (n, 6))
    apart = np.abs(np.arange(n)[:, None] - np.arange(n)[None])
    near = np.exp(-apart / 1.5) * (apart > 0)

    def logs(hidden: Bools) -> Floats:
        shown = (~hidden).astype(np.float64)
        share = shown.mean(1, keepdims=True)
        found = -level - slope * (1 - share)
        if kind == "smooth":
            return np.asarray(found + 0.7 * shown @ one.T)
        if kind == "dense":
            return np.asarray(found + 0.5 * shown @ one.T + 0.7 * np.einsum("ra,iab,rb->ri", shown, two, shown))
        return np.asarray(
            found * (1 - 0.6 * np.tanh(shown @ near)) + np.sin(3 * shown @ waves.T) @ voices.T * (2 - share) / 12
        )

    return logs


def elbo(model: Model, n: int) -> float:
    """Returns the exact bound (nats): every size counts 1, every token of a pattern of size z 1/z."""
    hidden = (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1 == 1
    sizes = hidden.sum(1)
    mean = np.where(hidden, model(hidden), 0.0).sum(1) / sizes
    return float(sum(mean[sizes == z].mean() for z in range(1, n + 1)))


class Question:
    """Three choices of known scores, the first one best: by `gap` nats, and the third by some more."""

    def __init__(self, kind: str, gap: float, rng: np.random.Generator, number: int) -> None:
        n = int(rng.integers(8, 13))
        lengths = [n] * 3 if number % 2 else [int(m) for m in rng.integers(8, 13, 3)]
        self.models = []
        for place, m in enumerate(lengths):
            plain = table_model(kind, m, rng)
            lift = (-(0.0, gap, gap * 2)[place] - elbo(plain, m)) / m
            self.models.append(lambda hidden, plain=plain, lift=lift: plain(hidden) + lift)
        self.canvases = [
            Canvas.continuation([place], [1] * m, key=f"{kind} {number}") for place, m in enumerate(lengths)
        ]

    def answer(self, walk: Walk[list[Score]], mask_id: int) -> list[Score]:
        """Returns the scores of a walk whose rows these models answer."""
        try:
            rows = next(walk)
            while True:
                rows = walk.send(self._read(rows, mask_id))
        except StopIteration as stop:
            return list(stop.value)

    def _read(self, rows: list[Row], mask_id: int) -> list[Reading]:
        answers: list[Any] = [None] * len(rows)
        for place, model in enumerate(self.models):
            own = [i for i, row in enumerate(rows) if row.tokens[0] == place]
            if own:
                found = model(np.stack([rows[i].tokens[1:] == mask_id for i in own]))
                for i, logs in zip(own, found, strict=True):
                    answers[i] = (logs[rows[i].places - 1],)
        return answers


def tables(questions: int, budgets: list[int], alpha: float) -> None:
    """Prints the table of `tables`."""
    toy = Toy(ToySettings())
    print(
        "| model | budget | end early | of them wrong (%) | full runs equal | wrong, decide | wrong, full budget | forwards, of full |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kind in KINDS:
        rng = np.random.default_rng([KINDS.index(kind), 7])
        asked = [
            Question(kind, float(np.exp(rng.uniform(np.log(0.005), np.log(3.0)))), rng, q) for q in range(questions)
        ]
        for budget in budgets:
            print(f"| {kind} | {budget} | " + " | ".join(cells(asked, toy, budget, alpha)) + " |", flush=True)


def cells(asked: list[Question], toy: Toy, budget: int, alpha: float) -> list[str]:
    """Returns the figures of one cell."""
    decide, plain = parse_estimator(f"auto,samples={budget},decide={alpha}"), parse_estimator(f"auto,samples={budget}")
    early = wrong_early = wrong = wrong_full = equal = spent = most = 0
    for question in asked:
        mine, full = (run(question, toy, settings) for settings in (decide, plain))
        ran_out = all(one.rows == other.rows for one, other in zip(mine, full, strict=True))
        equal += ran_out and [s.logprob for s in mine] == [s.logprob for s in full]
        early += not ran_out
        wrong_early += not ran_out and best(mine) != 0
        wrong, wrong_full = wrong + (best(mine) != 0), wrong_full + (best(full) != 0)
        spent, most = spent + sum(s.rows for s in mine), most + sum(s.rows for s in full)
    share = 100 * wrong_early / max(1, early)
    return [
        str(early),
        f"{wrong_early} ({share:.1f})",
        f"{equal} of {len(asked) - early}",
        str(wrong),
        str(wrong_full),
        f"{spent / most:.2f}",
    ]


def run(question: Question, toy: Toy, settings: EstimatorSettings) -> list[Score]:
    """Returns the scores of a question's choices."""
    noise = Noise.of(question.canvases[0], 0)
    return question.answer(question_walk(toy, question.canvases, settings, noise), toy.mask_id)


def best(scores: list[Score]) -> int:
    """Returns which choice has the highest score."""
    return max(range(len(scores)), key=lambda i: scores[i].logprob)


REFERENCE = 1024  # forwards a choice of the reference scores


def real_questions(name: str, args: dict[str, Any], count: int) -> tuple[Any, list[list[Canvas]], list[list[int]]]:
    """Returns a model, its questions (the first choice is the true ending), and the characters of each choice."""
    import sys
    from pathlib import Path

    from dlm_eval import load_model

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    from tiny_text import held_out_documents

    model = load_model(name, **args)
    rng = np.random.default_rng(11)
    sources = [held_out_documents(family, seed=2) for family in ("story", "problem", "function")]
    questions: list[list[Canvas]] = []
    lengths: list[list[int]] = []
    while len(questions) < count:
        ids, other = (model.encode(next(sources[int(rng.integers(len(sources)))]).text) for _ in range(2))
        n = int(rng.integers(8, 31))
        if len(ids) < n + 12 or len(other) < n or len(ids) > model.max_length:
            continue
        ending = ids[-n:]
        choices = [ending]
        for changes in (1, 2, n // 2):
            changed = list(ending)
            for place in rng.choice(n, changes, replace=False):
                changed[place] = other[int(rng.integers(len(other)))]
            drop = int(rng.integers(0, 3))  # choices of different length, as texts are
            choices.append(changed[drop:] if changes > 1 else changed)
        key = f"question {len(questions)}"
        questions.append([Canvas.continuation(ids[:-n], choice, key=key) for choice in choices])
        lengths.append([max(1, len(model.decode(choice))) for choice in choices])
    return model, questions, lengths


def on_a_model(name: str, args: dict[str, Any], count: int, seeds: int, estimators: list[str]) -> None:
    """Prints the table of `model`."""
    model, questions, lengths = real_questions(name, args, count)
    engine = Engine(model, batch_tokens=8192)
    reference = decided(engine, questions, lengths, f"cubature,samples={REFERENCE}", 1000)
    print(
        f"{count} questions, {seeds} seeds; reference acc {reference[0].mean():.4f}, acc_norm {reference[1].mean():.4f}"
    )
    print(
        "| estimator | forwards a choice | sd acc | rms error acc | sd acc_norm | rms error acc_norm | answers changed (%) |"
    )
    print("|---|---|---|---|---|---|---|")
    for estimator in estimators:
        found = [decided(engine, questions, lengths, estimator, seed) for seed in range(seeds)]
        cost = np.mean([one[2] for one in found]) / count / 4
        line = [f"{cost:.1f}"]
        for order in (0, 1):
            acc = np.array([one[order].mean() for one in found])
            off = np.sqrt(np.mean((acc - reference[order].mean()) ** 2))
            line += [f"{acc.std(ddof=1):.4f}", f"{off:.4f}"]
        changed = np.mean([one[0] != reference[0] for one in found])
        print(f"| `{estimator}` | " + " | ".join([*line, f"{100 * changed:.2f}"]) + " |", flush=True)


def decided(
    engine: Engine, questions: list[list[Canvas]], lengths: list[list[int]], estimator: str, seed: int
) -> tuple[Bools, Bools, int]:
    """Returns which questions are right by score and by score per character, and the forwards."""
    settings = parse_estimator(estimator)
    walks = (
        question_walk(engine.model, q, settings, Noise.of(q[0], seed), lengths=[float(m) for m in own])
        for q, own in zip(questions, lengths, strict=True)
    )
    answers = [outcome.answer for outcome in engine.drive(walks)]
    right = [best(scores) == 0 for scores in answers]
    normed = [
        int(np.argmax([s.logprob / m for s, m in zip(scores, own, strict=True)])) == 0
        for scores, own in zip(answers, lengths, strict=True)
    ]
    return np.array(right), np.array(normed), sum(s.rows for scores in answers for s in scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tables", "model"])
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--budgets", default="32,128")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--estimators", default="auto,samples=128;auto,samples=32;auto,precision=0.05")
    given = parser.parse_args()
    if given.what == "tables":
        tables(given.questions, [int(b) for b in given.budgets.split(",")], given.alpha)
    else:
        on_a_model(given.model, {}, given.questions, given.seeds, given.estimators.split(";"))


if __name__ == "__main__":
    main()
