"""Chat templates of a run: which one is used, and checks before the weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlm_eval.errors import SampleError, UserError, unknown_name_error
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.models import find_checkpoint, known_families, load_without_weights
from dlm_eval.models.denoiser import ChatTemplates, Denoiser

USER = {"role": "user", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Answer."}


def chosen_template(model: Denoiser, asked: bool | str) -> str | None:
    """Returns the name of the chat template of --apply_chat_template; None for the default of
    transformers.

    Raises:
        UserError: the checkpoint has no template of that name, or several and no default.
    """
    names = list(model.chat_templates) if isinstance(model, ChatTemplates) else []
    if isinstance(asked, str):
        if asked not in names:
            raise (
                unknown_name_error("--apply_chat_template", asked, names)
                if names
                else UserError(
                    f"--apply_chat_template '{asked}' is not allowed; this checkpoint has no chat templates with names"
                )
            )
        return asked
    if asked and len(names) > 1 and "default" not in names:
        raise UserError(f"--apply_chat_template needs a name for this checkpoint; allowed: {', '.join(names)}")
    return None


def template_text(model: Denoiser, asked: bool | str) -> str:
    """Returns the text of that template; "" if the model has none."""
    if not asked or not isinstance(model, ChatTemplates):
        return ""
    found = model.chat_templates
    return found.get(chosen_template(model, asked) or "default") or next(iter(found.values()), "")


def check_chat(settings: RunSettings, tasks: Mapping[str, Any]) -> None:
    """Raises UserError if the checkpoint lacks the chat template, or the template cannot render the
    run's messages.
    """
    if not settings.apply_chat_template or find_checkpoint(settings.model).family not in known_families():
        return
    model = load_without_weights(settings.model, **settings.model_args)
    template = chosen_template(model, settings.apply_chat_template)
    _render(model, [USER], template, "--apply_chat_template")
    described = [name for name, task in tasks.items() if task.config.description]
    if settings.system_instruction:
        _render(model, [SYSTEM, USER], template, "--system_instruction")
    elif described:
        _render(model, [SYSTEM, USER], template, f"task '{described[0]}' has a description, which is a system message")


def _render(model: Denoiser, messages: list[dict[str, str]], template: str | None, setting: str) -> None:
    try:
        if template is None:
            model.apply_chat_template(messages)
        elif isinstance(model, ChatTemplates):
            model.apply_chat_template(messages, True, template)
    except SampleError as error:
        raise UserError(f"{setting}: {error}") from None
