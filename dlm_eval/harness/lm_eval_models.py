"""lm-eval's own models as models of a run: their options, their pool, and their dry run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from dlm_eval.errors import UserError
from dlm_eval.harness.baseline import Baseline
from dlm_eval.harness.decode_layers import length_of
from dlm_eval.harness.infill import begins_with_draft
from dlm_eval.harness.model_kind import OF_DENOISERS, Loaded, refuse_settings, without
from dlm_eval.harness.plan import CountedRequests, DryRun, Found, Plan, TaskPlan
from dlm_eval.harness.results import Record, is_in_shard
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.harness.text_lm import TextLM, TextOptions
from dlm_eval.journal import Journal
from dlm_eval.models import baselines
from dlm_eval.workers import JournalOnly, Pool
from dlm_eval.workers.devices import Device, single_device, worker_devices
from dlm_eval.workers.driver import start_workers
from dlm_eval.workers.messages import WorkerConfig
from dlm_eval.workers.texts import TextInProcess, TextModel, batch_rows


class LmEvalModels:
    """The models of lm-eval's registry, and the packaged baselines, which `hf` loads."""

    def names(self) -> set[str]:
        import lm_eval.models  # noqa: F401
        from lm_eval.api.registry import model_registry

        return {*baselines(), *model_registry.keys()}

    def has(self, name: str) -> bool:
        return name in self.names()

    def check_options(self, settings: RunSettings) -> None:
        refuse_settings(settings, OF_DENOISERS, "which is lm-eval's own")
        _check_places(settings)

    def check_tasks(self, settings: RunSettings, tasks: Mapping[str, Any]) -> None:
        for name in (name for name, task in tasks.items() if begins_with_draft(task)):
            raise UserError(
                f"--tasks {name} begins with a draft that the model revises in place, which only "
                f"diffusion models do; --model '{settings.model}' writes after a prompt: leave it out"
            )

    def entry_conditions(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Of the decode settings the number of tokens is left, under lm-eval's name."""
        length = length_of(own.get("decode") or {})
        asked = {} if length is None else {"gen_kwargs": {"max_gen_toks": length}}
        return {**without(own, OF_DENOISERS), **asked}

    def entry_arguments(self, arguments: Mapping[str, Any], entry: str) -> Mapping[str, Any]:
        return arguments

    def load(self, settings: RunSettings, journal: Journal | None) -> Loaded:
        devices = (
            []
            if settings.score_only
            else worker_devices(settings.devices, settings.engine, settings.ray_address)
        )
        lm: LM
        pool: Pool
        if devices or settings.score_only:
            baseline = Baseline.of(settings, settings.device)
            lm, pool = baseline.load_without_weights(), JournalOnly()
            if devices:
                pool = _workers(baseline, settings, devices)
        else:
            place = single_device(settings.devices)
            baseline = Baseline.of(settings, settings.device or place.get("device"))
            lm = baseline.load()
            pool = TextInProcess(TextModel(lm, batch_rows(settings.batch_size)))
        if journal is not None:
            journal.note(f"model:{baseline.fingerprint}", baseline.checkpoint)

        def lm_of(loaded: Loaded, settings: RunSettings, _: frozenset[str]) -> TextLM:
            return TextLM(lm, baseline, loaded.pool, _options(settings), loaded.journal)

        return Loaded(baseline.checkpoint, baseline.facts, lm_of, pool, journal, close=pool.close)

    def plan(self, dry: DryRun) -> Plan:
        """Returns what a run would do.

        A model of transformers, and one on a server, is made without weights. Any other can only be
        loaded whole, so its requests are built, but not looked up.
        """
        baseline = Baseline.of(dry.settings, dry.settings.device)
        if not (baseline.is_transformers or baseline.is_remote):
            return _plan_of_requests(dry)
        try:
            lm = baseline.load_without_weights()
        except UserError as error:
            if not baseline.is_remote:
                raise
            # The machine of the run may have the API's key and tokenizer.
            dry.notes.append(f"a run on this machine would be refused: {error}")
            return _plan_of_requests(dry)
        plans: dict[str, TaskPlan] = {}

        def lm_of(loaded: Loaded, settings: RunSettings, _: frozenset[str]) -> TextLM:
            made = TextLM(lm, baseline, loaded.pool, _options(settings))
            made.requests = CountedRequests(
                made.requests.kinds, made.fingerprint, dry.journal, _TextCount(), plans
            )
            return made

        dry.build(Loaded(baseline.checkpoint, baseline.facts, lm_of, JournalOnly()))
        devices = 1 if baseline.is_remote else dry.devices()
        tasks = tuple(plans.values())
        return Plan(baseline.checkpoint, "texts", tasks, devices, dry.journal_path)


def _options(settings: RunSettings) -> TextOptions:
    return TextOptions(settings.noise_seed, settings.quiet, settings.part, settings.chosen)


def _workers(baseline: Baseline, settings: RunSettings, devices: Sequence[Device]) -> Pool:
    config = WorkerConfig(
        baseline.name,
        baseline.arguments,
        settings.batch_size or 1,
        verbosity=settings.verbosity or "WARNING",
        most_rows=settings.max_batch_size,
        texts=True,
    )
    return start_workers(config, devices, settings.engine, settings.ray_address)


def _check_places(settings: RunSettings) -> None:
    """Raises UserError if the settings ask for workers and lm-eval's model cannot run in any."""
    asked = "devices" if settings.devices else "engine" if settings.engine != "local" else None
    if asked is None:
        return
    baseline, model = Baseline.of(settings), f"--model '{settings.model}'"
    try:
        remote, several = baseline.is_remote, baseline.is_transformers
    except ImportError:
        return  # `load` has the message
    if remote:
        raise UserError(
            f"--{asked} means nothing to {model}, which is remote; leave it out (num_concurrent=N"
            " in --model_args asks N at once)"
        )
    if not several and (settings.engine != "local" or worker_devices(settings.devices, "local")):
        raise UserError(
            f"--{asked} '{getattr(settings, asked)}' is not possible with {model}: of lm-eval's"
            " own models, only hf and those derived from it run in workers"
        )


# -- the dry run -----------------------------------------------------------------------------------


class _TextCount:
    """Counts the requests that a run would put to the model; equal ones count once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, plan: TaskPlan, record: Record, found: Sequence[Found]) -> None:
        for one in found:
            plan.to_ask += one.answer is None and one.key not in self._seen
            self._seen.add(one.key)


def _plan_of_requests(dry: DryRun) -> Plan:
    """Returns the plan of a run of a model that is not made."""
    settings, plans = dry.settings, []
    loaded = Loaded(
        settings.model, {"family": settings.model}, lambda *_: _Unanswered(), JournalOnly()
    )
    for name, task in dry.build(loaded).items():
        asked = [
            request
            for request in task._instances
            for _ in range(request.repeats)
            if is_in_shard(request, settings.part, settings.chosen)
        ]
        documents = {request.doc_id for request in asked}
        plans.append(TaskPlan(name, documents=len(documents), requests=len(asked)))
    return Plan(settings.model, "requests", tuple(plans), 1)


class _Unanswered(LM):
    """An LM that answers nothing, in place of one of lm-eval's own models."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    @property
    def tokenizer_name(self) -> str:
        return ""

    def chat_template(self, chat_template: bool | str = False) -> str:
        return ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return "\n".join(message["content"] for message in chat_history)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [(0.0, False) for _ in requests]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return [0.0 for _ in requests]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return ["" for _ in requests]
