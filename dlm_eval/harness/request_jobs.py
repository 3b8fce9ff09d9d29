"""lm-eval's requests as jobs: the kinds of requests, and the answers to all requests of a run."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lm_eval.api.instance import Instance

from dlm_eval.answers import Answering
from dlm_eval.counts import total
from dlm_eval.errors import DlmEvalError, SampleError
from dlm_eval.harness.requests import UnbuiltPrompt
from dlm_eval.harness.results import Record, is_in_shard, records_of
from dlm_eval.harness.sample_errors import reason_of
from dlm_eval.harness.shard import Shard
from dlm_eval.jobs import Answer, Job
from dlm_eval.progress import Progress

log = logging.getLogger(__name__)
TOGETHER = 512  # requests whose jobs are made, looked up and passed on together
Prepare = Callable[[Instance, Record], list[Job]]


@dataclass(frozen=True)
class RequestKind:
    """How requests of one of lm-eval's methods become jobs, and answers become lm-eval's.

    Attributes:
        title: what the progress line and the records call them.
        jobs: all requests of some documents -> the function that returns the jobs of one of them.
        finish: a request, the answers to its jobs, and its record -> lm-eval's answer.
        blank: lm-eval's answer to a request that failed.
    """

    title: str
    jobs: Callable[[Sequence[Instance]], Prepare]
    finish: Callable[[Instance, Sequence[Answer], Record], Any]
    blank: Any


class PreparedRequest(NamedTuple):
    """A request with its record and jobs; it has none if it failed, and its record the reason."""

    request: Instance
    record: Record
    jobs: list[Job]


@dataclass(frozen=True)
class RequestKinds:
    """All kinds of requests to a model, and the requests that a run answers.

    Attributes:
        of: lm-eval's method -> the kind of its requests.
        shard: answer only documents of this shard; None for all.
        chosen: task -> the documents of --samples, ascending.
        encode: called with requests before the jobs of each are made.
        counts_rows: whether the forward passes of an answer are known.
    """

    of: Mapping[str, RequestKind]
    shard: Shard | None
    chosen: Mapping[str, Sequence[int]]
    encode: Callable[[Sequence[Instance]], None] = lambda _: None
    counts_rows: bool = True

    def answers(self, request: Instance) -> bool:
        """Returns whether a request's document belongs to this run's shard."""
        return is_in_shard(request, self.shard, self.chosen)

    def prepared(self, kind: str, requests: Sequence[Instance]) -> Iterator[list[PreparedRequest]]:
        """Yields those of `requests` that the run answers, `TOGETHER` at a time.

        Args:
            requests: all requests of their documents, each as often as it is repeated.

        Raises:
            DlmEvalError: an error is not specific to one request.
        """
        own = [request for request in requests if self.answers(request)]
        prepare = self.of[kind].jobs(own)
        records = records_of(own, self.of[kind].title, 0 if self.counts_rows else None)
        for first in range(0, len(own), TOGETHER):
            near = own[first : first + TOGETHER]
            self.encode(near)
            yield [_prepared(prepare, request, next(records)) for request in near]


def _prepared(prepare: Prepare, request: Instance, record: Record) -> PreparedRequest:
    jobs: list[Job] = []
    try:
        if isinstance(request.args[0], UnbuiltPrompt):
            raise SampleError(request.args[0])
        jobs = prepare(request, record)
    except Exception as error:
        record.error = _reason(error)
    return PreparedRequest(request, record, jobs)


def _reason(error: Exception) -> str:
    """Returns why a request failed. `error` can be any exception, since a tokenizer may raise any.

    Raises:
        DlmEvalError: the error is not specific to this request.
    """
    if isinstance(error, SampleError):
        return str(error)
    if isinstance(error, DlmEvalError):
        raise error
    log.warning("a sample failed", exc_info=error)
    return reason_of(error)


class Requests(Protocol):
    """What happens to the requests of a run.

    Attributes:
        kinds: the kinds of requests.
        records: the records of all requests whose answers lm-eval has.
        failed: answers that are errors, by key.
    """

    kinds: RequestKinds
    records: list[Record]
    failed: dict[str, Answer]

    def ahead(self, requests: Sequence[Instance]) -> None:
        """Takes requests before lm-eval asks for their answers."""
        ...

    def answer(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        """Returns lm-eval's answers to requests of one kind."""
        ...

    def stop(self) -> None:
        """Ends the pool's run at once if there is one."""
        ...


class _Asked(NamedTuple):
    """A request whose jobs are passed on, its record, and the keys of the jobs."""

    request: Instance  # which keeps its id its own
    record: Record
    keys: tuple[str, ...]


class AnsweredRequests:
    """`Requests` that are answered from the journal or by a pool.

    Args:
        kinds: the kinds of requests.
        answering: returns who answers jobs; the argument says whether in the background.
        progress: returns the counter of requests with a title.
    """

    def __init__(
        self,
        kinds: RequestKinds,
        answering: Callable[[bool], Answering],
        progress: Callable[[str], Progress],
    ) -> None:
        self.kinds = kinds
        self.records: list[Record] = []
        self.failed: dict[str, Answer] = {}
        self._new_answering, self._new_progress = answering, progress
        # From the first request until the last answer: who answers, the counters by kind, and the
        # requests without an answer by identity, as often as they are repeated.
        self._answering: Answering | None = None
        self._progress: dict[str, Progress] = {}
        self._asked: dict[int, deque[_Asked]] = {}

    def ahead(self, requests: Sequence[Instance]) -> None:
        """Passes the jobs of requests to the pool, which answers them in the background. `answer`
        then only waits.

        Args:
            requests: all requests of some documents, without repeats.

        Raises:
            DlmEvalError: the pool has failed, or an error is not specific to one request.
        """
        if self._answering is None:
            self._answering = self._new_answering(True)
        for kind in dict.fromkeys(request.request_type for request in requests):
            if kind in self.kinds.of:
                own = [request for request in requests if request.request_type == kind]
                # as lm-eval repeats them
                self._ask(kind, [request for request in own for _ in range(request.repeats)])

    def answer(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        """Returns lm-eval's answers to requests, after passing on those that are not yet.

        A request that fails gets the kind's blank, and its record has the reason. A request of
        another shard gets the blank and no record.
        """
        try:
            if self._answering is None:
                self._answering = self._new_answering(False)
            self._ask(kind, [request for request in requests if id(request) not in self._asked])
            asked = [
                self._asked[id(request)].popleft() if self.kinds.answers(request) else None
                for request in requests
            ]
            keys = [key for one in asked if one is not None for key in one.keys]
            found = iter(self._answering.answers(keys))
            results = [
                self.kinds.of[kind].blank
                if one is None
                else self._finish(kind, one, [next(found) for _ in one.keys])
                for one in asked
            ]
            self.records.extend(one.record for one in asked if one is not None)
            self._asked = {key: left for key, left in self._asked.items() if left}
            if not self._asked:
                self._answering.finish()
                self._answering = None
        except BaseException:
            self.stop()
            raise
        self._progress.pop(kind).close()
        return results

    def stop(self) -> None:
        """Ends the pool's run at once if there is one."""
        if self._answering is not None:
            self._answering.stop()
        for counter in self._progress.values():
            counter.close()
        self._answering, self._progress, self._asked = None, {}, {}

    def _ask(self, kind: str, requests: Sequence[Instance]) -> None:
        """Adds the jobs of requests to those that are answered."""
        assert self._answering is not None
        if kind not in self._progress:
            self._progress[kind] = self._new_progress(self.kinds.of[kind].title)
        for near in self.kinds.prepared(kind, requests):
            jobs = [job for one in near for job in one.jobs]
            keys = iter(self._answering.add(jobs, self._progress[kind]))
            for request, record, own in near:
                asked = _Asked(request, record, tuple(next(keys) for _ in own))
                self._asked.setdefault(id(request), deque()).append(asked)

    def _finish(self, kind: str, asked: _Asked, parts: Sequence[Answer]) -> Any:
        """Returns lm-eval's answer to a request from those to its jobs."""
        record = asked.record
        # The journal does not store errors.
        self.failed |= {
            key: part for key, part in zip(asked.keys, parts, strict=True) if part.error is not None
        }
        record.seconds = sum(part.seconds for part in parts)
        if self.kinds.counts_rows:
            record.rows = sum(part.rows for part in parts)
            if record.kind != "likelihood":
                record.computed = total([0, *(part.computed for part in parts)])
        try:
            if not record.error:
                return self.kinds.of[kind].finish(asked.request, parts, record)
        except Exception as error:
            record.error = _reason(error)
        return self.kinds.of[kind].blank
