"""The page of YAML keys, from the schemas."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from reference.text import cell, code, options_table, plain, table


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
        default = "" if own.default is dataclasses.MISSING else plain(own.default)
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
