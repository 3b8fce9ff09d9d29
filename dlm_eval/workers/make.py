"""From a run's settings to its pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dlm_eval.budget import Learned
from dlm_eval.models import option_names
from dlm_eval.workers.devices import Device, parse_devices
from dlm_eval.workers.driver import Workers
from dlm_eval.workers.links import Events, Link
from dlm_eval.workers.messages import Recipe


def worker_devices(devices: str | None, engine: str, ray_address: str | None = None) -> list[Device]:
    """Returns the devices of worker processes; [] where the run needs none (one local device, or none named). A model that spans several GPUs has a
    process of its own, which sees these alone.

    Raises:
        UserError: a device that is not there.
    """
    if engine == "ray":
        from dlm_eval.workers.ray_actors import gpus_of_cluster

        return parse_devices(devices or "auto", gpus_of_cluster(ray_address))
    found = parse_devices(devices) if devices else []
    return found if len(found) > 1 or any(device.gpus > 1 for device in found) else []


def single_device(devices: str | None) -> Mapping[str, Any]:
    """Returns the model options of the one device that `devices` names."""
    (device,) = parse_devices(devices) if devices else [Device("", {})]
    first = device.environment.get("CUDA_VISIBLE_DEVICES")
    return {"device": device.label} if first else device.options


def start_workers(
    recipe: Recipe, devices: Sequence[Device], engine: str = "local", ray_address: str | None = None
) -> Workers:
    """Returns a pool of one worker per device; they load while the caller goes on."""
    takes = option_names(recipe.model)
    extra: dict[str, str] = {}
    if engine == "ray":
        from dlm_eval.workers.ray_actors import connect

        extra = connect(ray_address, len(devices), sum(device.gpus for device in devices))

    def start(index: int, learned: Learned, events: Events) -> Link:
        device = devices[index]
        options = {**{k: v for k, v in device.options.items() if k in takes}, **recipe.options}
        own = replace(recipe, options=options, learned=recipe.learned.and_then(learned))
        if engine == "ray":
            from dlm_eval.workers.ray_actors import RayLink

            # Ray shows an actor its own GPUs.
            environment = {k: v for k, v in device.environment.items() if k != "CUDA_VISIBLE_DEVICES"}
            return RayLink(own, f"{device.label} (ray)", {**extra, **environment}, device.gpus, events)
        from dlm_eval.workers.local import LocalLink

        return LocalLink(own, device.label, device.environment, events)

    return Workers(start, len(devices))
