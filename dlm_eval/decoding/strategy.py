"""Base class of decoding strategies: frozen dataclasses whose fields are their options.

A subclass with a name is registered. Strategies that write masked positions step by step extend
`unmasking.Unmasking`. Those of the processes 'uniform', 'gaussian' and 'canvas' have their own
programs.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from dlm_eval.canvas import Canvas, Filling
from dlm_eval.decoding import samplers
from dlm_eval.decoding.checkpoints import Offer, State, no_offer
from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.schedules import SCHEDULES
from dlm_eval.decoding.step import Trace
from dlm_eval.engine import Program
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser, Process, tokens_ahead
from dlm_eval.options import check_option_names, check_options, describe_options, option_names
from dlm_eval.plugins import Registry, source_digest
from dlm_eval.rng import Noise

if TYPE_CHECKING:
    from dlm_eval.decoding.caches import DecodeCache
    from dlm_eval.decoding.settings import DecodeSettings

# General settings about masks, and about drawing a token. Processes without masks or draws do not
# use them.
OF_MASKS = (
    "eps", "allow_mask", "confidence_eos_eot_inf", "cache", "block_length", "steps_per_block", "guidance",
)  # fmt: skip
OF_DRAWS = (
    "temperature", "top_p", "top_k", "top_p_rule", "logits_temp", "confidence_from", "logits_eos_inf", "rerank",
)  # fmt: skip

STEPS = ("steps", "steps_per_block")

# Why a strategy whose rows have a `Layout` does not work with a model.
NO_LAYOUTS = "its rows cannot say where each token stands and what it sees"


@dataclass(frozen=True)
class FillRequest:
    """One canvas to fill.

    Attributes:
        model: the denoiser.
        canvas: what to fill; it has open positions.
        settings: how to fill it.
        noise: random streams of the request.
        trace: called after every step, or None.
        begun: state to resume from, left by an interrupted program with the same request.
        offer: called between steps with the state, if checkpoints are possible
            (`Strategy.why_no_checkpoint`).
    """

    model: Denoiser
    canvas: Canvas
    settings: DecodeSettings
    noise: Noise
    trace: Trace | None = None
    begun: State | None = None
    offer: Offer = no_offer


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Base of all strategies.

    Class attributes:
        name: value of `--decode strategy=`; given as `class Mine(Strategy, name="mine")`.
        processes: diffusion processes of the models that it works with.
        default_schedule: schedule if `schedule` is not set; None if the strategy decides how many
            tokens a step writes.
        takes_schedule: whether `schedule` can be set.
        takes_steps: whether `steps` can be set.
        ignores_steps: whether `steps` has no effect unless there is a schedule. It is not refused,
            since the authors' commands give it too.
        takes_guidance: whether `guidance` can be set.
        resizes: whether it inserts or deletes positions; 'within_blocks' if each block keeps its
            length.
        writes_ahead: whether a step may write positions of later blocks.
        blocks_count_given: whether `block_length` counts the given positions between open ones too.
        revises: whether it can change tokens that are written, so that it can begin with a draft
            (`Canvas.draft`).
        owns_blocks: whether it divides the text by itself under full attention.
        takes_block_length: whether `block_length` can be set.
        in_order: whether it only ever writes the first open positions, as models need that predict
            the next tokens (`models.denoiser.NextTokens`).
        completes_only: whether it fills only a hole at the end of the canvas.
        reads: what `StepState.score` holds: the candidate's log-probability ('probability'), its
            lead over the runner-up ('margin') or the negative entropy ('entropy', nats); None if
            the strategy chooses positions without reading them.
        finds_length: whether it decides by itself how long the text is. The hole is then the length
            that it begins with, or a limit, and a table says so if the hole is not as long as the
            document's answer.
    """

    name: ClassVar[str] = ""
    processes: ClassVar[tuple[Process, ...]] = ("absorbing",)
    default_schedule: ClassVar[str | None] = None
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = True
    ignores_steps: ClassVar[bool] = False
    takes_guidance: ClassVar[bool] = True
    resizes: ClassVar[bool | Literal["within_blocks"]] = False
    writes_ahead: ClassVar[bool] = False
    blocks_count_given: ClassVar[bool] = False
    revises: ClassVar[bool] = False
    owns_blocks: ClassVar[bool] = False
    completes_only: ClassVar[bool] = False
    finds_length: ClassVar[bool] = False
    takes_block_length: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = None
    in_order: ClassVar[bool] = False

    def __init_subclass__(cls, *, name: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        if name:
            cls.name = name
            cls.check_class()
            STRATEGIES.add(name, cls)

    @classmethod
    def check_class(cls) -> None:
        """Raises UserError if a class attribute has a value that is not allowed."""
        check_option_names(cls, Strategy, f"strategy '{cls.name}'")
        if not isinstance(cls.processes, tuple) or not set(cls.processes) <= set(get_args(Process)):
            allowed = ", ".join(get_args(Process))
            raise UserError(
                f"strategy '{cls.name}': processes {cls.processes!r} is not allowed; it must be a "
                f"tuple of {allowed}"
            )
        cls.check_attribute("default_schedule", (None, *SCHEDULES))
        cls.check_attribute("revises", (True, False))
        cls.check_attribute("finds_length", (True, False))

    @classmethod
    def check_attribute(cls, attribute: str, allowed: tuple[Any, ...]) -> None:
        """Raises UserError if a class attribute is none of the `allowed` values. A property may be any."""
        value = inspect.getattr_static(cls, attribute)
        if not isinstance(value, property) and value not in allowed:
            raise UserError(
                f"strategy '{cls.name}': {attribute} {value!r} is not allowed; it must be one of "
                + ", ".join(map(str, allowed))
            )

    def __post_init__(self) -> None:
        check_options(self, "decode")
        self.check()

    def check(self) -> None:
        """Raises UserError if options contradict each other.

        Ranges are declared on the fields (`options.option`).
        """

    def refuse(self, settings: DecodeSettings) -> None:
        """Raises UserError if general settings contradict the strategy."""
        for name, reason in self.refused_settings().items():
            if vars(settings)[name]:
                raise UserError(
                    f"decode {name} is not used by strategy '{self.name}', which {reason}; leave it out"
                )
        if (refusal := self.why_not_cache(type(settings.cache))) is not None:
            raise UserError(refusal)

    @classmethod
    def refused_settings(cls) -> dict[str, str]:
        """Returns the general settings that cannot be set, each with what the strategy does instead."""
        refused = {}
        if not cls.takes_schedule:
            refused["schedule"] = "decides by itself how many tokens to write"
        if not cls.takes_steps:
            refused |= dict.fromkeys(STEPS, "decides by itself how many steps it takes")
        if not cls.takes_guidance:
            refused["guidance"] = "runs no row without the prompt"
        if not cls.takes_block_length:
            own = "divides the hole into blocks by itself"
            refused |= {name: own for name in ("block_length", *STEPS) if name not in refused}
        return refused

    @classmethod
    def why_not_cache(cls, cache: type[DecodeCache]) -> str | None:
        """Returns the error that refuses a cache, or None."""
        return None

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        """Raises UserError if the strategy does not work with `model`."""
        if model.process not in self.processes:
            raise not_for(self, model.process)
        if (reason := self.misfit(model)) is not None:
            raise UserError(
                f"decode strategy '{self.name}' is not for {model.name}: {reason}; use "
                f"{default_strategy(model.process, model)}"
            )

    @classmethod
    def why_not(cls, model: Denoiser) -> str | None:
        """Returns the strategy's own reason why it does not work with such a model, or None."""
        return None

    @classmethod
    def misfit(cls, model: Denoiser) -> str | None:
        """Returns why the strategy does not work with a model of one of its processes, or None."""
        if tokens_ahead(model) is not None and not cls.in_order:
            return "it predicts the next tokens, so they are written from left to right"
        return cls.why_not(model)

    @property
    def is_random(self) -> bool:
        """Whether answers depend on random numbers even at temperature 0."""
        return False

    @classmethod
    def unused_settings(cls, process: str) -> tuple[str, ...]:
        """Returns the settings, general and own, that have no effect for models of `process`."""
        return ()

    @classmethod
    def default_steps(cls, process: str) -> int | None:
        """Returns the steps of a hole if `steps` is not set; None: one per open position."""
        return None

    def most_forwards(
        self, model: Denoiser, canvas: Canvas, settings: DecodeSettings
    ) -> int | None:
        """Returns the maximum number of rows that filling `canvas` runs, all samples together.

        None if there is no known maximum. The canvas has open positions.
        """
        return None

    def most_open(self, canvas: Canvas) -> int:
        """Returns the maximum number of positions that are written: those that are open, and those by
        which the text can grow.
        """
        return sum(canvas.open)

    @property
    def why_no_step_texts(self) -> str | None:
        """Why its steps have no candidates of all open positions (`decoding.step_texts`), or None."""
        return "its steps have no candidates of open positions"

    def why_no_checkpoint(self, process: str) -> str | None:
        """Returns why a half-filled canvas cannot be resumed, or None."""
        return f"process '{process}'"

    def identity(self) -> dict[str, Any]:
        """Returns the name and options, and a digest of the source if it is a plug-in's, for result
        files and journal keys.
        """
        source = source_digest(type(self))
        return {
            "strategy": self.name,
            **vars(self),
            **({"source_sha256": source} if source else {}),
        }

    def program(self, request: FillRequest) -> Program[Filling]:
        """Returns the program that fills the canvas of `request`."""
        raise NotImplementedError(f"strategy '{self.name}' has no program")


_HERE = "dlm_eval.decoding."
STRATEGIES: Registry[Strategy] = Registry(
    "strategy",
    "dlm_eval.strategies",
    # the first strategy of a process is its default
    modules=[
        _HERE + part
        for part in ("strategies", "ancestral", "remasking", "uniform", "random_canvas")
    ]
    + [f"{samplers.__name__}.{found.name}" for found in iter_modules(samplers.__path__)],
    aliases={"ddpm_cache": "ddpm"},  # MDLM's name: a forward that changes nothing is never run
)


def strategies_for(process: str) -> list[type[Strategy]]:
    """Returns the strategies for models of `process`; the first one is the default."""
    known = (cls for cls in STRATEGIES.listed().values() if not isinstance(cls, str))
    return [cls for cls in dict.fromkeys(known) if process in cls.processes]


def default_strategy(process: str, model: Denoiser | None = None) -> str:
    """Returns the name of the default strategy: the first one for `process`, and for `model` if it
    is known.
    """
    fitting = strategies_for(process)
    if model is not None:
        fitting = [cls for cls in fitting if cls.misfit(model) is None]
    return fitting[0].name


def users_of(option: str) -> list[str]:
    """Returns the names of the strategies that have `option`."""
    return [
        name
        for name, cls in STRATEGIES.listed().items()
        if not isinstance(cls, str) and option in option_names(cls)
    ]


def not_revising(strategy: Strategy) -> UserError:
    """Returns the error of a strategy that cannot begin with a draft."""
    able = [
        name
        for name, cls in STRATEGIES.listed().items()
        if not isinstance(cls, str) and cls.revises and set(cls.processes) & set(strategy.processes)
    ]
    others = f"allowed: {', '.join(able)}" if able else "no strategy of its process can"
    return UserError(
        f"decode strategy '{strategy.name}' never changes a written token, so it cannot begin with "
        f"a draft; {others}"
    )


def not_for(strategy: Strategy, process: str) -> UserError:
    """Returns the error of a strategy that does not work with models of `process`."""
    fitting = ", ".join(cls.name for cls in strategies_for(process))
    return UserError(
        f"decode strategy '{strategy.name}' is not for models of process '{process}'; allowed: "
        f"{fitting}"
    )


def describe_strategy(name: str) -> dict[str, Any]:
    """Returns what `dlm-eval show` prints: the processes, the schedule, and every option."""
    cls = STRATEGIES.find(name, "strategy")
    return {
        "name": cls.name,
        "about": inspect.cleandoc(cls.__doc__ or ""),
        "processes": list(cls.processes),
        "schedule": cls.default_schedule
        or ("can be set" if cls.takes_schedule else "decides by itself"),
        "options": describe_options(cls),
    }


def describe_strategies() -> dict[str, str]:
    """Returns name -> one line, for `dlm-eval ls strategies`."""
    lines = {
        name: cls if isinstance(cls, str) else (cls.__doc__ or "").strip().splitlines()[0]
        for name, cls in STRATEGIES.listed().items()
    }
    for alias, name in STRATEGIES.aliases.items():
        lines[alias] = f"another name of {name}: a forward that changes nothing is never run (MDLM)"
    return lines
