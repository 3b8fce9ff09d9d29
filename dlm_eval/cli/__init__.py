"""The command `dlm-eval`.

Only argument parsing is imported at the start, so that `--help` is fast. torch is imported when a
run needs it.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from dlm_eval import __version__
from dlm_eval.cli import (
    baseline,
    cache,
    check,
    compare,
    export,
    leaderboard,
    ls,
    merge,
    probe,
    run,
    sweep,
    trace,
    validate,
    view,
)
from dlm_eval.errors import DlmEvalError, UserError, nearest, unknown_name_error
from dlm_eval.output import log_to_stderr, safe_output
from dlm_eval.redaction import learn_words
from dlm_eval.signals import INTERRUPTED, discard_output, orderly, print_interrupted

EXAMPLES = """
examples:
  dlm-eval --model tiny --tasks demo                                  the packaged model on the packaged tasks
  dlm-eval --model diffullama --tasks gsm8k                           a published model on a benchmark
  dlm-eval --model llada --model_args pretrained=DIR --tasks gsm8k --data_dir DATA --limit 5
  dlm-eval --suite demo                                               what a paper ran, with its settings
  dlm-eval ls models | tasks | suites | estimators | strategies | presets   what there is
  dlm-eval trace --model tiny --prompt "Anna had" --html trace.html   watch one text being written
  dlm-eval sweep --model tiny --tasks demo --decode steps=2,4,8 -o DIR  accuracy against tokens per forward
  dlm-eval probe --model ddlm --model_args pretrained=DIR             linear probes of a model's features on GLUE
  dlm-eval leaderboard results/ -o leaderboards/mine.csv              tables from result files
  dlm-eval view results/                                              scores and samples as web pages
  dlm-eval compare A B                                                what moved between two runs, and its effect
  dlm-eval check RUN --baseline FILE                                  has a score become worse? (exit code 3)
  dlm-eval export parquet results/ -o FOLDER                          runs, scores and samples as data
"""
EXIT_CODES = {
    0: "done",
    1: "a part failed (samples, a metric, a report) and the rest is saved; `check`: the run is broken",
    2: "a mistake in the command, a file or the environment: one line says what is allowed",
    3: "`check` found a regression",
    INTERRUPTED: "interrupted; finished answers are in the journal",
}


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line with the nearest name, and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        raise _in_our_words(message)


# Allowed values of options that lm-eval parses.
MUST_BE = {
    "--samples": "JSON of task -> list of document numbers, or a file of it",
    "--seed": "one to four whole numbers",
}


def _in_our_words(message: str) -> UserError:
    """Returns our error for a message of argparse, which would name Python types."""
    if choice := re.fullmatch(
        r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message
    ):
        return unknown_name_error(choice[1], choice[2], re.findall(r"[\w-]+", choice[3]))
    if wrong := re.fullmatch(r"argument (--\w+)\S*: invalid (.*) value: (.*)", message):
        kind = {"float": "a number", "int": "a whole number"}.get(
            wrong[2], MUST_BE.get(wrong[1], "another value")
        )
        return UserError(f"{wrong[1]} {wrong[3]} is not allowed; it must be {kind}")
    return UserError(message)


def _unrecognized(
    parser: argparse.ArgumentParser, parsed: argparse.Namespace, rest: list[str]
) -> UserError:
    """Returns the error for unknown arguments, with the nearest option of the command."""
    known = list(parser._option_string_actions)
    verbs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    while verbs:
        child = verbs[0].choices[getattr(parsed, verbs[0].dest)]
        known += child._option_string_actions
        verbs = [
            action for action in child._actions if isinstance(action, argparse._SubParsersAction)
        ]
    given = rest[0].split("=")[0]
    near = (
        nearest(given.lstrip("-"), [name[2:] for name in known if name.startswith("--")])
        if given[:1] == "-"
        else []
    )
    guess = f"; did you mean '--{near[0]}'?" if near else ""
    return UserError(f"unrecognized arguments: {' '.join(rest)}{guess}")


def build_parser() -> argparse.ArgumentParser:
    """Returns the whole command line."""
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = Parser(
        prog="dlm-eval",
        description="Evaluate diffusion language models on lm-evaluation-harness.",
        epilog=f"{EXAMPLES}\nexit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dlm-eval {__version__}")
    subparsers: Any = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    parsers = (run.add_parser, ls.add_parser, ls.add_show, validate.add_parser)
    for add_parser in (
        *parsers,
        merge.add_parser,
        cache.add_parser,
        trace.add_parser,
        sweep.add_parser,
        probe.add_parser,
        leaderboard.add_parser,
        view.add_parser,
        compare.add_parser,
        check.add_parser,
        baseline.add_parser,
        export.add_parser,
    ):
        add_parser(subparsers)
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    parsed, rest = parser.parse_known_args(arguments)
    if rest:
        raise _unrecognized(parser, parsed, rest)
    return parsed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code, one of `EXIT_CODES`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):  # a closed stream is None, which libraries do not expect
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    learn_words(arguments)
    with safe_output():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads are slow
    try:
        parser = build_parser()
        # As in lm-eval, `run` is optional.
        if (
            arguments
            and arguments[0].startswith("-")
            and arguments[0] not in ("-h", "--help", "--version")
        ):
            arguments.insert(0, "run")
        parsed = _parse(parser, arguments)
        if parsed.command is None:
            parser.print_help()
            return 0
        with orderly(), log_to_stderr():
            code = int(parsed.main(parsed) or 0)
            sys.stdout.flush()
            return code
    except UserError as error:
        return _say(error, 2)
    except DlmEvalError as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        print_interrupted()
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return 0


def _say(error: DlmEvalError, code: int) -> int:
    print(f"dlm-eval: error: {' '.join(str(error).split())}", file=sys.stderr)
    logging.getLogger(__name__).debug("traceback of the error", exc_info=error)
    return code


if __name__ == "__main__":
    sys.exit(main())
