"""The pages of what has a name: settings, strategies, estimators, presets, checkpoints, tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reference.text import cell, code, docstring, options_table, plain, prose, table


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
        line = (
            f"For models of process {', '.join(facts['processes'])}; schedule: {facts['schedule']}."
        )
        parts += _section(name, facts["about"], line, facts["options"])
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
        line = f"Kind: {prose(facts['kind'])}. Forwards: {prose(facts['forwards'])}."
        parts += _section(name, facts["about"], line, facts["settings"])
    return "\n".join(parts)


def _section(name: str, about: str, line: str, options: Mapping[str, Any]) -> list[str]:
    """Returns the part of a page about one strategy or estimator."""
    own = [options_table(options)] if options else []
    return [f"## `{name}`\n", docstring(about) + "\n", line + "\n", *own]


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
        decode_presets(), lambda p: ",".join(f"{k}={plain(v)}" for k, v in p.settings.items())
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
