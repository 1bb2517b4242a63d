"""The command `graphc`: one module a command, imported when asked for.

A command's module has `HELP`, `add_arguments(parser)` and `run(arguments) -> Report`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from graphc.cli.report import Report, json_text
from graphc.errors import GraphcError
from graphc.version import __version__

COMMANDS = ("demo", "compile", "run", "bench", "inspect", "explain", "profile", "verify", "plugins")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command: 0, or 1 with the reason on stderr. Wrong usage exits with 2."""
    parsed = make_parser().parse_args(arguments)
    try:
        report: Report = importlib.import_module(f"graphc.cli.{parsed.command}").run(parsed)
        print(json_text(report.data) if parsed.json else report.text)
        sys.stdout.flush()
    except GraphcError as error:
        print(f"graphc: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of a pipe, like `head`, has enough; nothing more may be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return report.status


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="graphc", description="Compiles neural networks to native programs.")
    parser.add_argument("--version", action="version", version=f"graphc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name in COMMANDS:
        module = importlib.import_module(f"graphc.cli.{name}")
        sub = commands.add_parser(name, help=module.HELP, description=f"{module.HELP}.")
        sub.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
        module.add_arguments(sub)
    return parser
