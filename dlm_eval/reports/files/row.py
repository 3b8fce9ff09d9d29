"""One score, as a row of the long leaderboard table."""

from __future__ import annotations

from dataclasses import dataclass, fields

LIKELIHOOD, GENERATION = "likelihood", "generation"
# How tables name `Row.finds_length`.
WITHOUT_LENGTH = "without being told the length"
BETWEEN = "; "  # the settings of both kinds in `Row.options`


@dataclass(frozen=True)
class Row:
    """One score: a task's metric under one filter in one run.

    The fields are the long table's columns, in order.
    """

    model: str | None
    checkpoint: str | None
    revision: str | None
    task: str
    metric: str
    filter: str | None
    value: float
    stderr: float | None
    n: int | None  # number of scored documents
    shots: str | None
    estimator: str | None
    strategy: str | None
    steps: str | None  # a number, or "length"
    gen_length: str | None
    block_length: str | None
    forwards_per_sample: float | None
    tokens_per_forward: float | None
    tokens_per_second: float | None
    device: str | None
    dtype: str | None
    date: str | None  # UTC, ISO 8601
    fingerprint: str | None
    source: str
    errors: int | None
    n_total: int | None  # number of documents in the task
    unit: str | None  # "fraction" or unknown
    higher_is_better: bool | None
    task_version: str | None
    headline: bool  # the one metric of the task that the wide table shows
    logprob_kind: str | None = None  # kind of likelihoods: exact, a bound, or a score
    configuration: str | None = None  # digest of everything but seeds that can change an answer
    seed: str | None = None  # python, numpy, torch, few-shot; one number if equal
    scoring: str | None = None  # digest of everything that turns an answer into a metric
    documents: str | None = None  # the scored documents: "first N", or a digest of their numbers
    code: str | None = None  # "UNSANDBOXED" if the model's programs ran outside the sandbox
    label: str | None = None  # --label of the run
    kind: str | None = None  # "likelihood" or "generation"; None if a group has both
    options: str | None = None  # of the run: "k=v,k=v" for likelihoods; "k=v" for generation
    setup: str | None = None  # digest of the model and of the run's settings for all tasks
    approximation: str | None = None  # what changes tokens to save time ("approximate cache dllm")
    finds_length: str | None = None  # "yes" if the decoder was not told the length of the text
    computed_per_sample: float | None = None  # positions that the forwards ran (generation)

    @property
    def who(self) -> str | None:
        """The checkpoint, or the model if it has none: the name of a run in tables."""
        return self.checkpoint or self.model

    @property
    def measure(self) -> str:
        """ "metric,filter", as samples files name it; the filter of a score without one is "none"."""
        return f"{self.metric},{self.filter or 'none'}"

    @property
    def measure_shown(self) -> str:
        """The metric, with the filter if there is one."""
        return self.measure.removesuffix(",none")

    @property
    def sign(self) -> int:
        """1 if higher values are better or the direction is unknown, -1 if lower ones are."""
        return -1 if self.higher_is_better is False else 1

    @property
    def decoding_notes(self) -> tuple[str, ...]:
        """What every table says of decoding: an approximation, a length that the decoder found."""
        found = self.approximation, WITHOUT_LENGTH if self.finds_length else None
        return tuple(note for note in found if note)

    @property
    def is_part(self) -> bool:
        """Whether the score is known to be of a part of the task's documents."""
        return self.n is not None and self.n_total is not None and self.n < self.n_total

    def text(self, column: str) -> str:
        """Returns a column as text; "" if it is unknown."""
        value = getattr(self, column)
        return "" if value is None else str(value)


COLUMNS = tuple(field.name for field in fields(Row))
