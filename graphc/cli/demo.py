"""`graphc demo`: a whole ResNet-50 on a photograph: compiled, measured, and compared with the reference."""

from __future__ import annotations

import argparse
import time

from graphc.cli.agreement import compare, verdict
from graphc.cli.measure import measure
from graphc.cli.options import add_compile_options, compile_options
from graphc.cli.report import Report, bytes_text, progress, seconds_text

HELP = "compile a ResNet-50 with seeded weights, run it on a photograph, and compare it with the reference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_compile_options(parser)
    parser.add_argument("--model", default="resnet50", help="a light model of the onnx package (default: resnet50)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long to measure (default: 3)")
    parser.add_argument("--top", type=int, default=10, help="how many kernels to show (default: 10)")


def run(arguments: argparse.Namespace) -> Report:
    from graphc.cli.photograph import photograph
    from graphc.driver import compile
    from graphc.errors import GraphcError
    from graphc.explain import describe, passes_lines
    from graphc.testing.light_models import light_model, names

    if arguments.model not in names():
        raise GraphcError("there is no such light model", seen=arguments.model, expected=", ".join(names()))
    with progress(arguments, "making the weights"):
        model = light_model(arguments.model, arguments.seed)
    image = photograph()
    options = {**compile_options(arguments), "cache": False}  # a program from the cache would show no passes
    with progress(arguments, f"compiling {arguments.model}"):
        start = time.perf_counter()
        executable = compile(model, **options)
        compiled = time.perf_counter() - start
    inputs = dict.fromkeys(executable.input_names, image)
    with progress(arguments, "measuring"):
        latency = measure(executable, [image], arguments.seconds)
        profile = executable.profile(image)
    with progress(arguments, "interpreting it in double precision, to compare"):
        agreements = compare(executable, inputs)
    logits = executable(image)
    described = describe(executable)
    flops, peak = executable.cost["flops"], executable.memory.peak
    agrees = all(a.agrees for a in agreements)
    data = {
        "model": arguments.model, "backend": executable.options.backend_name, "seed": arguments.seed,
        "compile_seconds": compiled, "passes": described["passes"], "refusals": described["refusals"],
        "median_seconds": latency.median, "best_seconds": latency.best, "runs": len(latency.seconds),
        "gflops_per_second": flops / latency.median * 1e-9 if flops else None, "flops": flops, "peak_bytes": peak,
        "kernel_calls": len(executable.kernels), "kernels": [row.data() for row in profile.slowest(arguments.top)],
        "agrees": agrees, "agreement": [a.data() for a in agreements],
        "logits": {"least": float(logits.min()), "greatest": float(logits.max()), "deviation": float(logits.std())},
    }  # fmt: skip
    rate = f", {flops / latency.median * 1e-9:.1f} GFLOP/s" if flops else ""
    lines = [
        f"{arguments.model}: {len(executable.graph)} nodes, weights of seed {arguments.seed}, "
        f"compiled by {executable.options.backend_name} in {seconds_text(compiled)}",
        "",
        "passes:",
        *passes_lines(described),
    ]
    if described["refusals"]:
        lines.append(f"  and {len(described['refusals'])} refusals with reasons: `graphc explain` lists them")
    lines += [
        "",
        profile.text(arguments.top),
        "",
        f"latency: median {seconds_text(latency.median)}, best {seconds_text(latency.best)} "
        f"of {len(latency.seconds)} runs{rate}",
        f"memory:  {bytes_text(peak)} at the peak, weights included",
        f"logits:  from {logits.min():.3g} to {logits.max():.3g}, deviation {logits.std():.3g}",
    ]
    for a in agreements:
        lines.append(
            f"against the reference in double precision: error {a.error:.2e} of the greatest logit "
            f"(the reference in single precision: {a.reference_error:.2e}): {verdict(a)}"
        )
    return Report(data, "\n".join(lines), 0 if agrees else 1)
