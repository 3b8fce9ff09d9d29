"""`dlm-eval trace`: shows the decoding of one text step by step, in the terminal, as a web page or
as JSON. The text is written now, or is an answer of a run with `--log_trajectories`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.model_options import load_chosen, model_arguments
from dlm_eval.cli.options import OPTIONS, add_options, path_of
from dlm_eval.errors import SampleError, UserError, unknown_name_error
from dlm_eval.output import one_line, write_raw
from dlm_eval.redaction import redact_text

if TYPE_CHECKING:
    from dlm_eval.reports.trace.logged import Logged, LoggedRun
    from dlm_eval.reports.trace.recording import Recording

log = logging.getLogger(__name__)
LENGTH = 32  # default number of open positions
NEEDED = ("model", "prompt")  # without --from
OF_MODEL = ("model", "model_args", "prompt", "infill", "decode", "device", "length", "seed", "apply_chat_template")  # fmt: skip
OF_RUN = ("task", "doc", "answer", "jsonl")  # only with --from


def add_parser(subparsers: Any) -> None:
    """Adds `trace`."""
    text = (
        "show step by step how a model writes after a prompt, or between a prompt and a suffix; or"
        " how an answer of a run was written (--from)"
    )
    parser = subparsers.add_parser(
        "trace",
        help="show step by step how a text is written",
        description=text,
        allow_abbrev=False,
    )
    parser.add_argument("--model", help=OPTIONS["--model"]["help"])
    add_options(parser, "--model_args", "--decode", "--device")
    parser.add_argument("--prompt", help="text before the hole")
    parser.add_argument("--infill", metavar="SUFFIX", help="text after the hole")
    parser.add_argument(
        "--length",
        type=int,
        metavar="N",
        help=f"open positions (default: {LENGTH}, or gen_length of --decode)",
    )
    parser.add_argument("--seed", type=int, help="of random draws (default: 0)")
    parser.add_argument(
        "--apply_chat_template",
        action="store_true",
        default=None,
        help="the prompt is a user's message to a chat model",
    )
    stored = parser.add_argument_group("an answer of a run with --log_trajectories")
    stored.add_argument(
        "--from",
        dest="run",
        type=path_of("--from", str),
        metavar="RUN",
        help="results file, samples file, or folder of the run (its newest results)",
    )
    stored.add_argument("--task", help="task of the run; needed if it has several")
    stored.add_argument("--doc", type=int, metavar="N", help="number of the document (doc_id)")
    stored.add_argument(
        "--answer", type=int, metavar="K", help="which of a document's answers, from 0 (default: 0)"
    )
    stored.add_argument(
        "--jsonl",
        type=path_of("--jsonl", str),
        metavar="FILE",
        help="write all trajectories of the run (or task, or document)",
    )
    parser.add_argument(
        "--html",
        type=path_of("--html", str),
        metavar="FILE",
        help="write a web page with a slider over the steps",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        type=path_of("--json", str),
        metavar="FILE",
        help="write every step as JSON, without FILE to standard output",
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Fills the hole, or reads a run's trajectories, and shows the steps of decoding."""
    _check(args)
    if args.jsonl:
        return _export(args)
    recording = _stored(args) if args.run is not None else _record(args)
    texts: dict[Path, str] = {}
    if args.html:
        from dlm_eval.reports.trace.page import page

        texts[Path(args.html)] = page(recording)
    if args.json:
        import json

        text = json.dumps(recording.plain(), allow_nan=False) + "\n"
        if args.json == "-":
            sys.stdout.write(text)
        else:
            texts[Path(args.json)] = text
    if texts:
        from dlm_eval.reports.files.write import write_files

        write_files(texts)
        print(
            "\n".join(one_line(str(path)) for path in texts),
            file=sys.stderr if args.json == "-" else sys.stdout,
        )
    elif not args.json:
        _print(recording)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises UserError for options that are missing or exclude each other."""
    if args.html and args.html == args.json:
        raise UserError(f"--html and --json name one file, '{args.html}'; give two")
    if args.run is None:
        if missing := [f"--{name}" for name in NEEDED if getattr(args, name) is None]:
            raise UserError(f"the following arguments are required: {', '.join(missing)}")
        if extra := [f"--{name}" for name in OF_RUN if getattr(args, name) is not None]:
            raise UserError(f"{extra[0]} needs --from")
        return
    if extra := [f"--{name}" for name in OF_MODEL if getattr(args, name) is not None]:
        raise UserError(f"{extra[0]} and --from exclude each other; --from runs no model")
    if args.jsonl and (args.html or args.json or args.answer is not None):
        raise UserError("--jsonl writes all answers; leave out --html, --json and --answer")
    if not args.jsonl and args.doc is None:
        raise UserError("--from needs --doc N, or --jsonl FILE for all documents")


def _export(args: argparse.Namespace) -> int:
    """Writes trajectories as JSON lines."""
    import json

    from dlm_eval.reports.files.write import write_files

    _, found = _trajectories(args)
    text = "".join(json.dumps(one.plain(), allow_nan=False) + "\n" for one in found)
    if args.jsonl == "-":
        sys.stdout.write(text)
    else:
        write_files({Path(args.jsonl): text})
        print(one_line(args.jsonl))
    return 0


def _stored(args: argparse.Namespace) -> Recording:
    from dlm_eval.reports.trace.logged import choose

    run, found = _trajectories(args)
    if tasks := list(dict.fromkeys(one.task for one in found))[1:]:
        raise UserError(
            f"--task is missing; {found[0].task} and {', '.join(tasks)} have document {args.doc}"
        )
    return run.recording(choose(found, args.answer))


def _trajectories(args: argparse.Namespace) -> tuple[LoggedRun, list[Logged]]:
    """Returns the run and its trajectories, of --task and --doc if they are given."""
    from dlm_eval.reports.trace.logged import described, find_logged

    run = find_logged(args.run)
    if args.task is not None and args.task not in run.samples:
        raise unknown_name_error("--task", args.task, run.samples)
    tasks = [args.task] if args.task is not None else list(run.samples)
    found = [one for task in tasks for one in run.trajectories(task)]
    if not found:
        raise UserError(described(run, args.run, tasks))
    chosen = [one for one in found if args.doc in (None, one.doc_id)]
    if not chosen:
        numbers = sorted({one.doc_id for one in found})
        raise UserError(
            f"--doc '{args.doc}' has no trajectory; there are {len(numbers)}, from {numbers[0]} to "
            f"{numbers[-1]}"
        )
    return run, chosen


def _record(args: argparse.Namespace) -> Recording:
    from dlm_eval.harness.decode_config import DecodeOptions
    from dlm_eval.harness.decode_layers import user_layer
    from dlm_eval.harness.decode_warnings import steps_without_effect
    from dlm_eval.harness.requests import Hole, Length, hole_canvas
    from dlm_eval.reports.trace.recording import record
    from dlm_eval.settings import parse_pairs

    suffix = args.infill or ""
    for name, text in (("prompt", args.prompt), ("infill", suffix)):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"--{name} is not valid UTF-8")
    decode = user_layer({}, parse_pairs(",".join(args.decode or ()), "--decode"))
    arguments = model_arguments(args.model_args)
    if decode.get("preset") != "authors":  # find wrong settings before a model is loaded
        _settings(DecodeOptions.before_loading(decode, args.model, arguments, LENGTH), args)
    model = load_chosen(args.model, arguments, args.device)
    settings, length = _settings(DecodeOptions.of(decode, model, LENGTH), args)
    for line in steps_without_effect(decode, settings):
        log.warning(line)
    try:
        prompt = (
            model.apply_chat_template([{"role": "user", "content": args.prompt}])
            if args.apply_chat_template
            else args.prompt
        )
        hole = Hole(Length(length), suffix)
        prepared = hole_canvas(model, prompt, length, hole, "", "error")
    except SampleError as error:
        raise UserError(f"--prompt with a hole of {length}: {error}") from error
    return record(model, prepared.canvas, settings, args.seed or 0)


def _settings(options: Any, args: argparse.Namespace) -> tuple[Any, int]:
    """Returns the decode settings and the number of open positions."""
    from dlm_eval.harness.decode_layers import LENGTH_KEYS
    from dlm_eval.harness.requests import HOLE, Hole, Length

    if args.length is not None and args.length < 1:
        raise UserError(f"--length '{args.length}' is not allowed; it must be 1 or more")
    if args.length is not None and any(key in options.user for key in LENGTH_KEYS):
        raise UserError("--length and the length of --decode exclude each other; give one")
    ask = options.request({HOLE: Hole(Length(args.length))} if args.length is not None else {})
    length = ask.hole.length.tokens
    assert length is not None  # `trace` has no oracle lengths
    return options.settings(ask, length), length


def _print(recording: Recording) -> None:
    from dlm_eval.reports.trace.terminal import lines

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in lines(recording, colour):
        write_raw(sys.stdout, redact_text(line) + "\n")
