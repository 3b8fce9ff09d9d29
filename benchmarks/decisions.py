"""How good decisions are that end early: on models whose truth is known, and on a real one.

    python benchmarks/decisions.py tables                    # 300 questions a cell, minutes on one core
    python benchmarks/decisions.py model --model tiny        # acc and acc_norm over seeds: precision against fixed budgets; an hour on two cores
    python benchmarks/decisions.py singles                   # texts alone: bias and spread of ending early; minutes

`tables`: three choices a question, 8 to 12 tokens each; the best leads by 0.005 to 3 nats (evenly on the logarithm); truth by enumeration. Of each cell:
how many questions end early and how many of those on a choice that is not the best; whether those that ran to the end have the scores of the full
budget; how often the answer is wrong with `decide` and with the full budget; forwards spent.

`model`: questions of three choices of 8 to 30 tokens, the true ending of a held-out text, and two with a token or two that the model itself takes for
likely; the standard deviation over seeds of acc and acc_norm, their root mean square distance from the reference's, and the forwards a choice. The
reference is the mean of all (other) runs of 128 forwards, 2560 a choice: cubature is unbiased.

`singles`: texts of 8 to 12 tokens of the same made-up models, alone: how far the mean of 200 runs is from the truth (nats a token), which tells
whether ending early is biased; the standard deviation, and the forwards.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dlm_eval import load_model
from dlm_eval.canvas import Canvas, Score
from dlm_eval.engine import Engine, ForwardRow, Output, Program
from dlm_eval.likelihood import Estimator, parse_estimator, question_program
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.rng import Noise

Bools, Floats = NDArray[np.bool_], NDArray[np.float64]
# patterns [R, n] -> log-probabilities [R, n] of the hidden tokens, nats
Model = Callable[[Bools], Floats]
KINDS = ("smooth", "peaked", "dense")
FULL = "auto,max_forwards=128"


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
            return np.asarray(
                found + 0.5 * shown @ one.T + 0.7 * np.einsum("ra,iab,rb->ri", shown, two, shown)
            )
        return np.asarray(
            found * (1 - 0.6 * np.tanh(shown @ near))
            + np.sin(3 * shown @ waves.T) @ voices.T * (2 - share) / 12
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
            Canvas.continuation([place], [1] * m, key=f"{kind} {number}")
            for place, m in enumerate(lengths)
        ]

    def answer(self, program: Program[list[Score]], mask_id: int) -> list[Score]:
        """Returns the scores of a program whose rows these models answer."""
        try:
            rows = next(program)
            while True:
                rows = program.send(self._read(rows, mask_id))
        except StopIteration as stop:
            return list(stop.value)

    def _read(self, rows: list[ForwardRow], mask_id: int) -> list[Output]:
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
            Question(kind, float(np.exp(rng.uniform(np.log(0.005), np.log(3.0)))), rng, q)
            for q in range(questions)
        ]
        for budget in budgets:
            print(
                f"| {kind} | {budget} | " + " | ".join(cells(asked, toy, budget, alpha)) + " |",
                flush=True,
            )


def cells(asked: list[Question], toy: Toy, budget: int, alpha: float) -> list[str]:
    """Returns the figures of one cell."""
    decide, plain = (
        parse_estimator(f"auto,max_forwards={budget},stop_at_error_rate={alpha}"),
        parse_estimator(f"auto,max_forwards={budget}"),
    )
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


def run(question: Question, toy: Toy, settings: Estimator) -> list[Score]:
    """Returns the scores of a question's choices."""
    noise = Noise.of(question.canvases[0], 0)
    return question.answer(question_program(toy, question.canvases, settings, noise), toy.mask_id)


def best(scores: list[Score]) -> int:
    """Returns which choice has the highest score."""
    return max(range(len(scores)), key=lambda i: scores[i].logprob)


CONTEXT = 12  # tokens of context at most: short rows, many seeds
CHANGES = (1, 2)  # tokens that the wrong choices have from the model itself


def real_questions(model: Denoiser, count: int) -> tuple[list[list[Canvas]], list[list[int]]]:
    """Returns questions (the first choice is the true ending), and the characters of each choice."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    from tiny_text import held_out_documents

    rng = np.random.default_rng(11)
    sources = [held_out_documents(family, seed=2) for family in ("story", "problem", "function")]
    questions: list[list[Canvas]] = []
    lengths: list[list[int]] = []
    while len(questions) < count:
        ids = model.encode(next(sources[int(rng.integers(len(sources)))]).text)
        n = int(rng.integers(8, 31))
        if len(ids) < n + CONTEXT:
            continue
        context, ending = ids[:-n][-CONTEXT:], ids[-n:]
        choices = [
            ending,
            *(likely_change(model, context, ending, changes, rng) for changes in CHANGES),
        ]
        drop = int(rng.integers(0, 3))  # choices of different length, as texts are
        choices[-1] = choices[-1][: n - drop]
        key = f"question {len(questions)}"
        questions.append([Canvas.continuation(context, choice, key=key) for choice in choices])
        lengths.append([max(1, len(model.decode(choice))) for choice in choices])
    return questions, lengths


def likely_change(
    model: Denoiser, context: list[int], ending: list[int], changes: int, rng: np.random.Generator
) -> list[int]:
    """Returns `ending` with other tokens at random places, drawn from what the model takes for likely there."""
    places = [int(place) for place in rng.choice(len(ending), changes, replace=False)]
    changed = list(ending)
    for place in places:
        changed[place] = model.mask_id
    row = torch.tensor([context + changed])
    with torch.inference_mode():
        logits = model.logits(row, None, torch.tensor([len(context) + place for place in places]))[
            0
        ]
    for place, own in zip(places, logits, strict=True):
        p = torch.softmax(own.double(), -1).numpy()
        p[ending[place]] = p[model.mask_id] = 0
        changed[place] = int(rng.choice(len(p), p=p / p.sum()))
    return changed


def on_a_model(
    name: str, args: dict[str, Any], count: int, seeds: int, estimators: list[str], processes: int
) -> None:
    """Prints the table of `model`."""
    runs = [(estimator, seed) for estimator in [FULL, *estimators] for seed in range(seeds)]
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        answers = list(pool.map(partial(scored, name, args, count), *zip(*runs, strict=True)))
    _, lengths = real_questions(load_model(name, **args), count)
    full = [[np.array(own) for own in scores] for scores, _ in answers[:seeds]]
    total = [sum(scores[q] for scores in full) for q in range(count)]
    truth = right([one / seeds for one in total], lengths)
    print(
        f"{count} questions, {seeds} seeds; reference acc {truth[0].mean():.4f}, acc_norm {truth[1].mean():.4f}"
    )
    print(
        "| estimator | forwards a choice | sd acc | rms error acc | sd acc_norm | rms error acc_norm | answers changed (%) |"
    )
    print("|---|---|---|---|---|---|---|")
    for number, estimator in enumerate([FULL, *estimators]):
        own = answers[number * seeds : (number + 1) * seeds]
        found = [right(scores, lengths) for scores, _ in own]
        truths = [truth] * seeds
        if number == 0:  # no run is compared with itself
            truths = [
                right([(total[q] - scores[q]) / (seeds - 1) for q in range(count)], lengths)
                for scores in full
            ]
        line = [f"{np.mean([cost for _, cost in own]) / sum(map(len, lengths)):.1f}"]
        for order in (0, 1):
            acc = np.array([one[order].mean() for one in found])
            off = np.array(
                [
                    one[order].mean() - true[order].mean()
                    for one, true in zip(found, truths, strict=True)
                ]
            )
            line += [f"{acc.std(ddof=1):.4f}", f"{np.sqrt(np.mean(off**2)):.4f}"]
        changed = np.mean([one[0] != true[0] for one, true in zip(found, truths, strict=True)])
        print(
            f"| `{estimator}` | " + " | ".join([*line, f"{100 * changed:.2f}"]) + " |", flush=True
        )


def scored(
    name: str, args: dict[str, Any], count: int, estimator: str, seed: int
) -> tuple[list[list[float]], int]:
    """Returns the scores of the choices of each question, and the forwards of all."""
    model = load_model(name, **args)
    questions, lengths = real_questions(model, count)
    settings = parse_estimator(estimator)
    programs = (
        question_program(model, q, settings, Noise.of(q[0], seed), lengths=[float(m) for m in own])
        for q, own in zip(questions, lengths, strict=True)
    )
    answers = [outcome.answer for outcome in Engine(model, batch_tokens=8192).drive(programs)]
    return [[s.logprob for s in scores] for scores in answers], sum(
        s.rows for scores in answers for s in scores
    )


def right(
    scores: Sequence[Sequence[float] | Floats], lengths: list[list[int]]
) -> tuple[Bools, Bools]:
    """Returns which questions are right by score and by score per character (the first choice is the true one)."""
    plain = [int(np.argmax(own)) == 0 for own in scores]
    normed = [
        int(np.argmax(np.divide(own, m))) == 0 for own, m in zip(scores, lengths, strict=True)
    ]
    return np.array(plain), np.array(normed)


def singles(texts: int, runs: int, estimators: list[str]) -> None:
    """Prints the table of `singles`."""
    toy = Toy(ToySettings())
    print("| model | estimator | forwards | bias, nats a token | its error | sd, nats a token |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        rng = np.random.default_rng([KINDS.index(kind), 8])
        asked = [Question(kind, 1.0, rng, number) for number in range(texts)]
        for estimator in estimators:
            settings = parse_estimator(estimator)
            off, spent, spread = [], [], []
            for question in asked:
                canvas = question.canvases[0]
                found = []
                for seed in range(runs):
                    program = question_program(toy, [canvas], settings, Noise.of(canvas, seed))
                    (score,) = question.answer(program, toy.mask_id)
                    found.append(score.logprob / sum(canvas.open))
                    spent.append(score.rows)
                off.append(np.mean(found))  # the truth of the first choice is 0
                spread.append(np.var(found, ddof=1))
            doubt = np.sqrt(np.mean(spread) / runs / texts)
            cells = [
                f"{np.mean(spent):.1f}",
                f"{np.mean(off):+.4f}",
                f"{doubt:.4f}",
                f"{np.sqrt(np.mean(spread)):.4f}",
            ]
            print(f"| {kind} | `{estimator}` | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["tables", "model", "singles"])
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--budgets", default="32,128")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--pretrained", help="a folder that scripts/train_tiny.py wrote")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--estimators", default="auto,max_forwards=32;auto,precision=0.05")
    given = parser.parse_args()
    if given.what == "tables":
        tables(given.questions, [int(b) for b in given.budgets.split(",")], given.alpha)
    elif given.what == "singles":
        singles(given.texts, given.runs, given.estimators.split(";"))
    else:
        args = (
            {} if given.pretrained is None else {"pretrained": given.pretrained, "dtype": "float32"}
        )
        on_a_model(
            given.model,
            args,
            given.questions,
            given.seeds,
            given.estimators.split(";"),
            given.processes,
        )


if __name__ == "__main__":
    main()
