"""Trap: a template may take any time and memory, and its error names no field."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from dlm_eval.patching import replaced

PROMPT_FIELDS = ("doc_to_text", "doc_to_target", "doc_to_choice")


@contextmanager
def bounded_templates() -> Iterator[None]:
    """Limits the rendering time of templates, and names the field of a failing template.

    Upstream (lm-eval 0.4.13): `ConfigurableTask.__init__` renders the first document. An endless
    template hangs there, and the error of a failing template does not name the field.
    """
    from lm_eval import utils
    from lm_eval.api.task import ConfigurableTask

    from dlm_eval.harness import sample_errors

    with ExitStack() as stack:
        stack.enter_context(
            replaced(utils, "apply_template", sample_errors.bounded_template(utils.apply_template))
        )
        for field in PROMPT_FIELDS:
            named = sample_errors.naming_field(field, getattr(ConfigurableTask, field))
            stack.enter_context(replaced(ConfigurableTask, field, named))
        yield


def bounded_chat_template(lm: Any, name: str) -> None:
    """Limits time and memory for the chat template of one of lm-eval's models that has a
    transformers tokenizer, and says what to do without one.

    Upstream (lm-eval 0.4.13, transformers 5.23): `HFLM.apply_chat_template` renders a checkpoint's
    template without limits. Without one transformers' message does not name the option.
    """
    from jinja2 import TemplateError
    from transformers import PreTrainedTokenizerBase

    from dlm_eval.errors import SampleError, UserError
    from dlm_eval.models.chat import NO_TEMPLATE, render_chat

    tokenizer = vars(lm).get("tokenizer")  # `dummy` would load one at the first look
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return

    def apply_chat_template(messages: Any, tokenize: bool = False, **options: Any) -> Any:
        if not tokenizer.chat_template and not options.get("chat_template"):
            raise UserError(f"'{name}': {NO_TEMPLATE}")
        try:
            text = render_chat(tokenizer, messages, name, **options)
        except SampleError as error:
            raise TemplateError(str(error)) from None  # lm-eval's models handle this type
        return tokenizer.encode(text, add_special_tokens=False) if tokenize else text

    tokenizer.apply_chat_template = apply_chat_template
