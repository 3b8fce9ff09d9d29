"""The identity of a score: three digests for each task, and notes in the journal.

* configuration: everything except seeds that can change an answer. That is the model, the settings
  that this kind of task uses, the task's prompts with the source code of its functions, and its
  data. Runs of one configuration under several seeds are repetitions.
* fingerprint: the configuration, the seeds, and the documents and examples drawn with them.
* scoring: everything that turns an answer into a metric: filters, metrics, the scorer's source
  code, and targets unless they are part of the prompt.

The journal's keys contain none of these digests. They are hashes, so a run also stores its settings
there. With them --score_only can say which settings differ.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dlm_eval.harness.baseline import LAYOUT
from dlm_eval.harness.lm import by_order
from dlm_eval.harness.model_kind import Loaded
from dlm_eval.harness.repeats import scores_each
from dlm_eval.harness.results import Record, doc_key
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.harness.sources import described
from dlm_eval.journal import Journal
from dlm_eval.printable import counted
from dlm_eval.redaction import redact
from dlm_eval.rng import digest
from dlm_eval.workers import NO_ANSWER

PROMPT = (
    "class", "custom_dataset", "dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "test_split", "process_docs",
    "doc_to_text", "doc_to_choice", "doc_to_image", "doc_to_audio", "use_prompt", "description", "target_delimiter", "fewshot_delimiter",
    "gen_prefix", "output_type", "repeats",
)  # fmt: skip
SCORING = (
    "process_results",
    "metric_list",
    "filter_list",
    "should_decontaminate",
    "doc_to_decontamination_query",
)
BATCH = 1000  # rows per read
LONGEST = 40  # maximum characters of a value that is stored in full
MOST = 5  # maximum number of differences in a message
OF_EXAMPLES = ("examples.", "target", "samples")  # settings that matter only if examples are shown
log = logging.getLogger(__name__)


def digests(
    name: str,
    task: Any,
    loaded: Loaded,
    settings: RunSettings,
    samples: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns the digests of a task as it was run, with its shots and the scored documents."""
    shots = int(task.config.num_fewshot or 0)
    configuration = digest(redact(_configuration(name, task, loaded, settings, shots)))
    numbers = sorted({sample["doc_id"] for sample in samples})
    return {
        "configuration": configuration,
        "fingerprint": digest(configuration, list(settings.seeds), _made(task, shots)),
        "scoring": digest(redact(_scoring(task, settings))),
        "num_fewshot": shots,
        "fewshot_as_multiturn": settings.multiturn,
        "documents": f"first {len(numbers)}"
        if numbers == list(range(len(numbers)))
        else digest(numbers)[:12],
    }


def asked_with(name: str, task: Any, loaded: Loaded, settings: RunSettings) -> dict[str, Any]:
    """Returns the settings that determine a task's answers, by short names, for messages."""
    whole = redact(_configuration(name, task, loaded, settings, int(task.config.num_fewshot or 0)))
    seeds = dict(zip(("python", "numpy", "torch", "fewshot"), settings.seeds, strict=True))
    return readable({**whole.pop("answers"), **whole, "seed": settings.noise_seed, "seeds": seeds})


def _configuration(
    name: str, task: Any, loaded: Loaded, settings: RunSettings, shots: int
) -> dict[str, Any]:
    config = task.config
    chosen = settings.chosen.get(name, [])
    prompted = not (
        task.OUTPUT_TYPE == "loglikelihood_rolling" and type(task).__module__ == "lm_eval.api.task"
    )
    shots = shots if prompted else 0  # a whole text is scored without a prompt
    templated = settings.apply_chat_template if prompted else False
    return {
        "model": {key: value for key, value in loaded.facts.items() if key not in LAYOUT},
        "answers": _how(name, task, loaded, settings),
        "prompt": {key: described(vars(config).get(key)) for key in PROMPT},
        "class": described(type(task)) if type(task).__module__ != "lm_eval.api.task" else None,
        "target": described(config.doc_to_target) if _shows_targets(task, shots) else None,
        "metadata": described(_metadata(task, settings)),
        "num_fewshot": shots,
        "examples": _examples(config) if shots else None,
        # Examples are drawn document by document, so they depend on the choice of documents.
        "samples": chosen if shots and chosen != list(range(len(chosen))) else None,
        "system_instruction": settings.system_text if prompted else None,
        "chat_template": loaded.lm.chat_template(templated) if templated else None,
        "fewshot_as_multiturn": prompted and settings.multiturn,
        "data": _data(task, shots),
    }


def _how(name: str, task: Any, loaded: Loaded, settings: RunSettings) -> dict[str, Any]:
    """Returns the resolved settings of the run that this kind of task uses."""
    writes, rolls = (
        task.OUTPUT_TYPE == "generate_until",
        task.OUTPUT_TYPE == "loglikelihood_rolling",
    )
    if not loaded.ours:
        return {"generation_kwargs": task.config.generation_kwargs} if writes else {}
    if writes:
        decode = loaded.lm.options.decode
        ask = decode.request(task.config.generation_kwargs or {}, name)
        return {
            "decode": decode.resolved(ask).identity(),
            "until": ask.until,
            "length": str(ask.hole.length),
            "overlong": settings.overlong,
        }
    estimator = loaded.lm.options.estimator.for_task(name)
    if not by_order(task):
        # Early stopping is only for tasks that rank choices.
        estimator = estimator.without_question()
    return {
        "estimator": estimator.identity(),
        **({"stride": settings.stride} if rolls else {"overlong": settings.overlong}),
    }


def _shows_targets(task: Any, shots: int) -> bool:
    """Returns whether targets are part of prompts, and not only of the scoring."""
    return (
        bool(shots)
        or task.OUTPUT_TYPE in ("loglikelihood", "loglikelihood_rolling")
        or bool(getattr(task, "multiple_input", 0))
    )


def _examples(config: Any) -> dict[str, Any]:
    shown = (
        vars(config.fewshot_config)
        if not isinstance(config.fewshot_config, Mapping)
        else config.fewshot_config
    )
    return {"fewshot_split": config.fewshot_split, "fewshot_config": described(dict(shown or {}))}


def _metadata(task: Any, settings: RunSettings) -> dict[str, Any]:
    """Returns the metadata that a task's code can read.

    Only a dataset function or a task class can read it; other tasks have none. The model's
    arguments, which lm-eval adds, are excluded, since they belong to the model's identity. The
    version is excluded, since it does not change the prompt.
    """
    if task.config.custom_dataset is None and type(task).__module__ == "lm_eval.api.task":
        return {}
    of_model = set(settings.model_args) - set(settings.metadata)
    hidden = {"version", "config_source", *of_model}
    return {key: value for key, value in (task.config.metadata or {}).items() if key not in hidden}


def _scoring(task: Any, settings: RunSettings) -> dict[str, Any]:
    config = vars(task.config)
    return {
        **{key: described(config.get(key)) for key in SCORING},
        "target": None if _shows_targets(task, shots=0) else described(config.get("doc_to_target")),
        "version": (config.get("metadata") or {}).get("version", task.VERSION),
        **({"repeats": "each answer"} if scores_each(task) else {}),
        **({"vote": sorted(each.label for each in settings.weights)} if settings.weights else {}),
    }


def _data(task: Any, shots: int) -> Any:
    """Returns a digest of the dataset rows of each split that a task uses.

    None if a function makes the rows; the function's source then identifies them.
    """
    if task.config.custom_dataset is not None:
        return None
    config, dataset = task.config, getattr(task, "dataset", None) or {}
    splits = {config.test_split or config.validation_split}
    if shots:
        splits |= {
            task.fewshot_cfg.split
            or config.training_split
            or config.validation_split
            or config.test_split
        }
    return {
        split: content(dataset[split]) for split in sorted(filter(None, splits)) if split in dataset
    }


def _made(task: Any, shots: int) -> list[Any]:
    """Returns digests of the documents and examples that a task's code makes or draws."""
    if (
        task.config.process_docs is None
        and task.config.custom_dataset is None
        and type(task).__module__ == "lm_eval.api.task"
    ):
        return []
    sampler = getattr(task, "sampler", None)
    return [content(task.eval_docs), content(sampler.df) if shots and sampler is not None else None]


def content(rows: Any) -> str:
    """Returns a digest of the values of rows, independent of files and storage format."""
    return digest(*(doc_key(row) for row in _rows(rows)))


def _rows(rows: Any) -> Iterable[Any]:
    import datasets

    if not isinstance(rows, datasets.Dataset):
        yield from rows
        return
    for batch in rows.with_format("arrow").iter(BATCH):  # images and audio stay encoded
        yield from batch.to_pylist()


def note_settings(journal: Journal, task: str, settings: Mapping[str, Any]) -> None:
    """Stores the settings under which `task` was answered."""
    journal.note(f"{_prefix(task)}{digest(settings)[:16]}", dict(settings))


def warn_of_missing(
    journal: Journal, task: str, settings: Mapping[str, Any], records: Iterable[Record]
) -> None:
    """Warns of missing answers of `task`, with the differences to the most similar stored run."""
    asked = [record for record in records if record.task == task]
    absent = sum(record.error == NO_ANSWER for record in asked)
    if not absent:
        return
    missing = f"{task}: {absent} of {counted(len(asked), 'answer', 'are')} not in the journal"
    known = [differences(other, settings) for other in journal.notes(_prefix(task)).values()]
    if not known:
        log.warning("%s, which has no finished run of this task", missing)
    elif nearest := min(known, key=len):
        more = (
            f" and {counted(len(nearest) - MOST, 'other difference')}"
            if len(nearest) > MOST
            else ""
        )
        log.warning(
            "%s; it has answers of a run with %s%s", missing, ", ".join(nearest[:MOST]), more
        )
    else:
        log.warning("%s; a run with the same settings had fewer documents", missing)


def differences(other: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the settings that differ between a stored run and this one."""
    names = [*now, *(name for name in other if name not in now)]
    if other.get("num_fewshot") != now.get("num_fewshot"):
        names = [name for name in names if not name.startswith(OF_EXAMPLES)]
    return [
        f"{name} {other.get(name)} (now {now.get(name)})"
        for name in names
        if other.get(name) != now.get(name)
    ]


def readable(parts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings by dotted name. Long values are replaced by a digest."""
    found: dict[str, Any] = {}
    for name, value in parts.items():
        if isinstance(value, Mapping):
            found |= readable(value, f"{prefix}{name}.")
        else:
            plain = value if isinstance(value, (bool, int, float, type(None))) else str(value)
            found[prefix + name] = plain if len(str(plain)) <= LONGEST else f"#{digest(plain)[:8]}"
    return found


def _prefix(task: str) -> str:
    return f"asked:{task}:"
