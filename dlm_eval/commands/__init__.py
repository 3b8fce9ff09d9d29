"""The subcommands of `dlm-eval`: each module has `add_parser(subparsers)` and `main(args) -> int`."""
