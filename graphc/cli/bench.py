"""`graphc bench`: latency, work and memory of a model, and where the time goes."""

from __future__ import annotations

import argparse

from graphc.cli.measure import measure
from graphc.cli.options import add_dims, add_model, dims_of, executable_of, random_inputs
from graphc.cli.report import Report, bytes_text, progress, seconds_text

HELP = "measure a model: latency, GFLOP/s, memory, and the slowest kernels with their layers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_dims(parser)
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long to run (default: 3)")
    parser.add_argument("--top", type=int, default=10, help="how many kernels to show (default: 10)")


def run(arguments: argparse.Namespace) -> Report:
    executable = executable_of(arguments)
    graph = executable.graph
    dims = dims_of(graph, dict(arguments.dim))
    inputs = list(random_inputs(graph, arguments).values())
    with progress(arguments, "running"):
        latency = measure(executable, inputs, arguments.seconds)
        profile = executable.profile(*inputs)
    flops = sum(row.flops for row in profile.rows)
    peak = executable.memory_at(dims).peak
    data = {
        "model": str(arguments.model), "backend": executable.options.backend_name, "threads": executable.options.threads,
        "dims": dims, "runs": len(latency.seconds), "median_seconds": latency.median, "best_seconds": latency.best,
        "gflops_per_second": flops / latency.median * 1e-9 if flops else None, "peak_bytes": peak,
        "kernels": [row.data() for row in profile.slowest(arguments.top)],
    }  # fmt: skip
    at = f" at {', '.join(f'{n} = {v}' for n, v in dims.items())}" if dims else ""
    rate = f", {flops / latency.median * 1e-9:.1f} GFLOP/s" if flops else ""
    lines = [
        f"{arguments.model}{at}: median {seconds_text(latency.median)}, best {seconds_text(latency.best)} "
        f"of {len(latency.seconds)} runs{rate}, peak {bytes_text(peak)}",
    ]
    if profile.rows:
        lines += ["", profile.text(arguments.top)]
    return Report(data, "\n".join(lines))
