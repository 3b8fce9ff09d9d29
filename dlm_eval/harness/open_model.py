"""Opens `--model`: one of our denoisers, a packaged baseline, or any model of lm-eval."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from dlm_eval import models
from dlm_eval.budget import DeviceProfile, make_engine
from dlm_eval.engine import Cost
from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.harness.baseline import Baseline, TextLM, TextOptions
from dlm_eval.harness.decode_config import DecodeOptions, user_layer
from dlm_eval.harness.lm import DiffusionLM, Options, chosen_template
from dlm_eval.harness.recorded import NAME as RECORDED
from dlm_eval.harness.recorded import RecordedLM, RecordedOptions
from dlm_eval.harness.results import Record
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.journal import Journal
from dlm_eval.models import baselines, check_supported, checkpoints, known_families, option_names
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.redaction import redact
from dlm_eval.rng import digest
from dlm_eval.signals import last_duty
from dlm_eval.workers import InProcess, JournalOnly, Pool
from dlm_eval.workers.devices import Device, single_device, worker_devices
from dlm_eval.workers.driver import start_workers
from dlm_eval.workers.messages import WorkerConfig
from dlm_eval.workers.texts import TextInProcess, TextModel, batch_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spent:
    """The cost of earlier runs for the answers: device cost, and seconds from start to end."""

    device: Cost = field(default_factory=Cost)
    wall_seconds: float = 0.0


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be evaluated; several runs can share it.

    Attributes:
        name: the model's name in result folders and tables.
        facts: the model's identity in results.
        close: stores the device profile for the next run and ends the workers.
        lm: lm-eval's LM. `under` makes that of a run. Before that it is None for our denoisers.
        model: the denoiser; None for lm-eval's own models.
        pool: runs the model.
        journal: stores the model's answers.
        spent: cost of the shards, if this run merges them.
        baseline: the description of lm-eval's own model; None for our denoisers.
    """

    name: str
    facts: dict[str, Any]
    close: Callable[[], None] = lambda: None
    lm: Any = None
    model: Denoiser | None = None
    pool: Pool | None = None
    journal: Journal | None = None
    spent: Spent = Spent()
    baseline: Baseline | None = None

    @property
    def ours(self) -> bool:
        """Whether it is one of our denoisers."""
        return self.model is not None

    @property
    def records(self) -> list[Record]:
        """The records of the run's requests."""
        return list(self.lm.records)

    def under(self, settings: RunSettings, by_order: frozenset[str] = frozenset()) -> Loaded:
        """Returns the model for one run. It shares weights, devices and journal, but has its own
        records.

        Args:
            by_order: tasks whose scores depend only on the order of choices.
        """
        if self.pool is None:  # recorded answers
            return self
        if self.model is None:
            assert self.baseline is not None
            rest = TextOptions(settings.noise_seed, settings.quiet, settings.part, settings.chosen)
            lm = TextLM(self.lm, self.baseline, self.pool, rest, self.journal)
            return replace(self, lm=lm)
        options = _options(self.model, settings, by_order)
        return replace(self, lm=DiffusionLM(self.model, self.pool, options, self.journal))


@contextmanager
def open_model(settings: RunSettings, home: Path | None) -> Iterator[Loaded]:
    """Yields the model of a run, with the journal in `home`; closes both at the end.

    Raises:
        UserError: an option or the checkpoint cannot be used.
    """
    journal = Journal(home / "journal.sqlite") if home and settings.resume else None
    with ExitStack() as stack:
        if journal is not None:
            stack.callback(journal.close)
            stack.enter_context(last_duty(journal.commit))
        loaded = (
            _load_ours(settings, journal)
            if is_ours(settings.model)
            else _load_recorded(settings)
            if settings.model == RECORDED
            else _load_baseline(settings, journal)
        )
        stack.callback(loaded.close)
        if loaded.pool is not None:
            stack.enter_context(last_duty(loaded.pool.close))
        # Garbage collection over the model and libraries would take 10 % of the harness's time.
        gc.freeze()
        stack.callback(gc.unfreeze)
        yield loaded


def check_model_name(name: str) -> None:
    """Raises UserError with the nearest name if neither dlm_eval nor lm-eval has the model."""
    names = _known()
    if name not in names and not _is_file(name):
        check_supported(name)
        if name.endswith(".py"):
            raise UserError(f"--model '{name}': no such file")
        raise unknown_name_error("--model", name, names, "dlm-eval ls models")


def _known() -> set[str]:
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    return {*known_families(), *checkpoints(), *baselines(), *model_registry.keys(), RECORDED}


def is_ours(name: str) -> bool:
    """Returns whether a model is one of our denoisers, not one of lm-eval's models."""
    return name in known_families() or name in checkpoints() or _is_file(name)


def _is_file(name: str) -> bool:
    return name.endswith(".py") and os.path.isfile(name)


def _load_ours(settings: RunSettings, journal: Journal | None) -> Loaded:
    model, pool, earlier, note = _model_and_pool(settings, journal)
    facts = redact(model.describe())
    known = checkpoints().get(str(facts.get("checkpoint")))
    if known is not None and known.chat and not settings.apply_chat_template:
        log.warning(
            "%s was tuned for chat; without --apply_chat_template its prompts are bare text",
            known.name,
        )
    name = str(
        facts.get("checkpoint")
        or facts.get("pretrained")
        or Path(settings.model).name.removesuffix(".py")
    )
    if journal is not None:
        journal.note(f"model:{digest(facts)}", name)  # equals DiffusionLM.fingerprint

    def close() -> None:
        profile = earlier.and_then(pool.profile())
        if journal is not None and profile != earlier:
            names = sorted({str(device["name"]) for device in pool.devices()})
            described = {"model": digest(facts), "devices": names}
            journal.note(note, {**profile.plain(), **described})
        pool.close()

    return Loaded(name, facts, close, None, model, pool, journal)


def _options(model: Denoiser, settings: RunSettings, by_order: frozenset[str]) -> Options:
    """Returns the options of a run's DiffusionLM."""
    decode = DecodeOptions.of(user_layer(settings.gen_kwargs, settings.decode), model)
    return Options(
        settings.parsed_estimator.for_model(decode.checkpoint, decode.family),
        decode,
        settings.noise_seed,
        settings.stride,
        settings.overlong,
        quiet=settings.quiet,
        template=chosen_template(model, settings.apply_chat_template),
        by_order=by_order,
        shard=settings.part,
        chosen=settings.chosen,
        trajectories=settings.log_trajectories,
    )


def _model_and_pool(
    settings: RunSettings, journal: Journal | None
) -> tuple[Denoiser, Pool, DeviceProfile, str]:
    """Returns the driver's model, its pool, the stored device profile and the profile's name."""
    arguments = dict(settings.model_args)
    if settings.device is not None:
        arguments["device"] = settings.device
    if settings.score_only:
        return (
            models.load_without_weights(settings.model, **arguments),
            JournalOnly(),
            DeviceProfile(),
            "",
        )
    devices = worker_devices(settings.devices, settings.engine, settings.ray_address)
    where = f"{settings.engine} {settings.devices or arguments.get('device') or 'auto'}"
    note = f"learned:{digest(settings.model, sorted(map(str, redact(arguments).items())), where)}"
    profile = DeviceProfile.of(journal.noted(note)) if journal is not None else DeviceProfile()
    batch_size, most = settings.batch_size or "auto", settings.max_batch_size
    if devices:
        model = models.load_without_weights(settings.model, **arguments)
        config = WorkerConfig(
            settings.model, arguments, batch_size, profile, settings.verbosity or "WARNING", most
        )
        return (
            model,
            start_workers(config, devices, settings.engine, settings.ray_address),
            profile,
            note,
        )
    takes = option_names(settings.model)
    arguments |= {
        key: value for key, value in single_device(settings.devices).items() if key in takes
    }
    model = models.load_model(settings.model, **arguments)
    return model, InProcess(make_engine(model, batch_size, profile, most)), profile, note


def _load_recorded(settings: RunSettings) -> Loaded:
    """Returns a file of answers in place of a model."""
    options = RecordedOptions.of(settings.model_args)
    lm = RecordedLM(options, settings.chosen)
    facts = {
        "family": RECORDED,
        "checkpoint": options.called,
        "answers": lm.fingerprint,
        "match": options.match,
        "text": options.text,
        "counts": lm.counts,  # complete when the run is
    }
    return Loaded(options.called, facts, lm=lm)


def _load_baseline(settings: RunSettings, journal: Journal | None) -> Loaded:
    """Returns lm-eval's model with its pool."""
    devices = (
        []
        if settings.score_only
        else worker_devices(settings.devices, settings.engine, settings.ray_address)
    )
    lm: LM
    pool: Pool
    if devices or settings.score_only:
        baseline = Baseline.of(settings, settings.device)
        lm, pool = baseline.load_without_weights(), JournalOnly()
        if devices:
            pool = _text_workers(baseline, settings, devices)
    else:
        place = single_device(settings.devices)
        baseline = Baseline.of(settings, settings.device or place.get("device"))
        lm = baseline.load()
        pool = TextInProcess(TextModel(lm, batch_rows(settings.batch_size)))
    if journal is not None:
        journal.note(f"model:{baseline.fingerprint}", baseline.checkpoint)
    return Loaded(
        baseline.checkpoint,
        baseline.facts,
        pool.close,
        lm,
        pool=pool,
        journal=journal,
        baseline=baseline,
    )


def _text_workers(baseline: Baseline, settings: RunSettings, devices: Sequence[Device]) -> Pool:
    config = WorkerConfig(
        baseline.name,
        baseline.arguments,
        settings.batch_size or 1,
        verbosity=settings.verbosity or "WARNING",
        most_rows=settings.max_batch_size,
        texts=True,
    )
    return start_workers(config, devices, settings.engine, settings.ray_address)
