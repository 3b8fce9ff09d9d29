"""Traps: what lm-eval's command line makes of `k=v,...`, and who records it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dlm_eval.patching import replaced


class Pairs(argparse.Action):
    """Parses `k=v,...` or JSON on the command line, and merges repeated options.

    Upstream (lm-eval 0.4.13): `_cli.utils.MergeDictAction` parses the whole text as JSON if a value
    contains braces (`device_map={"": "cpu"}`), and its errors do not name the option.
    """

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        from lm_eval._cli.utils import MergeDictAction, key_val_to_dict

        from dlm_eval.errors import UserError

        try:
            if values and not values[0].lstrip().startswith("{"):
                values = [
                    {key: value for text in values for key, value in key_val_to_dict(text).items()}
                ]
            MergeDictAction.__call__(self, parser, namespace, values, option_string)
        except ValueError as error:
            given = " ".join(map(str, values))
            raise UserError(
                f"{option_string} '{given}' is not key=value,... or JSON: {error}"
            ) from error


def run_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds lm-eval's parser of `run` to `subparsers` and returns it; `Pairs` reads its pairs.

    Upstream (lm-eval 0.4.13): the parser takes the beginning of an option's name for the option.
    """
    from lm_eval._cli.run import Run
    from lm_eval._cli.utils import MergeDictAction

    Run.create(subparsers)
    parser: argparse.ArgumentParser = subparsers.choices["run"]
    parser.allow_abbrev = False
    for action in parser._actions:
        if isinstance(action, MergeDictAction):
            action.__class__ = Pairs
    return parser


@contextmanager
def public_command_line() -> Iterator[None]:
    """Hides secrets in `sys.argv` while results are logged.

    Upstream (lm-eval 0.4.13): the loggers of W&B and Trackio record `sys.argv`.
    """
    from dlm_eval.redaction import learn_words, redact_message

    learn_words(sys.argv)
    with replaced(sys, "argv", [redact_message(word) for word in sys.argv]):
        yield
