"""lm-eval's own models (`hf`, `local-completions`, the packaged baselines) with our journal,
workers and progress.

`Baseline` is such a model as the settings describe it. `TextLM` has lm-eval's LM interface. It
turns requests into text jobs (`jobs.TextJob`), which `workers/texts.py` answers.

These models cannot use the text after a hole. On an infilling task they get only the prefix and the
hole's number of tokens, as the baselines in the papers did.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import get_model

from dlm_eval.errors import UserError
from dlm_eval.harness.lm_eval_patches import bounded_chat_template
from dlm_eval.harness.requirements import missing_package
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.models import baselines, packaged_asset
from dlm_eval.models.weight_files import hash_weights
from dlm_eval.redaction import redact, redact_text
from dlm_eval.rng import digest
from dlm_eval.workers.texts import make_lm

# Arguments that do not change answers: devices, batches, the connection to a server.
LAYOUT = (
    "device", "device_map", "batch_size", "max_batch_size", "parallelize", "max_memory_per_gpu", "max_cpu_memory",
    "offload_folder", "num_concurrent", "max_retries", "timeout", "verify_certificate", "ca_cert_path",
)  # fmt: skip
REMOTE = "remote"
ASSET = "asset:"  # before the name of weights that travel with the package
LOCAL = {"pretrained", "dtype", "device", "devices"}  # arguments of classes that load weights
BLANK: dict[str, Any] = {
    "loglikelihood": (float("-inf"), False),
    "loglikelihood_rolling": float("-inf"),
    "generate_until": "",
}


@dataclass(frozen=True)
class Baseline:
    """One of lm-eval's own models, as the settings describe it.

    Attributes:
        asked: value of --model.
        name: lm-eval's name of the model class.
        arguments: arguments of the class, with secrets.
        extra: arguments that apply unless `arguments` has them: batch size and device.
        checkpoint: name for folders and tables.
    """

    asked: str
    name: str
    arguments: Mapping[str, Any]
    extra: Mapping[str, Any]
    checkpoint: str

    @classmethod
    def of(cls, settings: RunSettings, device: str | None = None) -> Baseline:
        """Returns the model of a run's settings on `device` (default: the first GPU, else the
        CPU).
        """
        name, arguments = settings.model, dict(settings.model_args)
        if name in baselines():
            own = dict(baselines()[name]["options"])
            if own["pretrained"].startswith(ASSET):
                own["pretrained"] = str(packaged_asset(own["pretrained"].removeprefix(ASSET)))
            name, arguments = "hf", {**own, **arguments}
        extra = {
            "batch_size": settings.batch_size or 1,
            "max_batch_size": settings.max_batch_size,
            "device": device or _default_device(),
        }
        source = str(arguments.get("pretrained") or arguments.get("model") or settings.model)
        return cls(settings.model, name, arguments, extra, redact_text(_folder_name(source)))

    @property
    def facts(self) -> dict[str, Any]:
        """The model's identity in results."""
        shown = {key: value for key, value in self.arguments.items() if key != "pretrained"}
        return {"family": self.name, "checkpoint": self.checkpoint, **redact(shown)}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that can change an answer, as far as it is known here.

        Local files are identified by their content. Hub names, and a server by its address, are
        identified by name.
        """
        given = {key: value for key, value in self.arguments.items() if key not in LAYOUT}
        return digest(
            "lm_eval", self.name, redact({key: _content(value) for key, value in given.items()})
        )

    @property
    def kind(self) -> type[LM]:
        """lm-eval's class."""
        found: type[LM] = get_model(self.name)
        return found

    @property
    def is_remote(self) -> bool:
        """Whether the model runs on a server: its class takes neither weights nor a device."""
        from lm_eval.models.api_models import TemplateAPI

        if issubclass(self.kind, TemplateAPI):
            return True
        taken = {
            name
            for kind in self.kind.__mro__
            if "__init__" in vars(kind)
            for name in inspect.signature(vars(kind)["__init__"]).parameters
        }
        return not taken & LOCAL

    @property
    def is_transformers(self) -> bool:
        """Whether it is `hf` or derived from it: it can run in workers."""
        from lm_eval.models.huggingface import HFLM

        return issubclass(self.kind, HFLM)

    def load(self) -> LM:
        """Returns the model.

        Raises:
            UserError: it cannot be made.
        """
        return self._made(lambda: make_lm(self.kind, self.arguments, self.extra))

    def load_without_weights(self) -> LM:
        """Returns the model for prompts and lengths: it has a tokenizer, but no weights if it is a
        model of transformers.

        Raises:
            UserError: it cannot be made.
        """

        def make() -> LM:
            if not self.is_transformers:
                return make_lm(self.kind, self.arguments, self.extra)
            places = ("device", "device_map", "parallelize")
            given = {key: value for key, value in self.arguments.items() if key not in places}
            return make_lm(_without_weights(self.kind), {**given, "device": "cpu"}, self.extra)

        return self._made(make)

    def _made(self, make: Callable[[], LM]) -> LM:
        """Returns `make()`, with the chat template bounded."""
        try:
            lm = make()
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            if needed := missing_package(error):
                raise UserError(f"--model '{self.name}' {needed}") from error
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"--model '{self.name}' cannot be made with {dict(self.arguments)}:"
                f" {type(error).__name__}: {reason}"
            ) from error
        bounded_chat_template(lm, self.checkpoint)
        return lm

    def device_of(self, lm: LM) -> str:
        """Returns the device for results: 'remote', or where the model runs in this process."""
        if self.is_remote:
            return REMOTE
        return str(lm.device or {**self.extra, **self.arguments}["device"])


def _without_weights(kind: type[LM]) -> type[LM]:
    """Returns lm-eval's transformers model without weights: its parameters have no memory."""

    class WithoutWeights(kind):  # type: ignore[misc,valid-type]
        def _create_model(self, *args: Any, dtype: Any = "auto", **options: Any) -> None:
            from lm_eval.models.utils_hf import get_dtype

            wanted = {} if dtype in (None, "auto") else {"dtype": get_dtype(dtype)}
            trust = bool(options.get("trust_remote_code"))
            with torch.device("meta"):
                model = self.AUTO_MODEL_CLASS.from_config(
                    self.config, trust_remote_code=trust, **wanted
                )
            model.to = lambda *_, **__: model
            self._model = model

    return WithoutWeights


def _folder_name(source: str) -> str:
    return Path(source).name if os.path.exists(source) else source


def _default_device() -> str:
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _content(value: Any) -> Any:
    """Returns a hash of the content if an argument is the path of a file or folder, else it."""
    if not isinstance(value, str) or not os.path.exists(value):
        return value
    place = Path(value)
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    files = [file for file in files if file.is_file() and file.suffix != ".md"]
    names = [str(file.relative_to(place)) for file in files] if place.is_dir() else [place.name]
    small = [file for file in files if file.suffix in (".json", ".txt", ".jinja", ".model")]
    large = [file for file in files if file not in small]
    return digest("content", names, hash_weights(small), hash_weights(large))
