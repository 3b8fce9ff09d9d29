"""The settings of one run, with the names of the command line and of `evaluate`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.harness.setting_checks import check_each, check_samples, check_together
from dlm_eval.harness.shard import Shard
from dlm_eval.redaction import learn
from dlm_eval.settings import attribute_docs, cast_value, describe, parse_pairs, shown

if TYPE_CHECKING:
    from dlm_eval.decoding.step_votes import StepWeight
    from dlm_eval.likelihood import TaskEstimators

DEFAULT_SEEDS = (0, 1234, 1234, 1234)  # lm-eval's: python, numpy, torch, few-shot
MAPPINGS = ("model_args", "decode", "gen_kwargs", "metadata", "hf_hub_log_args")
PLAIN = (str, int, float, bool, types.NoneType)


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run. Options of lm-eval have lm-eval's names and meanings.

    The lines below are also the help of lm-eval's options on the command line, the docstring of
    `evaluate` and the reference (docs).

    Attributes:
        model: family, named checkpoint, packaged baseline or lm-eval model.
        tasks: names, globs or YAML paths; from Python also configurations and task objects, as in
            lm-eval.
        model_args: the model's own options.
        estimator: "NAME[,k=v]" for likelihoods; "preset=authors[,k=v]" for those of the
            checkpoint's authors.
        decode: the user's decode settings, which override the task's.
        gen_kwargs: lm-eval's generation settings; for our models `decode` overrides them.
        num_fewshot: examples in each prompt (default: the task's own number).
        repeats: answers to each document of a task that generates text; each is scored
            (`harness/repeats.py`; default: the task's own number).
        vote: weights of votes over the steps of each answer, as 'fixed,linear,exp=5'
            (`harness/votes.py`; default: no vote).
        limit: number of documents of each task, from the first, or a fraction of them below 1
            (default: all).
        samples: task -> numbers of the documents to ask, from 0 (on the command line JSON, or a file
            of it); not with `limit`.
        batch_size: rows of a batch, at most, or 'auto' for as many as fit (default: auto; of lm-eval's
            models 1).
        max_batch_size: rows of a batch, at most, with batch_size 'auto'.
        device: device of the model ('cpu', 'cuda', 'cuda:1', 'mps'; default: the best one).
        devices: worker processes: 'auto', 'cpu:2' or '0,1' (default: one device, in this process).
        engine: 'local' or 'ray' (workers as Ray actors).
        ray_address: address of a Ray cluster (default: $RAY_ADDRESS, else a cluster on this
            machine).
        seed: of python (and of all sampling), numpy, torch and few-shot examples; one number stands for
            all four, and None leaves one unset.
        data_dir: folder of local datasets, which are used before the hub.
        include_path: folder, or folders, of further task YAMLs.
        log_samples: whether samples_*.jsonl are saved.
        log_trajectories: log for each answer at which step each token was committed, and its
            confidence.
        output_path: directory for results, or a name ending in .json (default: `results`, and
            from Python None, which saves nothing).
        resume: use the answers in the journal of `output_path`.
        score_only: use only the journal's answers: run filters and metrics, but not the model.
        dry_run: count what the run would do, and run nothing.
        shard: 'I/N': answer only the documents of one of N shards, for `dlm-eval merge`.
        apply_chat_template: make prompts of chat messages with the tokenizer's template, or with the
            template of this name.
        system_instruction: text of the system message.
        fewshot_as_multiturn: show few-shot examples as turns of a conversation (default: if a chat
            template is used).
        confirm_run_unsafe_code: allow generated code to run in the sandbox.
        unsandboxed: with `confirm_run_unsafe_code`, allow tasks that cannot use the sandbox to run
            code without protection.
        predict_only: answer, and compute no metrics.
        write_out: log the first prompts.
        bootstrap_iters: resamples for standard errors without a closed form (lm-eval's 100000 take
            hours for F1).
        stride: number of tokens that each window after the first scores if a text is longer than
            the model's maximum (loglikelihood_rolling).
        overlong: 'truncate' (cut the context from the left and count the tokens) or 'error' (store
            an error for the sample).
        sandbox: kind of sandbox for generated code ('namespaces', 'plain'; docs/reference/sandbox.md), or
            'auto' for the best one of this machine.
        metadata: settings that tasks read (`judge`, `max_seq_lengths`, ...), in place of those of their
            YAMLs.
        hf_hub_log_args: lm-eval's settings for pushing results to the hub.
        verbosity: lowest level of the log that is shown: DEBUG, INFO, WARNING, ERROR or CRITICAL
            (default: $LMEVAL_LOG_LEVEL, else WARNING).
        label: the run's name on boards (default: what differs between the runs). It changes no
            answer.
    """

    model: str
    tasks: tuple[Any, ...]
    model_args: Mapping[str, Any] = field(default_factory=dict)
    estimator: str = "auto"
    decode: Mapping[str, Any] = field(default_factory=dict)
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_fewshot: int | None = None
    repeats: int | None = None
    vote: str | None = None
    limit: float | None = None
    samples: Mapping[str, Sequence[int]] | None = None
    batch_size: str | int | None = None
    max_batch_size: int | None = None
    device: str | None = None
    devices: str | None = None
    engine: str = "local"
    ray_address: str | None = None
    seed: Sequence[int | None] = DEFAULT_SEEDS
    data_dir: str | None = None
    include_path: str | Sequence[str] | None = None
    output_path: str | None = None
    log_samples: bool = True
    log_trajectories: bool = False
    resume: bool = True
    score_only: bool = False
    dry_run: bool = False
    shard: str | None = None
    stride: int | None = None
    overlong: Literal["truncate", "error"] = "truncate"
    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    confirm_run_unsafe_code: bool = False
    unsandboxed: bool = False
    sandbox: str = "auto"
    predict_only: bool = False
    write_out: bool = False
    bootstrap_iters: int = 200
    metadata: Mapping[str, Any] = field(default_factory=dict)
    hf_hub_log_args: Mapping[str, Any] = field(default_factory=dict)
    verbosity: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        check_each(self)
        check_together(self)
        check_samples(self.samples)

    @property
    def weights(self) -> tuple[StepWeight, ...]:
        """The weights of `vote`, none without it.

        Raises:
            UserError: `vote` is not allowed.
        """
        if self.vote is None:
            return ()
        from dlm_eval.decoding.step_votes import parse_weights  # imports torch

        return parse_weights(self.vote)

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The four seeds: python (also the seed of all our noise), numpy, torch, few-shot."""
        return tuple(self.seed)

    @property
    def part(self) -> Shard | None:
        """The shard of the documents to answer; None for all documents.

        Raises:
            UserError: `shard` is not I/N.
        """
        return None if self.shard is None else Shard.parse(self.shard)

    @property
    def scores(self) -> bool:
        """Whether the run computes metrics."""
        return not self.predict_only and self.shard is None

    @property
    def quiet(self) -> bool:
        """Whether only errors are shown."""
        return (self.verbosity or os.environ.get("LMEVAL_LOG_LEVEL") or "").upper() in (
            "ERROR",
            "CRITICAL",
        )

    @property
    def chosen(self) -> dict[str, list[int]]:
        """The documents of `samples`, ascending and unique."""
        return {name: sorted(set(numbers)) for name, numbers in (self.samples or {}).items()}

    @property
    def multiturn(self) -> bool:
        """Whether few-shot examples are turns of a conversation; by default if a chat template is
        used.
        """
        turns = self.fewshot_as_multiturn
        return bool(self.apply_chat_template) if turns is None else turns

    @property
    def system_text(self) -> str | None:
        """The system instruction, with the separator that lm-eval omits without a template."""
        text = self.system_instruction
        return (
            text
            if text is None or self.apply_chat_template or text.endswith("\n")
            else text + "\n\n"
        )

    @functools.cached_property
    def parsed_estimator(self) -> TaskEstimators:
        """The estimator of likelihoods, or that of each task (`likelihood.presets`).

        Raises:
            UserError: its name or an option is not allowed.
        """
        from dlm_eval.likelihood import parse_estimators

        return parse_estimators(self.estimator)

    @property
    def noise_seed(self) -> int:
        """Seed of all sampling."""
        return self.seeds[0] or 0


def settings_docs() -> dict[str, str]:
    """Returns name -> meaning and default of every setting, from the docstring and the fields."""
    said = attribute_docs(inspect.getdoc(RunSettings) or "")
    return {
        own.name: said.get(own.name, "").rstrip(".") + _default_of(own)
        for own in dataclasses.fields(RunSettings)
    }


def _default_of(own: dataclasses.Field[Any]) -> str:
    """Returns " (default: VALUE)"; "" if there is none, or if it is None or False."""
    if own.default is dataclasses.MISSING or own.default is None or own.default is False:
        return ""
    value = own.default
    shown_as = ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
    return f" (default: {shown_as})"


def run_settings(values: Mapping[str, Any]) -> RunSettings:
    """Returns the settings for a mapping of names to values.

    Raises:
        UserError: a setting is unknown (the message has the nearest name), or a value is not
            allowed.
    """
    names = [f.name for f in dataclasses.fields(RunSettings)]
    for key in values:
        if key not in names:
            raise unknown_name_error("setting", key, names)
    given = {key: value for key, value in values.items() if value is not None}
    given["tasks"] = _tasks(given.get("tasks"))
    for key in MAPPINGS:
        given[key] = _pairs(given.get(key), f"--{key}")
    learn({key: given[key] for key in MAPPINGS})
    if isinstance(given.get("samples"), str):
        given["samples"] = _read_samples(given["samples"])
    given["seed"] = parse_seeds(given.get("seed"))
    if "model" not in given:
        raise UserError("--model is missing (`dlm-eval ls models` lists them)")
    for key, hint in _plain_settings().items():
        if key in given:
            _check_type(given[key], hint, f"--{key}")
            given[key] = cast_value(given[key], hint, f"--{key}")
    given["include_path"] = _folders(given.get("include_path"))
    return RunSettings(**given)


@functools.cache
def _plain_settings() -> dict[str, Any]:
    """Returns the type annotations of settings that hold one text, number or boolean."""
    hints = typing.get_type_hints(RunSettings)
    options = {name: typing.get_args(hint) or (hint,) for name, hint in hints.items()}
    return {name: hints[name] for name in hints if all(option in PLAIN for option in options[name])}


def _check_type(value: Any, hint: Any, setting: str) -> None:
    """Raises UserError unless `value` is one text, number or boolean; a list would become text."""
    options = typing.get_args(hint) or (hint,)
    if isinstance(value, bool) and bool not in options:
        raise UserError(f"{setting} '{value}' is not allowed; it must be {describe(options)}")
    if not isinstance(value, (str, int, float, Path)):
        raise UserError(
            f"{setting} '{shown(value)}' is not allowed; it must be {describe(options)}"
        )


def _folders(value: Any) -> str | list[str] | None:
    """Returns the folder or the list of folders of --include_path."""
    if value is None or isinstance(value, (str, Path)):
        return None if value is None else str(value)
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(folder, (str, Path)) for folder in value
    ):
        raise UserError(
            f"--include_path '{shown(value)}' is not allowed; it must be a folder, or a list of "
            "folders"
        )
    return [str(folder) for folder in value]


def _tasks(value: Any) -> tuple[Any, ...]:
    """Returns single task names; configurations and task objects are returned unchanged."""
    parts = (
        list(value) if isinstance(value, (list, tuple)) else [value] if value is not None else []
    )
    if wrong := next(
        (part for part in parts if part is None or isinstance(part, (bool, int, float))), None
    ):
        raise UserError(
            f"--tasks '{wrong}' is not allowed; it must be names of tasks or their configurations"
        )
    texts = [part.split(",") if isinstance(part, str) else [part] for part in parts]
    return tuple(
        name.strip() if isinstance(name, str) else name
        for names in texts
        for name in names
        if not isinstance(name, str) or name.strip()
    )


def _pairs(value: Any, setting: str) -> Mapping[str, Any]:
    if value is None or isinstance(value, Mapping):
        if odd := [key for key in value or () if not isinstance(key, str)]:
            raise UserError(
                f"{setting} '{shown(odd[0])}' is not allowed as a name; it must be text"
            )
        return value or {}
    return parse_pairs(
        ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value), setting
    )


def parse_seeds(value: Any) -> tuple[int | None, ...]:
    """Returns the four seeds of --seed, or lm-eval's if it is None."""
    if value is None:
        return DEFAULT_SEEDS
    parts = (
        list(value) if isinstance(value, (list, tuple)) else re.split(r"[,\s]+", str(value).strip())
    )
    try:
        seeds = [
            None if part is None or str(part).lower() == "none" else int(part) for part in parts
        ]
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"--seed '{shown(value)}' is not allowed; it must be one to four whole numbers"
        ) from error
    if len(seeds) == 1:
        seeds *= 4
    if not 1 < len(seeds) <= 4:
        raise UserError(f"--seed '{value}' is not allowed; it must be one to four whole numbers")
    return tuple([*seeds, *DEFAULT_SEEDS[len(seeds) :]])


def _read_samples(text: str) -> Any:
    """Returns --samples from the named JSON file, as in lm-eval."""
    try:
        return json.loads(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--samples '{text}' is neither JSON nor a readable file: {error.strerror}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--samples '{text}' is not JSON: {error}") from error


def output_directory(output_path: str) -> Path:
    """Returns the directory for results, journal and leaderboard, after checking that it is
    writable.

    Raises:
        UserError: it cannot be created or written.
    """
    path = Path(output_path)
    directory = path.parent if path.suffix == ".json" else path
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".dlm_eval_write_test"
        probe.write_text("")
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise UserError(
            f"--output_path '{output_path}' cannot be written: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error
    return directory
