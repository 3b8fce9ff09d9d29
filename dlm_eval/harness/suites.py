"""Suites: what a paper ran, as one YAML (docs/reproduce/suites.md).

A suite names tasks with the settings of the paper: shots, chat template, decoding, estimator,
answers per document, and the figures that the paper prints. `load_suite` reads one strictly.
`runs_of` groups its entries into runs with equal settings, which `suite_run.py` runs.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from dlm_eval.errors import DlmEvalError, UserError, nearest, unknown_name_error
from dlm_eval.packaged import suite_files
from dlm_eval.rng import digest
from dlm_eval.settings import alternatives, cast_value, describe, field_types, literals, shown
from dlm_eval.yaml_text import read_yaml, read_yaml_text

Protocol = Literal["same", "near", "other"]
Data = Literal["real", "ours", "hub"]
# Of an entry: --tasks has commas and globs, and recorded answers have a file of this name.
NAME = re.compile(r"\w[\w.+-]*")
ONE_TASK = re.compile(r"[^\s,*?\[\]]+")  # neither empty, nor a list, nor a glob of --tasks


@dataclass(frozen=True)
class Conditions:
    """The settings of a run that an entry may set; None leaves the run's own default.

    Attributes:
        num_fewshot: few-shot examples of each prompt.
        apply_chat_template: whether prompts are chat messages, or the name of the template.
        system_instruction: text of the system message.
        fewshot_as_multiturn: whether examples are turns of a conversation.
        decode: settings of `--decode`, for tasks that generate.
        estimator: text of `--estimator`, for tasks that score likelihoods.
        repeats: answers per document.
        limit: number of documents, if the source used the first ones only.
        metadata: settings of `--metadata`.
    """

    num_fewshot: int | None = None
    apply_chat_template: bool | str | None = None
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    decode: Mapping[str, Any] | None = None
    estimator: str | None = None
    repeats: int | None = None
    limit: int | None = None
    metadata: Mapping[str, Any] | None = None

    def given(self) -> dict[str, Any]:
        """Returns the settings that are set, by name."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in own.items() if value is not None}


CONDITIONS = tuple(f.name for f in dataclasses.fields(Conditions))


@dataclass(frozen=True)
class Entry:
    """One line of a paper's table.

    Attributes:
        entry: name, unique in the suite.
        task: a task, group or tag of `--tasks`.
        conditions: settings of its run.
        metric: headline metric; None for the task's first.
        filter: filter of the headline; None for the task's first.
        scale: a published figure is the metric times this.
        published: checkpoint -> figure as printed.
        protocol: how close the entry is to the source.
        sources: what (prompt, decode, published, ...) -> file, line and commit, or table.
        data: 'real' (documents at hand for tests), 'ours' (tests have documents of our own), or
            'hub'.
        extra: extra of the package that the task needs.
        code: whether the task runs generated code.
        departures: how the entry differs from the source, a sentence each.
        without_length: of an entry that tells the model how long the answer is, the entry that asks
            the same without telling it; tables show its figure beside.
    """

    entry: str
    task: str
    conditions: Conditions = Conditions()
    metric: str | None = None
    filter: str | None = None
    scale: float = 100
    published: Mapping[str, float] = field(default_factory=dict)
    protocol: Protocol | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    data: Data | None = None
    extra: str | None = None
    code: bool = False
    departures: tuple[str, ...] = ()
    without_length: str | None = None


@dataclass(frozen=True)
class OutOfReach:
    """A benchmark of the source that cannot be run here, and why."""

    benchmark: str
    reason: str


@dataclass(frozen=True)
class Suite:
    """A paper's evaluation.

    Attributes:
        suite: its name.
        about: one sentence.
        source: repository or paper, with commit or version.
        models: checkpoints or families that the source ran; the first is the default of --model.
        departures: how the whole suite differs from the source.
        entries: what it ran.
        out_of_reach: what it ran and we cannot.
        digest: hash of the content, as in result files.
    """

    suite: str
    about: str
    source: str
    models: tuple[str, ...]
    entries: tuple[Entry, ...]
    departures: tuple[str, ...] = ()
    out_of_reach: tuple[OutOfReach, ...] = ()
    digest: str = ""

    def only(self, names: Sequence[str]) -> Suite:
        """Returns the suite with the entries of these names or globs, in the suite's order.

        Raises:
            UserError: a name or glob matches no entry.
        """
        known = [entry.entry for entry in self.entries]
        for name in names:
            if not any(fnmatchcase(entry, name) for entry in known):
                raise unknown_name_error(f"--tasks of suite {self.suite}: entry", name, known)
        chosen = [e for e in self.entries if any(fnmatchcase(e.entry, name) for name in names)]
        return dataclasses.replace(self, entries=tuple(chosen))


def load_suite(name: str) -> Suite:
    """Returns a packaged suite, or that of a YAML file.

    Task names are checked by `check_tasks`, since lm-eval's index takes seconds to read.

    Raises:
        UserError: there is no such suite; or the YAML has an unknown key, a wrong type, or an
            unknown preset, decode setting, estimator or checkpoint.
    """
    files = suite_files()
    if name in files:
        return _suite(files[name])
    if name.endswith((".yaml", ".yml")):
        return _suite(Path(name))
    raise unknown_name_error("--suite", name, files, "dlm-eval ls suites")


def is_suite_file(path: str) -> bool:
    """Returns whether a YAML file is a suite, and not a task."""
    if not path.endswith((".yaml", ".yml")) or not Path(path).is_file():
        return False
    content = read_yaml_text(path, f"'{path}'")
    return any(line.startswith("suite:") for line in content.splitlines())


def suites() -> dict[str, Suite]:
    """Returns the packaged suites by name."""
    return {name: _suite(path) for name, path in suite_files().items()}


def check_tasks(entries: Iterable[Entry], include_path: Any = None) -> None:
    """Raises UserError, with the nearest name, if a task of an entry is not known.

    lm-eval's index is read only if we lack one of the names.
    """
    from dlm_eval.harness.task_files import all_tasks, unknown_tasks

    entries = list(entries)
    unknown = unknown_tasks([entry.task for entry in entries], include_path)
    for entry in entries:
        if entry.task in unknown:
            near = nearest(entry.task, all_tasks(include_path))
            guess = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(f"entry '{entry.entry}': task '{entry.task}' is not known{guess}")


def plain_suite(suite: Suite) -> dict[str, Any]:
    """Returns a suite as plain data, without what is not set."""
    rows = []
    for entry in suite.entries:
        own = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)}
        rows.append({"entry": own.pop("entry"), "task": own.pop("task"), **_set(own)})
    facts = {f.name: getattr(suite, f.name) for f in dataclasses.fields(suite)}
    unreached = {one.benchmark: one.reason for one in suite.out_of_reach}
    return _set({**facts, "entries": rows, "out_of_reach": unreached})


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Conditions):
            found |= {name: _plain(each) for name, each in value.given().items()}
        elif value not in (None, (), {}, False):
            found[key] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


# -- reading ---------------------------------------------------------------------------------------


def _suite(path: Path) -> Suite:
    what = f"suite '{path.stem}'"
    content = read_yaml(path, what)
    values = _mapping(content, what)
    allowed = [f.name for f in dataclasses.fields(Suite) if f.name != "digest"] + ["settings"]
    _check_keys(values, allowed, ("suite", "entries"), what)
    if values["suite"] != path.stem:
        raise UserError(
            f"{what}: suite '{shown(values['suite'])}' is not allowed; it must be the name of the "
            f"file, '{path.stem}'"
        )
    defaults = _mapping(values.pop("settings", {}) or {}, f"{what}: settings")
    _check_keys(defaults, CONDITIONS, (), f"{what}: settings")
    listed = _list(values.pop("entries"), f"{what}: entries")
    entries = tuple(_entry(one, defaults, what) for one in listed)
    if not entries:
        raise UserError(f"{what}: entries is empty; a suite has at least one")
    _check_names(entries, what)
    unreached = []
    for one in _list(values.pop("out_of_reach", []) or [], f"{what}: out_of_reach"):
        row = _mapping(one, f"{what}: out_of_reach")
        both = ("benchmark", "reason")
        _check_keys(row, both, both, f"{what}: out_of_reach")
        unreached.append(OutOfReach(**{k: _text(v, f"{what}: {k}") for k, v in row.items()}))
    models = _texts(values.pop("models", []) or [], f"{what}: models")
    for name in models:
        _check_model(name, f"{what}: models")
    departures = _texts(values.pop("departures", []) or [], f"{what}: departures")
    rest = {key: _text(value, f"{what}: {key}") for key, value in values.items()}
    return Suite(
        **{"about": "", "source": "", **rest},
        models=models,
        entries=entries,
        departures=departures,
        out_of_reach=tuple(unreached),
        digest=digest(content)[:16],
    )


def _check_names(entries: Sequence[Entry], what: str) -> None:
    """Raises UserError if a name is there twice, or a `without_length` names no entry that asks
    without telling the length.
    """
    named: dict[str, Entry] = {}
    for entry in entries:
        if entry.entry in named:
            raise UserError(
                f"{what}: entry '{entry.entry}' is there twice; names of entries are unique"
            )
        named[entry.entry] = entry
    for entry in entries:
        other = entry.without_length
        if other is None:
            continue
        setting = f"{what}: entry '{entry.entry}': without_length"
        if other not in named or other == entry.entry:
            raise unknown_name_error(setting, other, set(named) - {entry.entry})
        if named[other].without_length is not None:
            raise UserError(
                f"{setting} '{other}' is not allowed; that entry has a without_length too, so it "
                "tells the length"
            )


def _entry(content: Any, defaults: Mapping[str, Any], suite: str) -> Entry:
    values = _mapping(content, f"{suite}: an entry")
    what = f"{suite}: entry '{shown(values.get('entry', '?'))}'"
    own = [f.name for f in dataclasses.fields(Entry) if f.name != "conditions"]
    _check_keys(values, (*own, *CONDITIONS), ("entry", "task"), what)
    given = {**defaults, **{k: v for k, v in values.items() if k in CONDITIONS}}
    rest = {k: v for k, v in values.items() if k in own}
    cast: dict[str, Any] = {
        "conditions": Conditions(**_cast(Conditions, given, what)),
        "departures": _texts(rest.pop("departures", []), f"{what}: departures"),
    }
    entry = Entry(**_cast(Entry, rest, what), **cast)
    if not NAME.fullmatch(entry.entry):
        raise UserError(f"{what} is not allowed; a name is of letters, digits and . _ - +")
    if not ONE_TASK.fullmatch(entry.task):
        raise UserError(
            f"{what}: task '{shown(entry.task)}' is not allowed; it must be one task, group or tag"
        )
    if entry.scale <= 0:
        raise UserError(f"{what}: scale '{entry.scale:g}' is not allowed; it must be above 0")
    _check_conditions(entry.conditions, what)
    for name, figure in entry.published.items():
        _check_model(str(name), f"{what}: published")
        number = isinstance(figure, (int, float)) and not isinstance(figure, bool)
        if not number or not math.isfinite(figure):
            raise UserError(
                f"{what}: published {name} '{shown(figure)}' is not allowed; it must be a finite "
                "number"
            )
    for key, cited in entry.sources.items():
        _text(cited, f"{what}: sources {key}")
    if entry.published and entry.protocol is None:
        raise UserError(f"{what}: protocol is missing; published figures need same, near or other")
    return entry


def _cast(cls: type[Any], values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Returns `values` with the types of a dataclass's fields; text does not become a number."""
    hints = field_types(cls)  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for key, value in values.items():
        setting = f"{what}: {key}"
        hint = hints[key]
        if "Mapping" in str(hint):
            unset = value is None and type(None) in alternatives(hint)
            found[key] = None if unset else _mapping(value, setting)
        elif literals(hint):
            if value not in literals(hint):
                raise unknown_name_error(setting, shown(value), literals(hint))
            found[key] = value
        else:
            if isinstance(value, (list, dict)) or not _fits(value, hint):
                raise UserError(
                    f"{setting} '{shown(value)}' is not allowed; it must be {describe(_kinds(hint))}"
                )
            found[key] = cast_value(value, hint, setting)
    return found


def _kinds(hint: Any) -> tuple[Any, ...]:
    return tuple(kind for kind in alternatives(hint) if kind is not type(None))


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a YAML value has one of the types of an annotation."""
    kinds = _kinds(hint)
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, (int, float)):
        return (isinstance(value, int) and int in kinds) or float in kinds
    return isinstance(value, str) and str in kinds


def _check_conditions(conditions: Conditions, what: str) -> None:
    """Raises UserError for a number, decode setting, preset or estimator that is not allowed."""
    for name, least in (("num_fewshot", 0), ("repeats", 1), ("limit", 1)):
        value = conditions.given().get(name)
        if value is not None and value < least:
            raise UserError(f"{what}: {name} '{value}' is not allowed; it must be {least} or more")
    from dlm_eval.decoding.layers import cast_general
    from dlm_eval.decoding.presets import preset_settings
    from dlm_eval.harness.decode_config import DecodeOptions
    from dlm_eval.likelihood import parse_estimators

    try:
        decode = conditions.decode or {}
        DecodeOptions(decode)
        general = {k: v for k, v in decode.items() if (k, v) != ("steps", "length")}
        cast_general(general, "--decode")
        if decode.get("preset") not in (None, "authors"):
            preset_settings(str(decode["preset"]))
        if conditions.estimator is not None:
            parse_estimators(conditions.estimator)
    except DlmEvalError as error:
        raise UserError(f"{what}: {error}") from error


def _check_model(name: str, what: str) -> None:
    from dlm_eval.models import baselines, checkpoints, known_families

    if name in checkpoints() or name in baselines():  # known without the installed packages
        return
    known = {*checkpoints(), *known_families(), *baselines()}
    if name not in known:
        raise unknown_name_error(what, name, known, "dlm-eval ls models")


def _check_keys(
    values: Mapping[str, Any], allowed: Sequence[str], needed: Sequence[str], what: str
) -> None:
    for key in values:
        if key not in allowed:
            raise unknown_name_error(f"{what}: key", key, allowed)
    for key in needed:
        if values.get(key) is None:
            raise UserError(f"{what}: {key} is missing")


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{what} '{shown(value)}' is not allowed; it must hold key: value")
    for key in value:
        if not isinstance(key, str):
            raise UserError(f"{what}: key '{shown(key)}' is not allowed; a key is text")
    return dict(value)


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{what} '{shown(value)}' is not allowed; it must be a list")
    return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
    return tuple(_text(item, what) for item in _list(value, what))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{what} '{shown(value)}' is not allowed; it must be text")
    return value
