"""`graphc compile`: a model to an artifact."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from graphc.cli.options import ARTIFACT, add_model, executable_of
from graphc.cli.report import Report, bytes_text, seconds_text

HELP = "compile a model and save it as one file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, artifacts=False)
    parser.add_argument("-o", "--output", type=Path, help=f"the artifact (default: the model's name with {ARTIFACT})")
    parser.add_argument(
        "--verify", choices=("off", "sample", "full"), default="off",
        help="check each pass against the reference on generated inputs",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> Report:
    start = time.perf_counter()
    executable = executable_of(arguments, verify=arguments.verify)
    seconds = time.perf_counter() - start
    output = arguments.output or arguments.model.with_suffix(ARTIFACT)
    executable.save(output)
    size, peak = output.stat().st_size, executable.memory.peak
    data = {
        "output": str(output), "bytes": size, "seconds": seconds, "peak_bytes": peak,
        "kernels": len(executable.kernels), "cached": executable.report.cached,
    }  # fmt: skip
    source = " from the cache" if executable.report.cached else ""
    text = (
        f"{output}: {bytes_text(size)}, {len(executable.kernels)} kernel calls, {bytes_text(peak)} to run, "
        f"compiled in {seconds_text(seconds)}{source}"
    )
    return Report(data, text)
