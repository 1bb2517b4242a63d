"""`graphc profile`: where the time of a run goes, kernel by kernel, beside what the device can do at best."""

from __future__ import annotations

import argparse
from pathlib import Path

from graphc.cli.options import add_dims, add_model, executable_of, positive, random_inputs
from graphc.cli.report import Report, progress

HELP = "time, rates and share of the device's limit of each kernel, with its layers; as a table, JSON or a Chrome trace"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_dims(parser)
    parser.add_argument("--top", type=int, default=20, help="how many kernels to show (default: 20)")
    parser.add_argument("--runs", type=positive, default=5, help="how many runs to take the median of (default: 5)")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Chrome trace of the run as well")


def run(arguments: argparse.Namespace) -> Report:
    executable = executable_of(arguments)
    inputs = list(random_inputs(executable.graph, arguments).values())
    with progress(arguments, "running"):
        profile = executable.profile(*inputs, runs=arguments.runs)
    if arguments.trace is not None:
        profile.chrome_trace(arguments.trace)
    return Report(profile.data(), profile.text(arguments.top))
