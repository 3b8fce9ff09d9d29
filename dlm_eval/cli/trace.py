"""`dlm-eval trace`: shows the decoding of one text step by step, in the terminal, as a web page or
as JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.options import add_options
from dlm_eval.errors import SampleError, UserError
from dlm_eval.output import one_line, write_raw
from dlm_eval.redaction import redact_text

if TYPE_CHECKING:
    from dlm_eval.reports.trace import Recording

LENGTH = 32  # default number of open positions


def add_parser(subparsers: Any) -> None:
    """Adds `trace`."""
    text = "show step by step how a model writes after a prompt, or between a prompt and a suffix"
    parser = subparsers.add_parser(
        "trace",
        help="show step by step how a text is written",
        description=text,
        allow_abbrev=False,
    )
    add_options(parser, "--model", "--model_args", "--decode", "--device")
    parser.add_argument("--prompt", required=True, help="text before the hole")
    parser.add_argument("--infill", metavar="SUFFIX", default="", help="text after the hole")
    parser.add_argument(
        "--length",
        type=int,
        metavar="N",
        help=f"open positions (default: {LENGTH}, or gen_length of --decode)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random draws (default: 0)")
    parser.add_argument(
        "--apply_chat_template",
        action="store_true",
        help="the prompt is a user's message to a chat model",
    )
    parser.add_argument(
        "--html", metavar="FILE", help="write a web page with a slider over the steps"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write every step as JSON, without FILE to standard output",
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Fills the hole and shows the steps of decoding."""
    if args.html and args.html == args.json:
        raise UserError(f"--html and --json name one file, '{args.html}'; give two")
    recording = _record(args)
    texts: dict[Path, str] = {}
    if args.html:
        from dlm_eval.reports.trace import page

        texts[Path(args.html)] = page(recording)
    if args.json:
        import json

        text = json.dumps(recording.plain(), allow_nan=False) + "\n"
        if args.json == "-":
            sys.stdout.write(text)
        else:
            texts[Path(args.json)] = text
    if texts:
        from dlm_eval.reports.csv_file import write_files

        write_files(texts)
        print(
            "\n".join(one_line(str(path)) for path in texts),
            file=sys.stderr if args.json == "-" else sys.stdout,
        )
    elif not args.json:
        _print(recording)
    return 0


def _record(args: argparse.Namespace) -> Recording:
    from dlm_eval.harness.decode_config import DecodeOptions, user_layer
    from dlm_eval.harness.requests import hole_canvas
    from dlm_eval.models import load_model, process_of
    from dlm_eval.reports.trace import record
    from dlm_eval.settings import parse_pairs

    for name in ("prompt", "infill"):
        if any("\ud800" <= character <= "\udfff" for character in getattr(args, name)):
            raise UserError(f"--{name} is not valid UTF-8")
    decode = user_layer({}, parse_pairs(",".join(args.decode or ()), "--decode"))
    arguments: dict[str, Any] = dict(parse_pairs(",".join(args.model_args or ()), "--model_args"))
    process = process_of(args.model, arguments) or "absorbing"
    if decode.get("preset") != "authors":  # find wrong settings before a model is loaded
        _settings(DecodeOptions(decode, "", LENGTH, process), args)
    if args.device is not None:
        if "device" in arguments:
            raise UserError("--device and device of --model_args exclude each other; give one")
        arguments["device"] = args.device
    model = load_model(args.model, **arguments)
    settings, length = _settings(DecodeOptions.of(decode, model, LENGTH), args)
    try:
        prompt = (
            model.apply_chat_template([{"role": "user", "content": args.prompt}])
            if args.apply_chat_template
            else args.prompt
        )
        prepared = hole_canvas(model, prompt, length, args.infill, "", "error")
    except SampleError as error:
        raise UserError(f"--prompt with a hole of {length}: {error}") from error
    return record(model, prepared.canvas, settings, args.seed)


def _settings(options: Any, args: argparse.Namespace) -> tuple[Any, int]:
    """Returns the decode settings and the number of open positions."""
    from dlm_eval.harness.decode_config import LENGTH_KEYS
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
    from dlm_eval.reports.trace import lines

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in lines(recording, colour):
        write_raw(sys.stdout, redact_text(line) + "\n")
