"""From `--model` to something that answers lm-eval's requests: one of our denoisers, a packaged baseline, or any model that lm-eval knows."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError, unknown
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.journal import Journal
from dlm_eval.models import baselines, checkpoints, known_families, option_names, packaged_asset
from dlm_eval.noise import digest
from dlm_eval.redaction import redact, redact_text

if TYPE_CHECKING:
    from dlm_eval.budget import Learned
    from dlm_eval.harness.lm import DiffusionLM
    from dlm_eval.models.denoiser import Denoiser
    from dlm_eval.pool import Pool

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model ready to be evaluated.

    Attributes:
        lm: lm-eval's view of it.
        name: what result folders and tables call it.
        facts: what identifies it in a result.
        ours: whether it is a DiffusionLM.
        close: ends its workers, after noting for the next run what they learned.
    """

    lm: Any
    name: str
    facts: dict[str, Any]
    ours: bool
    close: Callable[[], None] = lambda: None


def check_model_name(name: str) -> None:
    """Raises UserError, with the nearest name, where neither we nor lm-eval know the model."""
    from dlm_eval.models import check_supported

    names = _known()
    if name not in names and not _is_file(name):
        check_supported(name)
        if name.endswith(".py"):
            raise UserError(f"--model '{name}': no such file")
        raise unknown("--model", name, names, "dlm-eval ls models")


def _known() -> set[str]:
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    return {*known_families(), *checkpoints(), *baselines(), *model_registry.keys()}


def is_ours(name: str) -> bool:
    """Returns whether a known model is one of our denoisers, not one of lm-eval's."""
    return name in known_families() or name in checkpoints() or _is_file(name)


def _is_file(name: str) -> bool:
    return name.endswith(".py") and os.path.isfile(name)


def load(settings: RunSettings, journal: Journal | None) -> Loaded:
    """Returns the model of a run.

    Raises:
        UserError: an option or checkpoint that cannot be used.
    """
    return _load_ours(settings, journal) if is_ours(settings.model) else _load_baseline(settings)


def adapt(loaded: Loaded, settings: RunSettings) -> Loaded:
    """Returns a loaded model under the settings of another run: the weights, the devices and the journal are shared, records are its own."""
    if not loaded.ours:
        return loaded
    return replace(loaded, lm=_language_model(loaded.lm.model, loaded.lm.pool, settings, loaded.lm.journal))


def _load_ours(settings: RunSettings, journal: Journal | None) -> Loaded:
    model, pool, earlier, note = _model_and_pool(settings, journal)
    facts = redact(model.describe())
    known = checkpoints().get(str(facts.get("checkpoint")))
    if known is not None and known.chat and not settings.apply_chat_template:
        log.warning("%s was tuned for chat; without --apply_chat_template its prompts are bare text", known.name)
    lm = _language_model(model, pool, settings, journal)
    name = str(facts.get("checkpoint") or facts.get("pretrained") or Path(settings.model).name.removesuffix(".py"))
    if journal is not None:
        journal.note(f"model:{lm.fingerprint}", name)

    def close() -> None:
        learned = earlier.and_then(pool.learned())
        if journal is not None and learned != earlier:
            journal.note(note, learned.plain())
        pool.close()

    return Loaded(lm, name, facts, True, close)


def _language_model(model: Denoiser, pool: Pool, settings: RunSettings, journal: Journal | None) -> DiffusionLM:
    from dlm_eval.harness.chat import chosen_template
    from dlm_eval.harness.decode_options import DEFAULT_LENGTH, DecodeOptions, user_layer
    from dlm_eval.harness.lm import DiffusionLM, Options
    from dlm_eval.scoring import parse_estimator

    length = min(DEFAULT_LENGTH, max(1, model.max_length // 2))
    user = user_layer(settings.gen_kwargs, settings.decode)
    decode = DecodeOptions.of(user, model, length)
    options = Options(
        parse_estimator(settings.estimator),
        decode,
        settings.noise_seed,
        settings.stride,
        settings.overlong,
        quiet=settings.quiet,
        template=chosen_template(model, settings.apply_chat_template),
    )
    return DiffusionLM(model, pool, options, journal)


def _model_and_pool(settings: RunSettings, journal: Journal | None) -> tuple[Denoiser, Pool, Learned, str]:
    """Returns the model as the driver needs it, the pool that runs it, what earlier runs learned about the devices, and the journal's name for that."""
    from dlm_eval.budget import Learned, make_engine
    from dlm_eval.models import load_model, load_without_weights
    from dlm_eval.pool import InProcess, Remembered
    from dlm_eval.pool.make import single_device, start_workers, worker_devices
    from dlm_eval.pool.messages import Recipe

    arguments = dict(settings.model_args)
    if settings.device is not None:
        arguments["device"] = settings.device
    if settings.score_only:
        return load_without_weights(settings.model, **arguments), Remembered(), Learned(), ""
    devices = worker_devices(settings.devices, settings.engine, settings.ray_address)
    where = f"{settings.engine} {settings.devices or arguments.get('device') or 'auto'}"
    note = f"learned:{digest(settings.model, sorted(map(str, redact(arguments).items())), where)}"
    learned = Learned.of(journal.noted(note)) if journal is not None else Learned()
    batch_size, most = settings.batch_size or "auto", settings.max_batch_size
    if devices:
        model = load_without_weights(settings.model, **arguments)
        recipe = Recipe(settings.model, arguments, batch_size, learned, settings.verbosity or "WARNING", most)
        return model, start_workers(recipe, devices, settings.engine, settings.ray_address), learned, note
    takes = option_names(settings.model)
    arguments |= {key: value for key, value in single_device(settings.devices).items() if key in takes}
    model = load_model(settings.model, **arguments)
    return model, InProcess(make_engine(model, batch_size, learned, most)), learned, note


def _load_baseline(settings: RunSettings) -> Loaded:
    from dlm_eval.harness.baseline import load_baseline
    from dlm_eval.pool.make import single_device, worker_devices

    name, arguments = settings.model, dict(settings.model_args)
    if settings.score_only or settings.engine != "local" or worker_devices(settings.devices, "local"):
        raise UserError(
            f"model '{name}' is lm-eval's own: it runs on one device (--device) and keeps no journal, without --score_only, --engine and several --devices"
        )
    device = settings.device or single_device(settings.devices).get("device") or _default_device()
    if name in baselines():
        arguments = {"pretrained": str(packaged_asset(name)), **baselines()[name]["options"], **arguments}
        name = "hf"
    lm = load_baseline(name, arguments, settings.batch_size or 1, settings.max_batch_size, device)
    pretrained = str(arguments.get("pretrained") or arguments.get("model") or settings.model)
    checkpoint = redact_text(Path(pretrained).name if os.path.exists(pretrained) else pretrained)
    shown = redact({key: value for key, value in arguments.items() if key != "pretrained"})
    return Loaded(lm, checkpoint, {"family": name, "checkpoint": checkpoint, **shown}, False)


def _default_device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"
