"""Trap: lm-eval's own models are gone as soon as another package registers one."""

from __future__ import annotations


def register_models() -> None:
    """Adds our families and checkpoints to lm-eval's models, by name. Heavy imports are deferred
    until a model is used.

    Upstream (lm-eval 0.4.13): `api.registry` fills itself only if it is empty. Without the import
    below, lm-eval's own models would be missing. Names of lm-eval's models keep their meaning.
    """
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    from dlm_eval.models import checkpoints, known_families

    for name in [*known_families(), *checkpoints()]:
        if name not in model_registry:
            model_registry.register(name, target=f"dlm_eval.harness.registered:{name}")
