"""The page of the command line, from the parsers."""

from __future__ import annotations

import argparse
import inspect
import re

from reference.text import cell, code, plain, prose, table


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
        code(plain(default)) if shown else "",
        cell(meaning) + (" (needed)" if action.required and names else ""),
    ]
