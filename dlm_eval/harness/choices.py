"""Task class for multiple choice in which each choice is encoded apart from its context.

lm-eval encodes context and choice as one text. Some papers encode them apart, so that tokens never
span the boundary, and put special tokens before either. The YAML of such a task names the class:

    class: !function dlm_eval.harness.choices.ChoiceTask
    output_type: multiple_choice
    target_delimiter: ""
    metadata:
      choices: {special_tokens: tokenizer, score: mean}

The task then adds a `ChoiceForm` to the arguments of each request, under the name "choice".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from jinja2 import TemplateError
from lm_eval import utils
from lm_eval.api.task import ConfigurableTask

from dlm_eval.errors import UserError
from dlm_eval.harness.requests import CHOICE, ChoiceForm, SpecialTokens
from dlm_eval.harness.task_metadata import settings_in
from dlm_eval.settings import shown

ALLOWED = {"special_tokens": get_args(SpecialTokens), "score": ("sum", "mean")}


@dataclasses.dataclass(frozen=True)
class ChoiceSpec:
    """``metadata.choices`` of a task.

    Attributes:
        special_tokens: What stands before the context. "model": BOS if the model needs it.
            "tokenizer": what the checkpoint's tokenizer puts before a text; it stands before the
            choice (and its suffix) too, and is scored there. "none": nothing.
        suffix: Text behind the choice, encoded apart from it and scored with it; it may be a jinja
            template over the document.
        score: "sum" of the log-probabilities of the choice's tokens, or their "mean".
    """

    special_tokens: SpecialTokens = "model"
    suffix: str = ""
    score: Literal["sum", "mean"] = "sum"

    @classmethod
    def from_metadata(cls, task: str, metadata: Mapping[str, Any] | None) -> ChoiceSpec:
        """Returns the settings of a task.

        Raises:
            UserError: ``metadata.choices`` is missing, or has an unknown key or value.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        spec = cls(**settings_in(task, metadata, "choices", "ChoiceTask", names, ALLOWED))
        if not isinstance(spec.suffix, str):
            raise UserError(
                f"task '{task}': metadata.choices suffix '{shown(spec.suffix)}' is not allowed; it "
                "must be a template"
            )
        return spec

    def form(self, doc: dict[str, Any]) -> ChoiceForm:
        """Returns how the choices of one document are encoded and scored."""
        return ChoiceForm(
            self.special_tokens, str(utils.apply_template(self.suffix, doc)), self.score
        )


class ChoiceTask(ConfigurableTask):  # type: ignore[misc]
    """A ``multiple_choice`` task whose choices are encoded apart from their context."""

    def __init__(self, config: Mapping[str, Any] | None = None, **_: Any) -> None:
        settings = {key: value for key, value in dict(config or {}).items() if key != "class"}
        name = settings.get("task", "?")
        self.choices = ChoiceSpec.from_metadata(name, settings.get("metadata"))
        if settings.get("output_type") != "multiple_choice":
            raise UserError(
                f"task '{name}': output_type '{settings.get('output_type')}' is not allowed for a"
                " ChoiceTask; it must be multiple_choice"
            )
        super().__init__(config=settings)
        try:  # find a wrong template before a model is loaded
            self.choices.form(self.task_docs[0])
        except TemplateError as error:
            raise UserError(f"task '{name}': document 0: {error}") from error

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> Any:
        """Returns lm-eval's requests with the form of the choices added to their arguments."""
        built = super().construct_requests(doc, ctx, **kwargs)
        form = self.choices.form(doc)
        for instance in built if isinstance(built, list) else [built]:
            context, choice = instance.arguments[:2]
            instance.arguments = (context, choice + form.suffix, {CHOICE: form})
        return built
