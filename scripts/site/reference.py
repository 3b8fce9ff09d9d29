"""The reference pages that are made at build: from the parsers, the schemas, the registries and `__all__`.

`pages()` is what hooks.py adds to the site. A text that is wrong here is mended where it is declared.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

PYTHON = {
    "dlm_eval": "Loading a model, evaluating, scoring and filling canvases.",
    "dlm_eval.decoding": "Decoding: what fills the open positions, and what a strategy of your own extends.",
    "dlm_eval.likelihood": "Likelihoods: estimators, and what an estimator of your own extends.",
    "dlm_eval.models": "Models by name.",
    "dlm_eval.models.denoiser": "What a model is: `Denoiser`, and protocols of what some models can do besides.",
    "dlm_eval.testing": "Regression tests for pytest.",
}


def pages() -> dict[str, str]:
    """Returns the generated pages by their place below docs/."""
    return {
        "reference/cli.md": cli(),
        "reference/yaml.md": yaml_keys(),
        "reference/decode-settings.md": decode_settings(),
        "reference/strategies.md": strategies(),
        "reference/estimators.md": estimators(),
        "reference/presets.md": presets(),
        "reference/checkpoints.md": checkpoints(),
        "reference/task-list.md": task_list(),
        "reference/python.md": python_api(),
        "reference/metrics.md": metrics(),
    }


# -- text ------------------------------------------------------------------------------------------


def prose(text: Any) -> str:
    """Returns plain text as Markdown: what is outside of backticks has no markup."""
    parts = re.split(r"(``?[^`]+``?)", str(text))
    escaped = [
        part.replace("``", "`") if part[:1] == "`" else re.sub(r"([\\*_<>\[\]])", r"\\\1", part)
        for part in parts
    ]
    return "".join(escaped)


def cell(text: Any) -> str:
    """Returns plain text for a cell of a table."""
    return " ".join(prose(text).split()).replace("|", "\\|")


def code(value: Any) -> str:
    """Returns a value as inline code, or nothing for none."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    return f"`{text}`" if text else ""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of cells that are Markdown; columns that are empty in all rows are left out."""
    listed = [list(row) for row in rows]
    used = [i for i in range(len(headers)) if i == 0 or any(row[i] for row in listed)]
    lines = [[headers[i] for i in used], ["---"] * len(used)]
    lines += [[row[i] for i in used] for row in listed]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def options_table(described: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table of `describe_options`."""
    return table(
        ("setting", "default", "allowed", "meaning"),
        [
            [code(n), code(_plain(o.get("default"))), cell(o.get("allowed", "")), cell(o.get("meaning", ""))]
            for n, o in described.items()
        ],
    )  # fmt: skip


def _plain(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(_plain, value)) + "]"
    return str(value)


def docstring(text: str) -> str:
    """Returns a docstring as Markdown: its paragraphs and its lists, without sections such as Attributes."""
    body = re.split(r"^(?:Attributes|Args|Raises|Returns):$", inspect.cleandoc(text), flags=re.M)[0]
    body = re.sub(r"(?<=\S)\n(?=[*-] )", "\n\n", body.strip())
    return prose(body).replace("\n\\* ", "\n* ")


# -- the command line ------------------------------------------------------------------------------


def cli() -> str:
    """Returns the page of the commands."""
    from dlm_eval.cli import EXAMPLES, EXIT_CODES, build_parser

    parser = build_parser()
    examples = inspect.cleandoc(EXAMPLES.partition("examples:\n")[2]).splitlines()
    examples = [[*re.split(r" {2,}", line), ""] for line in examples]
    parts = [
        "# Command line\n",
        "Without the name of a command, `dlm-eval` is `dlm-eval run`. Options that take settings are "
        "written `k=v,k=v`; commas inside brackets belong to a value.\n",
        table(("example", "what it does"), [[code(one[0]), cell(one[1])] for one in examples]),
        "## Exit codes\n",
        table(("code", "meaning"), [[code(n), cell(said)] for n, said in EXIT_CODES.items()]),
    ]
    for name, sub, about in _commands(parser):
        parts += _command(f"dlm-eval {name}", sub, about, 2)
    return "\n".join(parts)


def _commands(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser, str]]:
    """Returns (name, parser, help) of the commands below a parser."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            about = {choice.dest: choice.help or "" for choice in action._choices_actions}
            found += [(name, sub, about.get(name, "")) for name, sub in action.choices.items()]
    return found


def _command(name: str, parser: argparse.ArgumentParser, about: str, level: int) -> list[str]:
    formatter = parser._get_formatter()
    usage = re.sub(r"^usage: ", "", parser.format_usage())
    parts = [f"{'#' * level} `{name}`\n", f"{prose(about.strip())}\n"]
    below = _commands(parser)
    if not below:
        parts.append(f"```text\n{usage.strip()}\n```\n")
    if parser.description not in (None, about):
        parts.append(_said(parser.description))
    if parser.epilog:
        parts.append(_said(parser.epilog))
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS
            and not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
        ]
        if actions:
            title = group.title or ""
            if title not in ("positional arguments", "options", "optional arguments"):
                parts.append(f"{'#' * (level + 1)} {name}: {title}\n")
            rows = [_option(action, formatter) for action in actions]
            parts.append(table(("option", "value", "default", "meaning"), rows))
    for sub_name, sub, sub_about in below:
        parts += _command(f"{name} {sub_name}", sub, sub_about, level + 1)
    return parts


def _said(text: str) -> str:
    """Returns the description or the epilog of a command: paragraphs, and what is laid out as it stands."""
    text = inspect.cleandoc(text)
    if re.search(r"^\S+ {2,}", text, re.MULTILINE):
        return f"```text\n{text}\n```\n"
    return f"{prose(text)}\n"


def _option(action: argparse.Action, formatter: argparse.HelpFormatter) -> list[str]:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    value = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
    default = action.default
    shown = default not in (None, argparse.SUPPRESS, [], (), "") and action.nargs != 0
    meaning = formatter._expand_help(action) if action.help else ""
    return [
        names or code(value),
        code(value) if names else "",
        code(_plain(default)) if shown else "",
        cell(meaning) + (" (needed)" if action.required and names else ""),
    ]


# -- YAML ------------------------------------------------------------------------------------------


def yaml_keys() -> str:
    """Returns the page of the keys of all YAML files."""
    begin = [
        "# Keys of YAML files\n",
        "An unknown key is an error with the nearest one. Tables are read from the code that reads the files.\n",
    ]
    files = (_task_keys, _suite_keys, _board_keys, _rule_keys, _run_keys, _packaged_keys)
    return "\n".join([*begin, *(part for keys in files for part in keys())])


def _task_keys() -> list[str]:
    from dlm_eval.harness.blocks import BlockSpec
    from dlm_eval.harness.choices import ChoiceSpec
    from dlm_eval.harness.infill import InfillSpec
    from dlm_eval.harness.task_metadata import METADATA

    return [
        "## Tasks\n",
        "A task is a YAML of lm-eval ([writing a task](tasks.md#writing-a-task)). What dlm_eval adds stands "
        "under `metadata`; some of it can be given with `--metadata k=v` too.\n",
        _keys(METADATA),
        "### `metadata.infill`\n",
        fields_table(InfillSpec),
        "### `metadata.choices`\n",
        fields_table(ChoiceSpec),
        "### `metadata.blocks`\n",
        fields_table(BlockSpec),
    ]


def _suite_keys() -> list[str]:
    from dlm_eval.harness.suites import Conditions, Entry, OutOfReach, Suite

    return [
        "## Suites\n",
        "What a paper ran ([Suites](../reproduce/suites.md)). `settings` holds defaults for all entries: the keys of "
        "an entry's conditions.\n",
        fields_table(Suite, without=("digest",), more={"settings": "conditions of all entries"}),
        "### Entries of a suite\n",
        fields_table(Entry, without=("conditions",)),
        "### Conditions of an entry\n",
        fields_table(Conditions),
        "### Out of reach\n",
        table(("key", "meaning"), [[code(f.name), "text"] for f in dataclasses.fields(OutOfReach)]),
    ]


def _board_keys() -> list[str]:
    from dlm_eval.reports.board.board_file import KEYS

    parts = ["## Boards\n", "Tables of results ([Leaderboards](../guides/leaderboards.md)).\n"]
    for part, keys in KEYS.items():
        parts += [f"### Boards: `{part}`\n"] if part else []
        parts.append(_keys(keys))
    return parts


def _rule_keys() -> list[str]:
    from dlm_eval.options import describe_options
    from dlm_eval.reports.regression.rules import Rules, TaskRules

    return [
        "## Rules of `dlm-eval check`\n",
        "What makes a check fail ([Regression](../guides/regression.md)). `tasks` maps names of tasks to their rules.\n",
        options_table({k: v for k, v in describe_options(Rules).items() if k != "tasks"}),
        "### Rules of a task\n",
        options_table(describe_options(TaskRules)),
    ]


def _run_keys() -> list[str]:
    from dlm_eval.harness.run_settings import RunSettings

    return [
        "## Settings of a run: `--config`\n",
        "The file of `--config` has the options of `dlm-eval run` without `--`; options of the command line come first.\n",
        fields_table(RunSettings),
    ]


def _packaged_keys() -> list[str]:
    from dlm_eval.decoding.presets import Preset
    from dlm_eval.likelihood.presets import EstimatorPreset
    from dlm_eval.models.catalog import Checkpoint, Family

    return [
        "## `checkpoints.yaml`\n",
        "Models by name, a file of the package ([all of them](checkpoints.md)).\n",
        "### `checkpoints.yaml`: families\n",
        fields_table(Family, without=("name",)),
        "### `checkpoints.yaml`: checkpoints\n",
        fields_table(Checkpoint, without=("name",)),
        "## `presets.yaml`\n",
        "Published settings, files of the package ([all of them](presets.md)): decode settings and estimators.\n",
        "### `presets.yaml`: decode settings\n",
        fields_table(Preset, without=("name",)),
        "### `presets.yaml`: estimators\n",
        fields_table(EstimatorPreset, without=("name",)),
    ]


def _keys(meanings: Mapping[str, str]) -> str:
    return table(("key", "meaning"), [[code(key), cell(said)] for key, said in meanings.items()])


def fields_table(
    cls: type[Any], without: Sequence[str] = (), more: Mapping[str, str] | None = None
) -> str:
    """Returns the table of a schema: the fields of a dataclass, with the docs of its attributes.

    Args:
        cls: the dataclass.
        without: fields that are left out.
        more: keys that are no fields, with their meaning.
    """
    from dlm_eval.settings import alternatives, attribute_docs, describe, field_types

    meanings: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        meanings |= attribute_docs(inspect.getdoc(one) or "")
    rows = []
    for own in dataclasses.fields(cls):
        if own.name in without or own.name.startswith("_"):
            continue
        required = own.default is dataclasses.MISSING and own.default_factory is dataclasses.MISSING
        default = "" if own.default is dataclasses.MISSING else _plain(own.default)
        kinds = [
            kind for kind in alternatives(field_types(cls)[own.name]) if kind is not type(None)
        ]
        rows.append(
            [
                code(own.name),
                "needed" if required else code(default),
                cell(describe(tuple(kinds))) if _simple(kinds) else "",
                cell(meanings.get(own.name, "")),
            ]
        )
    rows += [[code(key), "", "", cell(said)] for key, said in (more or {}).items()]
    return table(("key", "default", "allowed", "meaning"), rows)


def _simple(kinds: Sequence[Any]) -> bool:
    return all(
        kind in (str, int, float, bool) or typing.get_origin(kind) is typing.Literal
        for kind in kinds
    )


# -- registries ------------------------------------------------------------------------------------


def decode_settings() -> str:
    """Returns the page of the general decode settings."""
    from dlm_eval.decoding import DecodeSettings
    from dlm_eval.options import describe_options

    described = {k: v for k, v in describe_options(DecodeSettings).items() if k != "strategy"}
    return (
        "# Decode settings\n\n"
        "Settings of `--decode k=v,...` that belong to no strategy; `dlm-eval sweep` takes lists of them. "
        "[Decoding](decoding.md) explains them; [strategies](strategies.md) have settings of their own. "
        "`preset=NAME` stands for [published ones](presets.md), `strategy=NAME` for the strategy, and "
        "`gen_length=N` for the length of the hole.\n\n" + options_table(described)
    )


def strategies() -> str:
    """Returns the page of the strategies."""
    from dlm_eval.decoding import STRATEGIES, describe_strategies, describe_strategy

    lines = describe_strategies()
    names = [name for name in lines if name not in STRATEGIES.aliases]
    parts = [
        "# Decoding strategies\n",
        "Values of `--decode strategy=`, with the settings that each has besides the "
        "[general ones](decode-settings.md). Yours: [a strategy](../guides/adding-a-strategy.md).\n",
        table(
            ("strategy", "about"),
            [
                [f"`{name}`" if name in STRATEGIES.aliases else f"[`{name}`](#{name})", cell(said)]
                for name, said in lines.items()
            ],
        ),
    ]
    for name in names:
        facts = describe_strategy(name)
        parts += [
            f"## `{name}`\n",
            docstring(facts["about"]) + "\n",
            f"For models of process {', '.join(facts['processes'])}; schedule: {facts['schedule']}.\n",
        ]
        if facts["options"]:
            parts.append(options_table(facts["options"]))
    return "\n".join(parts)


def estimators() -> str:
    """Returns the page of the estimators."""
    from dlm_eval.likelihood.estimator import ESTIMATORS, about, describe_estimator

    listed = {k: v for k, v in ESTIMATORS.listed().items() if not isinstance(v, str)}
    parts = [
        "# Likelihood estimators\n",
        "Values of `--estimator NAME[,k=v]`. [Likelihood](likelihood.md) explains them, "
        "[presets](presets.md#estimators) are those of authors. Yours: [an estimator](../guides/adding-an-estimator.md).\n",
        table(
            ("estimator", "kind", "forwards", "about"),
            [
                [f"[`{name}`](#{name})", cell(cls.kind), cell(cls.cost), cell(about(cls))]
                for name, cls in listed.items()
            ],
        ),
    ]
    for name in listed:
        facts = describe_estimator(name)
        parts += [
            f"## `{name}`\n",
            docstring(facts["about"]) + "\n",
            f"Kind: {prose(facts['kind'])}. Forwards: {prose(facts['forwards'])}.\n",
        ]
        if facts["settings"]:
            parts.append(options_table(facts["settings"]))
    return "\n".join(parts)


def presets() -> str:
    """Returns the page of the published settings."""
    from dlm_eval.decoding.presets import presets as decode_presets
    from dlm_eval.likelihood.presets import estimator_presets

    def rows(found: Mapping[str, Any], shown: Callable[[Any], str]) -> list[list[str]]:
        return [
            [code(p.name), cell(", ".join(p.checkpoints or p.families) or "any"), cell(p.task or ""),
             code(shown(p)), cell(p.source)]
            for p in found.values()
        ]  # fmt: skip

    headers = ("preset", "models", "task", "settings", "source")
    writing = rows(
        decode_presets(), lambda p: ",".join(f"{k}={_plain(v)}" for k, v in p.settings.items())
    )
    return "\n".join(
        [
            "# Published settings\n",
            "`--decode preset=NAME` and `--estimator preset=NAME` take one; `preset=authors` takes that of the "
            "checkpoint's authors for each task. Other settings beside it replace the preset's.\n",
            "## Decode settings\n",
            table(headers, writing),
            "## Estimators\n",
            table(headers, rows(estimator_presets(), lambda p: p.estimator)),
        ]
    )


def checkpoints() -> str:
    """Returns the page of the families, their options and the named checkpoints."""
    from dlm_eval.models import baselines, option_docs, unsupported
    from dlm_eval.models import checkpoints as named
    from dlm_eval.models.catalog import own_families

    families = own_families()
    parts = [
        "# Families and checkpoints\n",
        "Values of `--model`. A family is an adapter; a checkpoint is a family with published weights. "
        "`--model FAMILY --model_args pretrained=ID_OR_DIR` runs other weights of the family. [Models](models.md) "
        "explains what a checkpoint must have.\n",
        table(
            ("family", "process", "default checkpoint", "about"),
            [
                [f"[`{f.name}`](#{f.name})", f.process, code(f.default or ""), cell(f.about)]
                for f in families.values()
            ],
        ),
    ]
    for name, family in families.items():
        parts += [f"## `{name}`\n", f"{prose(family.about)}.\n"]
        rows = [
            [code(c.name), code(c.options.get("pretrained", "")), _size(c.size), cell(c.licence),
             "yes" if c.chat else ""]
            for c in named().values() if c.family == name
        ]  # fmt: skip
        if rows:
            parts.append(table(("checkpoint", "weights", "parameters", "licence", "chat"), rows))
        docs = option_docs(name)
        parts.append(table(("option", "meaning"), [[code(o), cell(d)] for o, d in docs.items()]))
    parts += [
        "## Autoregressive models by name\n",
        "Run by lm-eval's `hf`; any other of lm-eval's models runs too ([Baselines](../guides/baselines.md)).\n",
        table(
            ("model", "weights", "parameters", "licence", "about"),
            [
                [code(n), code(b["options"]["pretrained"]), _size(b["size"]), cell(b["licence"]), cell(b["about"])]
                for n, b in baselines().items()
            ],
        ),
        "## Not supported\n",
        table(("model", "reason"), [[code(n), cell(why)] for n, why in unsupported().items()]),
    ]  # fmt: skip
    return "\n".join(parts)


def _size(parameters: float | None) -> str:
    if not parameters:
        return ""
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def task_list() -> str:
    """Returns the page of the packaged tasks and suites."""
    from dlm_eval.harness.suites import suites
    from dlm_eval.harness.task_files import list_tasks

    return "\n".join(
        [
            "# List of tasks and suites\n",
            "## Suites\n",
            "Values of `--suite` ([Suites](../reproduce/suites.md)).\n",
            table(
                ("suite", "entries", "about", "source"),
                [
                    [code(s.suite), str(len(s.entries)), cell(s.about), cell(s.source)]
                    for s in suites().values()
                ],
            ),
            "## Tasks\n",
            "Tasks, groups and tags of this package; those of lm-eval run too (`dlm-eval ls tasks --all`). "
            "[Tasks](tasks.md) explains them.\n",
            table(
                ("task", "kind", "about"),
                [[code(n), cell(kind), cell(about)] for n, kind, about in list_tasks()],
            ),
        ]
    )


# -- Python ----------------------------------------------------------------------------------------


def python_api() -> str:
    """Returns the page of what the packages export."""
    parts = [
        "# Python\n",
        "What is documented here is public; everything else may change. Metrics have "
        "[a page of their own](metrics.md).\n",
    ]
    shown: set[str] = set()
    for package, about in PYTHON.items():
        parts += [f"## {package}\n", f"{about}\n"]
        for path in exported(package):
            if path not in shown:
                shown.add(path)
                parts.append(f"::: {path}\n")
    return "\n".join(parts)


def exported(package: str) -> list[str]:
    """Returns the paths of a package's `__all__`, or of what a module defines: where each is defined."""
    module = importlib.import_module(package)
    if names := vars(module).get("__all__"):
        return [_defined(package, name, getattr(module, name)) for name in names]
    own = [
        (inspect.getsourcelines(value)[1], f"{package}.{name}")
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == package
    ]
    return [path for _, path in sorted(own)]


def _defined(package: str, name: str, value: Any) -> str:
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{package}.{name}"


def metrics() -> str:
    """Returns the page of the scoring functions."""
    import dlm_eval.metrics

    parts = [
        "# Metrics\n",
        inspect.cleandoc(dlm_eval.metrics.__doc__ or "").replace("``", "`") + "\n",
    ]
    for found in pkgutil.iter_modules(dlm_eval.metrics.__path__):
        name = f"dlm_eval.metrics.{found.name}"
        about = inspect.cleandoc(importlib.import_module(name).__doc__ or "").split("\n\n")[0]
        parts += [f"## {name}\n", f"{prose(about)}\n"]
        parts += [f"::: {path}\n" for path in exported(name)]
    return "\n".join(parts)
