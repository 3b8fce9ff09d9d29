"""From `--model` to something that answers lm-eval's requests: one of our denoisers, a packaged baseline, or any model that lm-eval knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlm_eval.errors import unknown
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.journal import Journal
from dlm_eval.models import checkpoints, families, packaged_asset

# Autoregressive twins that travel with the package; they run through lm-eval's own `hf`.
PACKAGED_BASELINES: dict[str, dict[str, Any]] = {"tiny-ar": {"add_bos_token": True, "dtype": "float32"}}


@dataclass(frozen=True)
class Loaded:
    """A model ready to be evaluated.

    Attributes:
        lm: lm-eval's view of it.
        name: what result folders and tables call it.
        facts: what identifies it in a result.
        ours: whether it is a DiffusionLM.
    """

    lm: Any
    name: str
    facts: dict[str, Any]
    ours: bool


def check_model_name(name: str) -> None:
    """Raises UserError, with the nearest name, where neither we nor lm-eval know the model."""
    names = _known()
    if name not in names and not _is_file(name):
        raise unknown("--model", name, names)


def _known() -> set[str]:
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    return {*families(), *checkpoints(), *PACKAGED_BASELINES, *model_registry.keys()}


def _is_file(name: str) -> bool:
    return name.endswith(".py") and Path(name).is_file()


def load(settings: RunSettings, journal: Journal | None) -> Loaded:
    """Returns the model of a run.

    Raises:
        UserError: an option or checkpoint that cannot be used.
    """
    if settings.model in families() or settings.model in checkpoints() or _is_file(settings.model):
        return _load_ours(settings, journal)
    return _load_baseline(settings)


def _load_ours(settings: RunSettings, journal: Journal | None) -> Loaded:
    from dlm_eval.budget import make_engine
    from dlm_eval.harness.decode_options import DEFAULT_LENGTH, DecodeOptions, user_layer
    from dlm_eval.harness.lm import DiffusionLM, Options
    from dlm_eval.models import load_model
    from dlm_eval.pool import InProcess
    from dlm_eval.scoring import parse_estimator

    estimator = parse_estimator(settings.estimator)
    arguments = dict(settings.model_args)
    if settings.device is not None:
        arguments.setdefault("device", settings.device)
    model = load_model(settings.model, **arguments)
    facts = model.describe()
    length = min(DEFAULT_LENGTH, max(1, model.max_length // 2))
    decode = DecodeOptions(user_layer(settings.gen_kwargs, settings.decode), str(facts.get("checkpoint") or ""), length)
    engine = make_engine(model, settings.batch_size or "auto")
    options = Options(estimator, decode, settings.noise_seed, settings.overlong, quiet=settings.verbosity == "ERROR")  # type: ignore[arg-type]
    lm = DiffusionLM(model, InProcess(engine), options, journal)
    return Loaded(lm, str(facts.get("checkpoint") or facts.get("pretrained") or settings.model), facts, True)


def _load_baseline(settings: RunSettings) -> Loaded:
    from dlm_eval.harness.baseline import load_baseline

    name, arguments = settings.model, dict(settings.model_args)
    if name in PACKAGED_BASELINES:
        arguments = {"pretrained": str(packaged_asset(name)), **PACKAGED_BASELINES[name], **arguments}
        name = "hf"
    lm = load_baseline(name, arguments, settings.batch_size or 1, settings.max_batch_size, settings.device or _default_device())
    pretrained = str(arguments.get("pretrained") or arguments.get("model") or settings.model)
    checkpoint = Path(pretrained).name if Path(pretrained).exists() else pretrained
    shown = {key: value for key, value in arguments.items() if key not in ("pretrained", "api_key", "token")}
    return Loaded(lm, checkpoint, {"family": name, "checkpoint": checkpoint, **shown}, False)


def _default_device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


