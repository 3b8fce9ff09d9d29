"""`--model recorded`: scores answers that another harness, engine or paper has written.

    dlm-eval --model recorded --model_args answers=FILE,match=question,text=generation --tasks ...

Filters, metrics, sandbox, result files and boards are those of any run; only the texts come from a
file (`recorded_answers.py`). An answer belongs to a request if both have the same key (`match`).
"""

from __future__ import annotations

import glob
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import hash_string

from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.model_kind import OF_DENOISERS, Loaded, refuse_settings, without
from dlm_eval.harness.plan import DryRun, Plan, TaskPlan, count_documents
from dlm_eval.harness.requests import UnbuiltPrompt
from dlm_eval.harness.results import Record, document_number, records_of
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.journal import Journal
from dlm_eval.options import option, parse_options
from dlm_eval.printable import counted
from dlm_eval.recorded_answers import RecordedAnswer, read_answers
from dlm_eval.rng import digest
from dlm_eval.workers import JournalOnly

NAME = "recorded"
# Settings that say how a model writes; recorded texts are written already.
MEANINGLESS = (
    "device", "devices", "engine", "batch_size", "max_batch_size", "gen_kwargs", "score_only", "shard",
    "apply_chat_template", "system_instruction", "fewshot_as_multiturn",
)  # fmt: skip
SUFFIXES = (".jsonl", ".jsonl.gz", ".json")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RecordedOptions:
    """The options of `--model recorded`."""

    answers: str = option(
        help="file of answers: .jsonl, .jsonl.gz or .json; with --suite also a folder with one for"
        " each entry"
    )
    match: str = option(
        "doc_id",
        help="what an answer and a document have in common: doc_id (the answer's field, else its"
        " place in the file from 0), prompt_hash (sha256 of the prompt, as in samples files), or a"
        " field of both",
    )
    text: str = option("resps", help="field with the text, or with one text per repeat")
    missing: Literal["error", "skip"] = option(
        "error", help="a document without an answer is stored as an error, or left out"
    )
    name: str = option("", help="name of the model in tables; default: that of the file")
    gen_length: int | None = option(None, least=1, help="as the texts were written, if it is known")
    steps: int | None = option(None, least=1, help="likewise")
    block_length: int | None = option(None, least=1, help="likewise")
    temperature: float | None = option(None, least=0, help="likewise")

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> RecordedOptions:
        """Returns the options of --model_args.

        Raises:
            UserError: an option is unknown, missing or not allowed.
        """
        return parse_options(cls, arguments, f"--model {NAME}")

    @property
    def called(self) -> str:
        """The name of the model in folders and tables."""
        return self.name or f"recorded {Path(self.answers).name.partition('.')[0]}"

    @property
    def written(self) -> dict[str, Any]:
        """How the texts were written, as results record it of a run's own answers."""
        given = {name: vars(self)[name] for name in ("gen_length", "steps", "block_length")}
        found = {name: value for name, value in given.items() if value is not None}
        return (
            found
            if self.temperature is None
            else {**found, "decode": {"temperature": self.temperature}}
        )


class RecordedAnswers:
    """`--model recorded`."""

    def names(self) -> set[str]:
        return {NAME}

    def has(self, name: str) -> bool:
        return name in self.names()

    def check_options(self, settings: RunSettings) -> None:
        RecordedOptions.of(settings.model_args)
        names = (*MEANINGLESS, *OF_DENOISERS)
        refuse_settings(settings, names, "whose texts are written already")

    def check_tasks(self, settings: RunSettings, tasks: Mapping[str, Any]) -> None:
        pass  # a likelihood is refused when it is asked for

    def entry_conditions(self, own: Mapping[str, Any]) -> dict[str, Any]:
        return without(own, (*OF_DENOISERS, *MEANINGLESS))

    def entry_arguments(self, arguments: Mapping[str, Any], entry: str) -> Mapping[str, Any]:
        """Returns the options with the entry's file if `answers` is a folder: ENTRY.jsonl,
        ENTRY.jsonl.gz or ENTRY.json in it, or the only such file in its folder ENTRY.
        """
        folder = Path(str(arguments.get("answers", "")))
        if not arguments.get("answers") or not folder.is_dir():
            return arguments
        files = [folder / f"{entry}{suffix}" for suffix in SUFFIXES]
        files += sorted(
            f for f in folder.glob(f"{glob.escape(entry)}/*") if f.name.endswith(SUFFIXES)
        )
        found = [file for file in files if file.is_file()]
        if len(found) != 1:
            raise UserError(
                f"answers '{folder}' has {counted(len(found), 'file')} for entry '{entry}'; it must"
                f" have one: {entry}.jsonl, or one file in a folder {entry}"
            )
        return {"name": folder.resolve().name, **arguments, "answers": str(found[0])}

    def load(self, settings: RunSettings, journal: Journal | None) -> Loaded:
        options = RecordedOptions.of(settings.model_args)
        lm = RecordedLM(options, settings.chosen)
        facts = {
            "family": NAME,
            "checkpoint": options.called,
            "answers": lm.fingerprint,
            "match": options.match,
            "text": options.text,
            "counts": lm.counts,  # complete when the run is
            **options.written,
        }
        return Loaded(options.called, facts, lambda *_: lm, JournalOnly())

    def plan(self, dry: DryRun) -> Plan:
        """Returns the plan of a run, in which answers are read and found as in the run."""
        loaded = self.load(dry.settings, None).under(dry.settings)
        dry.build(loaded)
        plans: dict[str, TaskPlan] = {}
        for record in loaded.records:
            plan = plans.setdefault(record.task, TaskPlan(record.task, record.kind))
            plan.requests += 1
            if record.error is not None:
                plan.refuse(record.error)
            else:
                plan.known += not record.skipped
        count_documents(plans, loaded.records)
        return Plan(loaded.name, "recorded", tuple(plans.values()), 1)


class RecordedLM(LM):  # type: ignore[misc]
    """A file of answers with lm-eval's LM interface.

    Args:
        options: the file, and how its answers are found.
        chosen: task -> the documents of --samples, ascending.
    """

    def __init__(self, options: RecordedOptions, chosen: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self._options, self._chosen = options, chosen
        answers = read_answers(options.answers)
        self._numbered = not any("doc_id" in answer.fields for answer in answers)
        self._texts: dict[str, list[str]] = {}
        self.counts = {"answers": len(answers), "doubled": 0, "missing": 0, "surplus": len(answers)}
        for answer in answers:
            key = self._key_of(answer)
            self.counts["doubled"] += key in self._texts
            self._texts.setdefault(key, answer.texts(options.text))
        self._used: set[str] = set()
        self.fingerprint = digest(NAME, options.match, self._texts)
        self.records: list[Record] = []
        self.failed: dict[str, Any] = {}

    @property
    def device(self) -> str:
        return NAME

    @property
    def tokenizer_name(self) -> str:
        return ""

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return None

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self._refuse(requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        self._refuse(requests)

    def _refuse(self, requests: Sequence[Instance]) -> NoReturn:
        raise UserError(
            f"task '{requests[0].task_name}' asks for likelihoods; --model {NAME} has texts only"
        )

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Returns the recorded text of each request; "" and a record with the reason without one.

        Raises:
            UserError: several tasks would read the same document numbers.
        """
        tasks = sorted({request.task_name or "" for request in requests})
        if self._options.match == "doc_id" and len(tasks) > 1:
            raise UserError(
                f"match=doc_id means one task, and these ask for texts: {', '.join(tasks)}; run"
                " them one by one, each with its file, or match another field"
            )
        records = list(records_of(requests, "generation"))
        found = [self._text(*pair) for pair in zip(requests, records, strict=True)]
        self.records += records
        self._say(records)
        return found

    def _text(self, request: Instance, record: Record) -> str:
        record.rows, record.details = None, dict(self._options.written)
        try:
            if isinstance(request.args[0], UnbuiltPrompt):
                raise SampleError(request.args[0])
            key = self._key_for(request)
            texts = self._texts.get(key, [])
            number = record.repeat  # of a document's requests, unless each is matched by itself
            if self._options.match != "prompt_hash":
                number += request.idx * request.repeats
            if number < len(texts):
                self._used.add(key)
                return texts[number]
            more = f" number {number + 1}" if texts else ""
            raise LookupError(f"no recorded answer{more}")
        except SampleError as error:
            record.error = str(error)
        except LookupError as error:
            self.counts["missing"] += 1
            if self._options.missing == "skip":
                record.skipped = True
            else:
                record.error = str(error.args[0])
        return ""

    def _key_of(self, answer: RecordedAnswer) -> str:
        """Returns the key of an answer."""
        if self._options.match == "doc_id" and self._numbered:
            return _key(answer.number)
        return _key(answer.value(self._options.match))

    def _key_for(self, request: Instance) -> str:
        """Returns the key of the answer that a request asks for.

        Raises:
            SampleError: the document has no such field.
        """
        match = self._options.match
        if match == "doc_id":
            task = request.task_name or ""
            return _key(document_number(task, request.doc_id, self._chosen))
        if match == "prompt_hash":
            return _key(hash_string(request.args[0]))
        if not isinstance(request.doc, Mapping) or match not in request.doc:
            raise SampleError(f"the document has no field '{match}' (match of --model {NAME})")
        return _key(request.doc[match])

    def _say(self, records: Sequence[Record]) -> None:
        """Counts answers that no request asked for, and logs all counts."""
        self.counts["surplus"] = len(self._texts) - len(self._used)
        tasks = Counter(record.task for record in records)
        asked = ", ".join(f"{task}: {counted(n, 'text')}" for task, n in sorted(tasks.items()))
        odd = any(self.counts[name] for name in ("doubled", "missing", "surplus"))
        log.log(
            logging.WARNING if odd else logging.INFO,
            "recorded answers (%s): %d missing, %d surplus, %d doubled (the first counts)",
            asked,
            *(self.counts[name] for name in ("missing", "surplus", "doubled")),
        )


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
