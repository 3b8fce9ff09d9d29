"""Our models under lm-eval's own names: after `import dlm_eval`, `lm_eval.simple_evaluate(model="llada", ...)` works.

Registered as text placeholders, so that nothing heavy is imported before a model is asked for.
"""

from __future__ import annotations

from dlm_eval.models import checkpoints, known_families

MODULE = "dlm_eval.harness.registered"


def register() -> None:
    """Adds every family and named checkpoint to lm-eval's registry; names that lm-eval knows already stay its own."""
    # lm-eval fills its registry only while it is empty: without this import our names would hide all of its own.
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    for name in [*known_families(), *checkpoints()]:
        if name not in model_registry:
            model_registry.register(name, target=f"{MODULE}:{name}")
