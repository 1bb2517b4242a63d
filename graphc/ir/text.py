"""The text form of graphs: one node a line, deterministic, and parsed back to the same graph.

    graph @mlp(%x: f32[batch,784], %w: f32[784,10]) where batch <= 64 {
      %h: f32[batch,10] = matmul(%x, %w) from "fc1"
      return %h
    }

A line `donate %w to 1` before the last says that output 1 may take the memory of input %w.
Symbols have the range [1, infinity) unless the `where` clause says otherwise. Constants of more than 16 elements print
as `sha256:<digest>` and live beside the text, in `constants_of(graph)`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.opdef import REQUIRED
from graphc.ir.symbolic import Dim, Symbol
from graphc.ir.tensor_data import TensorData

INLINE_ELEMENTS = 16


def print_graph(graph: Graph, *, origins: bool = True) -> str:
    """The text of a graph, ending in a newline. Without `origins`, graphs that differ only in these print equally."""
    return "\n".join(_graph_lines(graph, origins)) + "\n"


def weights_of(graph: Graph) -> list[TensorData]:
    """The distinct weights of a graph, regions included, in order of first use: equal ones stand once."""
    found: dict[str, TensorData] = {}
    for weight in weight_constants(graph):
        found.setdefault(weight.digest, weight)
    return list(found.values())


def weight_constants(graph: Graph) -> Iterator[TensorData]:
    """The data of every weight of a graph, regions included, in order of use."""
    for node in graph.nodes:
        for value in node.attributes.values():
            if isinstance(value, TensorData) and value.is_weight:
                yield value
            elif isinstance(value, Graph):
                yield from weight_constants(value)


def print_structure(graph: Graph) -> str:
    """The text of a graph without its weights' values: what a compiled program depends on, which tells layers by name."""
    text = print_graph(graph)
    for i, data in enumerate(weights_of(graph)):
        text = text.replace(_tensor(data), f"{data.type} weight:{i}")
    return text


def print_node(node: Node, *, origins: bool = True) -> str:
    """The text of one node, without indentation."""
    return "\n".join(_node_lines(node, origins))


def constants_of(graph: Graph) -> dict[str, TensorData]:
    """The constants that the text names by digest, regions included."""
    found: dict[str, TensorData] = {}
    for node in graph.nodes:
        for value in node.attributes.values():
            if isinstance(value, TensorData) and value.array.size > INLINE_ELEMENTS:
                found[value.digest] = value
            elif isinstance(value, Graph):
                found.update(constants_of(value))
    return found


def operators_of(graph: Graph) -> dict[str, int]:
    """The version of every operator that the graph uses, regions included, by name, sorted."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        found[node.op.name] = node.op.version
        for value in node.attributes.values():
            if isinstance(value, Graph):
                found.update(operators_of(value))
    return dict(sorted(found.items()))


def _graph_lines(graph: Graph, origins: bool) -> Iterator[str]:
    inputs = ", ".join(f"%{v.name}: {v.type}" for v in graph.inputs)
    clauses = [c for s in graph.symbols().values() for c in _range_clauses(s)]
    clauses += [str(g) for g in graph.guards]
    where = f" where {', '.join(clauses)}" if clauses else ""
    yield f"graph @{graph.name}({inputs}){where} {{"
    for node in graph.nodes:
        for line in _node_lines(node, origins):
            yield f"  {line}"
    if graph.donations:
        yield f"  donate {', '.join(f'%{graph.inputs[i].name} to {o}' for i, o in graph.donations)}"
    yield f"  return {', '.join(f'%{v.name}' for v in graph.outputs)}".rstrip()
    yield "}"


def _range_clauses(s: Symbol) -> Iterator[str]:
    if s.low != 1:
        yield f"{s.name} >= {s.low}"
    if s.high is not None:
        yield f"{s.name} <= {s.high}"


def _node_lines(node: Node, origins: bool) -> Iterator[str]:
    results = ", ".join(f"%{v.name}: {v.type}" for v in node.results)
    operands = ", ".join(f"%{v.name}" for v in node.operands)
    head = f"{results} = {node.op.name}({operands})"
    shown = {k: v for k, v in node.attributes.items() if not _is_default(node, k, v)}
    regions = {k: v for k, v in shown.items() if isinstance(v, Graph)}
    plain = ", ".join(f"{k}={_attribute(v)}" for k, v in shown.items() if k not in regions)
    if plain:
        head += f" {{{plain}}}"
    tail = f" from {', '.join(json.dumps(o) for o in node.origin)}" if origins and node.origin else ""
    if not regions:
        yield head + tail
        return
    yield head + " ["
    for k, region in regions.items():
        lines = list(_graph_lines(region, origins))
        yield f"  {k}={lines[0]}"
        for line in lines[1:]:
            yield f"  {line}"
    yield "]" + tail


def _is_default(node: Node, name: str, value: Any) -> bool:
    declared = node.op.attributes.get(name)  # unknown ones are printed too: the verifier shows nodes that are wrong
    default = REQUIRED if declared is None else declared.default
    return default is not REQUIRED and type(value) is type(default) and _attribute(value) == _attribute(default)


def _attribute(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return float_text(value)
        case str():
            return json.dumps(value)
        case tuple():
            return f"[{', '.join(_attribute(v) for v in value)}]"
        case TensorData():
            return _tensor(value)
    return str(value)


def float_text(value: float) -> str:
    """A float that reads back to the same bits (NaN payloads aside)."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(value)


def _tensor(data: TensorData) -> str:
    if data.array.size > INLINE_ELEMENTS:
        return f"{data.type} sha256:{data.digest}"
    flat = data.array.reshape(-1)
    if data.type.dtype.is_float:
        wide = flat.astype(np.float64)
        if np.isnan(wide).any():  # NaN payloads matter to equality: print the bits
            return f"{data.type} bits:{flat.view(np.uint8).tobytes().hex()}"
        items = [float_text(float(v)) for v in wide]
    else:
        items = [_attribute(v.item()) for v in flat]
    return f"{data.type} [{', '.join(items)}]"


def same_graph(a: Graph, b: Graph) -> bool:
    """Whether two graphs have the same text (big constants by digest)."""
    return print_graph(a) == print_graph(b)


def dims_text(shape: tuple[Dim, ...]) -> str:
    """A shape as in a type: `[batch,784]`."""
    return f"[{','.join(map(str, shape))}]"


def value_text(value: Value) -> str:
    """A value as its definition: `%x: f32[2,3]`."""
    return f"%{value.name}: {value.type}"


__all__ = [
    "constants_of", "dims_text", "float_text", "operators_of", "print_graph", "print_node", "print_structure",
    "same_graph", "value_text", "weight_constants", "weights_of",
]  # fmt: skip
