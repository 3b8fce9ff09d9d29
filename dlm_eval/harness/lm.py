"""`DiffusionLM`: lm-eval's three request methods, answered by a Denoiser.

`CanvasJobs` (`canvas_jobs.py`) converts requests to jobs and answers to lm-eval's form,
`AnsweredRequests` (`request_jobs.py`) has them answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from dlm_eval.answers import Answering
from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.harness.canvas_jobs import CanvasJobs, Options
from dlm_eval.harness.choices import ChoiceTask
from dlm_eval.harness.request_jobs import AnsweredRequests, Requests
from dlm_eval.harness.results import Record
from dlm_eval.jobs import Answer
from dlm_eval.journal import Journal
from dlm_eval.models.denoiser import ChatTemplates, Denoiser, device_of, offers
from dlm_eval.progress import Progress
from dlm_eval.redaction import redact
from dlm_eval.rng import digest
from dlm_eval.workers import Pool

# Metrics of lm-eval's multiple choice that depend only on the best choice.
BY_ORDER = frozenset({"acc", "acc_norm", "f1", "mcc"})


class DiffusionLM(TemplateLM):
    """A Denoiser with lm-eval's LM interface.

    Args:
        model: the denoiser; only its tokenizer and facts are used here, since the pool runs it.
        pool: runs jobs.
        options: settings.
        journal: stores finished answers, or None.
    """

    def __init__(
        self, model: Denoiser, pool: Pool, options: Options, journal: Journal | None = None
    ) -> None:
        super().__init__()
        self.model, self.pool, self.options = model, pool, options
        self.fingerprint = digest(redact(model.describe()))  # independent of access tokens
        self.requests: Requests = AnsweredRequests(
            CanvasJobs(model, options).kinds,
            lambda background: Answering(pool.run, self.fingerprint, journal, background),
            lambda title: Progress(title, 0, options.quiet, pool.busy),
        )
        self._device = device_of(model)

    @property
    def records(self) -> list[Record]:
        """The records of the answered requests."""
        return self.requests.records

    @property
    def failed(self) -> dict[str, Answer]:
        """Answers that are errors, by key."""
        return self.requests.failed

    # -- lm-eval's interface of models -------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.model.eos_ids[0] if self.model.eos_ids else self.model.pad_id

    @property
    def max_length(self) -> int:
        return self.model.max_length

    @property
    def tokenizer_name(self) -> str:
        return self.model.name.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        return self.model.encode(string)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        if self.options.template is None:
            return self.model.apply_chat_template(chat_history, add_generation_prompt)
        model = cast(ChatTemplates, self.model)  # checked with the options
        return model.apply_chat_template(chat_history, add_generation_prompt, self.options.template)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return template_text(self.model, chat_template)

    def get_model_info(self) -> dict[str, Any]:
        return {"model_dtype": self.model.describe().get("dtype"), "fingerprint": self.fingerprint}

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError("DiffusionLM scores whole texts, see loglikelihood")

    # -- requests ----------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Returns (log-likelihood in nats, is_greedy) of each continuation given its context.

        is_greedy is computed only if a document has one continuation (last-word tasks); otherwise
        it is False.
        """
        return self.requests.answer("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Returns the log-likelihood (nats) of each whole text; a long text is split in windows."""
        return self.requests.answer("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Returns the text after each context or in its hole, up to its end or a stop string."""
        return self.requests.answer("generate_until", requests)

    def ahead(self, requests: Sequence[Instance]) -> None:
        """Passes the jobs of requests to the pool, which answers them in the background. The
        request methods then only wait for the answers.

        Raises:
            DlmEvalError: the pool has failed, or an error is not specific to one request.
        """
        self.requests.ahead(requests)

    def stop(self) -> None:
        """Ends the pool's run at once if there is one."""
        self.requests.stop()


def chosen_template(model: Denoiser, asked: bool | str) -> str | None:
    """Returns the name of the chat template of --apply_chat_template; None for transformers'
    default.

    Raises:
        UserError: the checkpoint has no template of that name, or has several but no default.
    """
    names = list(cast(ChatTemplates, model).chat_templates) if offers(model, ChatTemplates) else []
    if isinstance(asked, str):
        if not names:
            raise UserError(
                f"--apply_chat_template '{asked}' is not allowed; this checkpoint has no chat "
                "templates with names"
            )
        if asked not in names:
            raise unknown_name_error("--apply_chat_template", asked, names)
        return asked
    if asked and len(names) > 1 and "default" not in names:
        raise UserError(
            f"--apply_chat_template needs a name for this checkpoint; allowed: {', '.join(names)}"
        )
    return None


def template_text(model: Denoiser, asked: bool | str) -> str:
    """Returns the text of the chosen chat template; "" if the model has none."""
    if not asked or not offers(model, ChatTemplates):
        return ""
    found = cast(ChatTemplates, model).chat_templates
    return found.get(chosen_template(model, asked) or "default") or next(iter(found.values()), "")


def by_order(task: Any) -> bool:
    """Returns whether scores of lm-eval's `task` depend only on the order of the choices'
    log-likelihoods.

    `acc_norm` orders choices by log-likelihood per character. Brier scores, mutual information and
    a task's own `process_results` (TruthfulQA's mc2) need the values. Sampling stops at a clear order
    of sums, which need not be that of means per token.
    """
    config = task.config
    if isinstance(task, ChoiceTask) and task.choices.score == "mean":
        return False
    metrics = {
        entry["metric"] for entry in config.metric_list or () if isinstance(entry["metric"], str)
    }
    plain = config.process_results is None and len(metrics) == len(config.metric_list or ())
    return task.OUTPUT_TYPE == "multiple_choice" and plain and metrics <= BY_ORDER
