"""`graphc verify`: does the compiled model compute what the model means?"""

from __future__ import annotations

import argparse
from dataclasses import replace

from graphc.cli.agreement import agreement_table, compare
from graphc.cli.options import (
    add_dims,
    add_model,
    compile_options,
    executable_of,
    import_graph,
    is_artifact,
    random_inputs,
)
from graphc.cli.report import Report, progress

HELP = "check each pass, and the compiled model, against the reference in double precision"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_dims(parser)
    parser.add_argument(
        "--level", choices=("off", "sample", "full"), default="full",
        help="of checking the passes: off, on one set of generated inputs, or on three (default: full)",
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=2, help="on how many sets of inputs to run (default: 2)")


def run(arguments: argparse.Namespace) -> Report:
    from graphc.driver import compile, compile_graph

    # A program from the cache doesn't tell what its passes claimed.
    arguments.no_cache |= arguments.level == "off"
    if is_artifact(arguments):  # it keeps no passes: they are checked as its graph is compiled again
        loaded = executable_of(arguments)
        graph = loaded.graph
        with progress(arguments, "compiling, and checking each pass"):
            cache = not arguments.no_cache
            executable = compile_graph(graph, replace(loaded.options, verify=arguments.level, cache=cache))
    else:
        graph = import_graph(arguments)
        with progress(arguments, "compiling, and checking each pass"):
            executable = compile(graph, **compile_options(arguments), verify=arguments.level)
    agreements = []
    first = arguments.seed
    for seed in range(first, first + arguments.runs):
        arguments.seed = seed
        with progress(arguments, f"running on inputs of seed {seed}, and the reference in double precision"):
            agreements += compare(executable, random_inputs(graph, arguments))
    agrees = all(a.agrees for a in agreements)
    passes = [p["name"] for p in executable.report.passes if p["changed"]]
    data = {
        "agrees": agrees, "level": arguments.level, "backend": executable.options.backend_name,
        "passes": passes, "outputs": [a.data() for a in agreements],
    }  # fmt: skip
    held = f"all claims hold, of {len(passes)} that changed the graph" if arguments.level != "off" else "not checked"
    lines = [
        f"{arguments.model} on {data['backend']} {'agrees with' if agrees else 'DIFFERS from'} the reference",
        f"passes: {held}",
        "outputs, error relative to their greatest magnitude:",
        agreement_table(agreements),
    ]
    return Report(data, "\n".join(lines), 0 if agrees else 1)
