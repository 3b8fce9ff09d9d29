"""What the settings of a run may be, each by itself and together. Errors are of the user (UserError)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.sandbox import KINDS
from dlm_eval.settings import shown

if TYPE_CHECKING:
    from dlm_eval.harness.run_settings import RunSettings

MOST = 10**12  # maximum of all counts
MOST_SEED = 2**32 - 1  # numpy's maximum
LONGEST_LABEL = 80  # characters
LEAST = {"num_fewshot": 0, "repeats": 1, "stride": 1, "max_batch_size": 1, "bootstrap_iters": 0}
NO_EMPTY_TEXT = ("model", "device", "devices", "output_path", "data_dir", "label")
CHOICES = {
    "overlong": ("truncate", "error"),
    "engine": ("local", "ray"),
    "sandbox": ("auto", *KINDS),
}


def check_each(settings: RunSettings) -> None:
    """Checks the settings one by one.

    Raises:
        UserError: a value is not allowed.
    """
    if not settings.tasks:
        raise UserError("--tasks is empty; name at least one task (`dlm-eval ls tasks` lists them)")
    _check_limit(settings.limit)
    given = vars(settings)
    for name, least in LEAST.items():
        value = given[name]
        if value is not None and not least <= value <= MOST:
            raise UserError(
                f"--{name} '{value}' is not allowed; it must be {least} or more, and {MOST:g} at "
                "most"
            )
    if settings.label is not None and len(settings.label) > LONGEST_LABEL:
        raise UserError(
            f"--label has {len(settings.label)} characters; {LONGEST_LABEL} are allowed at most"
        )
    for name in NO_EMPTY_TEXT:
        if given[name] == "":
            raise UserError(f"--{name} is empty; give it a value or leave it out")
    if not all(seed is None or 0 <= seed <= MOST_SEED for seed in settings.seed):
        raise UserError(f"--seed '{settings.seed[0]}' is not allowed; it must be 0 to {MOST_SEED}")
    for name, allowed in CHOICES.items():
        if given[name] not in allowed:
            raise unknown_name_error(f"--{name}", given[name], allowed)


def _check_limit(limit: float | None) -> None:
    if limit is not None and not (0 < limit < 1 or (1 <= limit <= MOST and limit % 1 == 0)):
        raise UserError(
            f"--limit '{limit:g}' is not allowed; it must be a whole number from 1 to {MOST:g}, or a"
            " fraction between 0 and 1"
        )


def check_together(settings: RunSettings) -> None:
    """Checks which settings exclude or need each other.

    Raises:
        UserError: they do not go together, or `shard` is not I/N.
    """
    for wrong, message in _pairs(settings):
        if wrong:
            raise UserError(message)


def _pairs(s: RunSettings) -> Iterator[tuple[bool, str]]:
    """Yields whether settings do not go together, and the message for that."""
    places = [f"--{name}" for name in ("device", "devices") if vars(s)[name] is not None]
    places += ["device of --model_args"] if "device" in s.model_args else []
    journal = s.resume and s.output_path is not None
    needs = "needs the journal of --output_path; give it, without --no_resume"
    yield len(places) > 1, f"{' and '.join(places)} exclude each other; give one"
    yield s.ray_address is not None and s.engine != "ray", "--ray_address needs --engine ray"
    yield s.score_only and not journal, f"--score_only {needs}"
    both = "--dry_run and --score_only exclude each other; both run no model"
    yield s.dry_run and s.score_only, both
    own = journal and not s.score_only
    yield s.part is not None and not own, f"--shard {needs} and --score_only"
    logged = "--log_trajectories writes to the samples files; leave out --no_log_samples"
    yield s.log_trajectories and not s.log_samples, logged
    chosen = s.limit is not None and bool(s.samples)
    yield chosen, "--limit and --samples exclude each other; give one"
    turns = bool(s.fewshot_as_multiturn) and not s.apply_chat_template
    yield turns, "--fewshot_as_multiturn needs --apply_chat_template"
    votes = "--vote and --repeats exclude each other: one votes over steps, one over answers"
    yield bool(s.weights) and (s.repeats or 1) > 1, votes


def check_samples(samples: Mapping[str, Sequence[int]] | None) -> None:
    """Checks --samples.

    Raises:
        UserError: it is no mapping of tasks to lists of document numbers.
    """
    if samples is not None and not (samples and isinstance(samples, Mapping)):
        raise UserError(
            f"--samples '{shown(samples)}' is not allowed; it must be JSON of task -> list of "
            "document numbers"
        )
    for task, indices in (samples or {}).items():
        if (
            not isinstance(indices, (list, tuple))
            or not indices
            or any(not isinstance(i, int) or isinstance(i, bool) or i < 0 for i in indices)
        ):
            raise UserError(
                f"--samples {task} '{shown(indices)}' is not allowed; it must be a list of "
                "document numbers from 0"
            )
