"""Options of an algorithm: fields of a frozen dataclass with range, unit and meaning.

    @dataclass(frozen=True, kw_only=True)
    class Chain(Estimator, name="chain"):
        max_forwards: int = option(128, least=1, help="forwards per canvas at most")

A strategy or an estimator is such a dataclass. `parse_options` builds one from texts,
`check_options` checks the ranges, `describe_options` is the documentation that `dlm-eval show`
prints.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from dlm_eval.errors import DlmEvalError, UserError, unknown_name_error
from dlm_eval.reasons import reason
from dlm_eval.settings import alternatives, cast_value, describe, field_types, literals, shown

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What is allowed as the value of an option, and what it means.

    Attributes:
        least, above: lower bound, included or excluded; None for no bound.
        most, below: upper bound, included or excluded; None for no bound.
        choices: the allowed values, if they are few. Annotations with `Literal` need none.
        unit: unit of the value, shown in error messages ('nats a token').
        help: one line for the user.
        speed: whether it trades quality for speed, so that its values are one curve of `sweep`.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] | None = None
    unit: str = ""
    help: str = ""
    speed: bool = False

    def allows(self, value: Any) -> bool:
        """Returns whether `value` is in range.

        A sequence is in range if each of its items is; None always is.
        """
        if value is None:
            return True
        if isinstance(value, tuple | list):
            return all(self.allows(item) for item in value)
        if self.choices is not None:
            return value in self.choices
        if isinstance(value, str):  # a word in place of a number; `Literal` checks it
            return True
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def allowed(self) -> str:
        """Returns the range in words; "" if every value is allowed."""
        return self._range() + (f" ({self.unit})" if self.unit else "")

    def _range(self) -> str:
        if self.choices is not None:
            return "one of " + ", ".join(map(str, self.choices))
        if self.least is not None and self.most is not None:
            return f"{self.least} to {self.most}"
        if self.above is not None and self.below is not None:
            return f"between {self.above} and {self.below}"
        low = (
            f"{self.least} or more"
            if self.least is not None
            else ""
            if self.above is None
            else f"above {self.above}"
        )
        high = (
            f"at most {self.most}"
            if self.most is not None
            else ""
            if self.below is None
            else f"below {self.below}"
        )
        return " and ".join(part for part in (low, high) if part)


def option(
    default: Any = MISSING,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] | None = None,
    unit: str = "",
    help: str = "",
    speed: bool = False,
) -> Any:
    """Returns a dataclass field with a declared range.

    Without `default` the user must give the option.

    Args:
        default: value if the user gives none.
        least, above, most, below: bounds; see `Option`.
        choices: the allowed values, if they are few.
        unit: unit of the value.
        help: one line for the user.
        speed: whether it trades quality for speed; see `Option`.
    """
    facts = Option(
        least, above, most, below, None if choices is None else tuple(choices), unit, help, speed
    )
    return field(default=default, metadata={"option": facts})


def check_options(algorithm: Any, what: str) -> None:
    """Checks that every option of a dataclass instance is in its declared range.

    Args:
        algorithm: instance of a dataclass whose fields were made by `option`.
        what: text before the option's name in an error ('estimator chain', 'decode'); '--' for an
            option of the command line.

    Raises:
        UserError: an option out of range: `estimator chain max_forwards '0' is not allowed; it must
            be 1 or more`.
    """
    for name, (facts, hint) in _facts(type(algorithm)).items():  # type: ignore[arg-type]
        value = getattr(algorithm, name)
        words = literals(hint)
        word = isinstance(value, str) or not any(
            kind in (int, float, bool) for kind in alternatives(hint)
        )
        if words and value is not None and word and value not in words:
            raise value_error(_full_name(what, name), value, describe(alternatives(hint)))
        if not facts.allows(value):
            shown_value = list(value) if isinstance(value, tuple) else value
            raise value_error(_full_name(what, name), shown_value, facts.allowed())


def parse_options(
    cls: type[T],
    values: Mapping[str, Any],
    what: str,
    *,
    unknown_as: str | None = None,
    needed_by: str | None = None,
) -> T:
    """Returns an instance of `cls`. Texts are cast to the types of its fields.

    Args:
        cls: dataclass of the options.
        values: options by name.
        what: text before the option's name in an error ('--estimator chain').
        unknown_as: the same for an unknown option ('--estimator chain setting'); by default `what`.
        needed_by: the same for a required option that is absent ("decode strategy 'threshold'"); by
            default `what`.

    Raises:
        UserError: an unknown option (with the nearest name), a required one that is absent, a value
            that cannot be cast, or an error that the class itself raises.
    """
    if any(isinstance(value, Field) for value in vars(cls).values()):
        raise UserError(f"{what}: class {cls.__name__} needs @dataclass(frozen=True, kw_only=True)")
    known = option_names(cls)
    for key in values:
        if key not in known:
            raise unknown_name_error(unknown_as or what, key, known)
    for own in fields(cls):  # type: ignore[arg-type]
        if own.init and own.name not in values and default_of(own) is MISSING:
            hint = field_types(cls)[own.name]  # type: ignore[arg-type]
            kind = "NUMBER" if alternatives(hint)[0] in (int, float) else "VALUE"
            raise UserError(f"{needed_by or what} needs {own.name}={kind}")
    given = cast_options(cls, values, what)
    try:
        return cls(**given)
    except DlmEvalError:
        raise
    except Exception as error:  # a user's class may raise anything in `check`
        raise UserError(f"{what}: {cls.__name__} cannot be made: {reason(error)}") from error


def default_of(own: Field[Any]) -> Any:
    """Returns the default of an option, `MISSING` if the user must give it."""
    return own.default if own.default_factory is MISSING else own.default_factory()


def check_option_names(cls: type, base: type, what: str) -> None:
    """Checks that no option of a subclass has the name of an attribute of its base class.

    Args:
        cls: the subclass, whose fields were made by `option`.
        base: the base class.
        what: name of the subclass in an error ("strategy 'klass'").

    Raises:
        UserError: an option with such a name.
    """
    for name, value in vars(cls).items():
        if isinstance(value, Field) and hasattr(base, name):
            raise UserError(
                f"{what}: option '{name}' has the name of an attribute of {base.__name__}; choose "
                "another name"
            )


def cast_options(cls: type, values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Returns options of `cls`, each cast to the type of its field.

    Raises:
        UserError: a value that cannot be cast.
    """
    return {
        name: cast_value(value, field_types(cls)[name], _full_name(what, name))
        for name, value in values.items()
    }


def _full_name(what: str, name: str) -> str:
    return f"{what}{name}" if what == "--" else f"{what} {name}"


def option_names(cls: Any) -> tuple[str, ...]:
    """Returns the names of the options of a dataclass, in the order of its fields."""
    return _option_names(cls)


@functools.cache
def _option_names(cls: Any) -> tuple[str, ...]:
    return tuple(own.name for own in fields(cls) if own.init)


def speed_options(cls: type) -> list[str]:
    """Returns the names of the options of a dataclass that trade quality for speed."""
    return [name for name, (facts, _) in _facts(cls).items() if facts.speed]


def describe_options(cls: type) -> dict[str, dict[str, Any]]:
    """Returns name -> {default, allowed, meaning} for `dlm-eval show`.

    Undeclared properties are left out.
    """
    described = {}
    for own in fields(cls):
        if not own.init:
            continue
        facts, hint = _facts(cls)[own.name]
        default = "required" if default_of(own) is MISSING else default_of(own)
        about = {
            "default": default,
            "allowed": facts.allowed() or describe(alternatives(hint)),
            "meaning": facts.help,
        }
        described[own.name] = {key: value for key, value in about.items() if value != ""}
    return described


def value_error(setting: str, value: object, allowed: str) -> UserError:
    """Returns the error for a value that is not allowed.

    Args:
        setting: the setting ('decode top_p').
        value: its value.
        allowed: the allowed values, in words.
    """
    return UserError(f"{setting} '{shown(value)}' is not allowed; it must be {allowed}")


@functools.cache
def _facts(cls: Any) -> dict[str, tuple[Option, Any]]:
    """Returns name -> (declaration, annotation) of every option."""
    return {
        own.name: (own.metadata.get("option", Option()), field_types(cls)[own.name])
        for own in fields(cls)
        if own.init
    }
