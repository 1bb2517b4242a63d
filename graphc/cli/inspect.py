"""`graphc inspect`: what a model is, and its text at each stage of compilation."""

from __future__ import annotations

import argparse
from collections import Counter

from graphc.cli.options import add_model, executable_of, import_graph
from graphc.cli.report import Report, bytes_text, table

HELP = "show a model's signature, operators and sizes, or its text at a stage of compilation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--stage", help="print the text at this stage of compilation; `list` names the stages")


def run(arguments: argparse.Namespace) -> Report:
    if arguments.stage is not None:
        return _stage(arguments)
    from graphc.ir.text import constants_of

    graph = import_graph(arguments)
    operators = Counter(node.op.name for node in graph.nodes)
    constants = constants_of(graph).values()
    size = sum(c.array.nbytes for c in constants)
    symbols = {n: {"low": s.low, "high": None if s.high is None else str(s.high)} for n, s in graph.symbols().items()}
    data = {
        "name": graph.name,
        "inputs": {v.name: str(v.type) for v in graph.inputs},
        "outputs": {v.name: str(v.type) for v in graph.outputs},
        "dims": symbols,
        "guards": [str(g) for g in graph.guards],
        "nodes": len(graph),
        "operators": dict(operators.most_common()),
        "constants": len(constants),
        "constant_bytes": size,
    }
    lines = [f"{graph.name}: {len(graph)} nodes, {len(constants)} large constants of {bytes_text(size)}"]
    lines += ["", "inputs:", table([("name", "type"), *data["inputs"].items()])]  # type: ignore[attr-defined]
    lines += ["", "outputs:", table([("name", "type"), *data["outputs"].items()])]  # type: ignore[attr-defined]
    if symbols:
        ranges = [(n, s["low"], "no limit" if s["high"] is None else s["high"]) for n, s in symbols.items()]
        lines += ["", "dynamic dims:", table([("name", "least", "greatest"), *ranges], right=(1, 2))]
    if graph.guards:
        lines += ["", "assumed, and checked at each call:", *(f"  {g}" for g in graph.guards)]
    counts = [(n, op) for op, n in operators.most_common()]
    lines += ["", "operators:", table([("count", "operator"), *counts], right=(0,))]
    return Report(data, "\n".join(lines))


def _stage(arguments: argparse.Namespace) -> Report:
    executable = executable_of(arguments)
    if arguments.stage == "list":
        return Report({"stages": executable.stages}, "\n".join(executable.stages))
    text = executable.text(arguments.stage)
    return Report({"stage": arguments.stage, "text": text}, text.rstrip("\n"))
