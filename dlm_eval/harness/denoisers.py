"""Our denoisers as models of a run: their options, their pool, and their dry run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from dlm_eval import models
from dlm_eval.budget import DeviceProfile, make_engine
from dlm_eval.decoding import resolve
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.canvas_jobs import Options
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.decode_layers import user_layer
from dlm_eval.harness.decode_warnings import check_requests
from dlm_eval.harness.denoiser_plan import CanvasCount, measured, memory
from dlm_eval.harness.infill import check_drafts
from dlm_eval.harness.lm import DiffusionLM, chosen_template
from dlm_eval.harness.model_kind import Loaded
from dlm_eval.harness.plan import CountedRequests, DryRun, Plan, TaskPlan
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.journal import Journal
from dlm_eval.models import checkpoints, find_checkpoint, known_families, option_names, process_of
from dlm_eval.models.denoiser import ChatTemplates, Denoiser, offers
from dlm_eval.redaction import redact
from dlm_eval.rng import digest
from dlm_eval.workers import InProcess, JournalOnly, Pool
from dlm_eval.workers.devices import single_device, worker_devices
from dlm_eval.workers.driver import start_workers
from dlm_eval.workers.messages import WorkerConfig

log = logging.getLogger(__name__)
# Messages that test a chat template.
USER = {"role": "user", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Answer."}


class Denoisers:
    """Families, named checkpoints, and files with a model's code."""

    def names(self) -> set[str]:
        return {*known_families(), *checkpoints()}

    def has(self, name: str) -> bool:
        return name in self.names() or (name.endswith(".py") and os.path.isfile(name))

    def check_options(self, settings: RunSettings) -> None:
        _check_device(settings, here=not settings.dry_run and not settings.score_only)
        settings.parsed_estimator  # noqa: B018  (raises its errors)
        user = {k: v for k, v in _user_layer(settings).items() if (k, v) != ("preset", "authors")}
        process = process_of(settings.model, settings.model_args)
        options = DecodeOptions.before_loading(user, settings.model, settings.model_args)
        ask = options.request({})
        if ask.hole.length.tokens in (None, options.default_length):  # a task may set it
            decode = resolve(*ask.layers)
        else:
            decode = options.settings(ask, ask.hole.length.tokens)
        if process is not None:
            decode.check_process(process)

    def check_tasks(self, settings: RunSettings, tasks: Mapping[str, Any]) -> None:
        _check_chat(settings, tasks)
        options = DecodeOptions.before_loading(
            _user_layer(settings), settings.model, settings.model_args
        )
        check_requests(options, tasks)
        check_drafts(options, tasks)

    def entry_conditions(self, own: Mapping[str, Any]) -> dict[str, Any]:
        return dict(own)

    def entry_arguments(self, arguments: Mapping[str, Any], entry: str) -> Mapping[str, Any]:
        return arguments

    def load(self, settings: RunSettings, journal: Journal | None) -> Loaded:
        model, pool, earlier = _model_and_pool(settings, journal)
        facts = redact(model.describe())
        known = checkpoints().get(str(facts.get("checkpoint")))
        if known is not None and known.chat and not settings.apply_chat_template:
            log.warning(
                "%s was tuned for chat; without --apply_chat_template its prompts are bare text",
                known.name,
            )
        name = _name(settings, facts)
        if journal is not None:
            journal.note(f"model:{digest(facts)}", name)  # equals DiffusionLM.fingerprint

        def close() -> None:
            profile = earlier.and_then(pool.profile())
            if journal is not None and profile != earlier:
                names = sorted({str(device["name"]) for device in pool.devices()})
                described = {"model": digest(facts), "devices": names}
                journal.note(_profile_note(settings), {**profile.plain(), **described})
            pool.close()

        return Loaded(name, facts, _lm, pool, journal, model, close=close)

    def plan(self, dry: DryRun) -> Plan:
        settings, journal = dry.settings, dry.journal
        model = models.load_without_weights(settings.model, **_arguments(settings))
        facts = redact(model.describe())
        name, fingerprint = _name(settings, facts), digest(facts)
        plans: dict[str, TaskPlan] = {}

        def lm_of(loaded: Loaded, settings: RunSettings, by_order: frozenset[str]) -> DiffusionLM:
            lm = _lm(loaded, settings, by_order)
            counted = CountedRequests(
                lm.requests.kinds, fingerprint, journal, CanvasCount(model), plans
            )
            lm.requests = counted
            return lm

        dry.build(Loaded(name, facts, lm_of, JournalOnly(), model=model))
        tasks = tuple(plans.values())
        devices = dry.devices()
        try:
            _check_device(settings)
        except UserError as error:
            dry.notes.append(f"a run on this machine would be refused: {error}")
        profile, rate = measured(journal, _profile_note(settings), fingerprint)
        left = sum(task.positions_left for task in tasks)
        return Plan(
            name,
            "jobs",
            tasks,
            devices,
            dry.journal_path,
            memory(model, facts, tasks, profile.footprint),
            rate,
            left / rate.per_second / devices / 3600 if rate is not None else None,
        )


def _user_layer(settings: RunSettings) -> dict[str, Any]:
    """Returns the user's decode settings; a vote over steps needs the text of each step."""
    user = user_layer(settings.gen_kwargs, settings.decode)
    return {**user, "step_texts": True} if settings.vote is not None else user


def _check_device(settings: RunSettings, here: bool = True) -> None:
    """Raises UserError if the model cannot run on the one device that the settings name."""
    if settings.device is not None:
        models.check_device(settings.model, settings.device, "--device", here)
    elif "device" in settings.model_args:
        device = str(settings.model_args["device"])
        models.check_device(settings.model, device, "model_args device", here)


def _check_chat(settings: RunSettings, tasks: Mapping[str, Any]) -> None:
    """Raises UserError if the chat template is missing or cannot render the run's messages."""
    if (
        not settings.apply_chat_template
        or find_checkpoint(settings.model).family not in known_families()
    ):
        return
    model = models.load_without_weights(settings.model, **settings.model_args)
    template = chosen_template(model, settings.apply_chat_template)
    _render(model, [USER], template, "--apply_chat_template")
    described = [name for name, task in tasks.items() if task.config.description]
    if settings.system_instruction:
        _render(model, [SYSTEM, USER], template, "--system_instruction")
    elif described:
        _render(
            model,
            [SYSTEM, USER],
            template,
            f"task '{described[0]}' has a description, which is a system message",
        )


def _render(
    model: Denoiser, messages: list[dict[str, str]], template: str | None, setting: str
) -> None:
    try:
        if template is None:
            model.apply_chat_template(messages)
        elif offers(model, ChatTemplates):
            cast(ChatTemplates, model).apply_chat_template(messages, True, template)
    except SampleError as error:
        raise UserError(f"{setting}: {error}") from None


def _lm(loaded: Loaded, settings: RunSettings, by_order: frozenset[str]) -> DiffusionLM:
    assert loaded.model is not None
    options = _options(loaded.model, settings, by_order)
    return DiffusionLM(loaded.model, loaded.pool, options, loaded.journal)


def _options(model: Denoiser, settings: RunSettings, by_order: frozenset[str]) -> Options:
    """Returns the options of a run's DiffusionLM."""
    decode = DecodeOptions.of(_user_layer(settings), model)
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


def _name(settings: RunSettings, facts: Mapping[str, Any]) -> str:
    """Returns the model's name in result folders and tables."""
    return str(
        facts.get("checkpoint")
        or facts.get("pretrained")
        or Path(settings.model).name.removesuffix(".py")
    )


def _arguments(settings: RunSettings) -> dict[str, Any]:
    """Returns the options of the model."""
    device = {} if settings.device is None else {"device": settings.device}
    return {**settings.model_args, **device}


def _profile_note(settings: RunSettings) -> str:
    """Returns the journal's name of measurements on the devices of a run."""
    arguments = _arguments(settings)
    where = f"{settings.engine} {settings.devices or arguments.get('device') or 'auto'}"
    return f"learned:{digest(settings.model, sorted(map(str, redact(arguments).items())), where)}"


def _model_and_pool(
    settings: RunSettings, journal: Journal | None
) -> tuple[Denoiser, Pool, DeviceProfile]:
    """Returns the driver's model, its pool, and the measurements of earlier runs."""
    arguments = _arguments(settings)
    without_weights = partial(models.load_without_weights, settings.model, **arguments)
    if settings.score_only:
        return without_weights(), JournalOnly(), DeviceProfile()
    devices = worker_devices(settings.devices, settings.engine, settings.ray_address)
    profile = DeviceProfile()
    if journal is not None:
        profile = DeviceProfile.of(journal.noted(_profile_note(settings)))
    batch_size, most = settings.batch_size or "auto", settings.max_batch_size
    if devices:
        model = without_weights()
        config = WorkerConfig(
            settings.model, arguments, batch_size, profile, settings.verbosity or "WARNING", most
        )
        pool = start_workers(config, devices, settings.engine, settings.ray_address)
        return model, pool, profile
    takes = option_names(settings.model)
    arguments |= {
        key: value for key, value in single_device(settings.devices).items() if key in takes
    }
    model = models.load_model(settings.model, **arguments)
    return model, InProcess(make_engine(model, batch_size, profile, most)), profile
