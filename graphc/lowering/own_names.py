"""Dimensions under names of our own, so that equal loops are equal kernels whatever a model calls its dimensions."""

from __future__ import annotations

from graphc.cones import specialize
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import Dim, Expr, Symbol, free_symbols, symbol


def with_own_names(node: Node) -> tuple[Graph, dict[str, Dim], dict[str, Dim]]:
    """(a fusion's body with dimensions n0, n1, ...; these symbols by name; the model's symbols by the same names)."""
    symbols = {f"n{i}": s for i, s in enumerate(ordered_symbols(node))}
    own: dict[str, Dim] = {n: symbol(n, s.low, s.high) for n, s in symbols.items()}
    given: dict[str, Dim] = {n: symbol(s.name, s.low, s.high) for n, s in symbols.items()}
    body: Graph = node["body"]
    return (specialize(body, {s.name: own[n] for n, s in symbols.items()}) if own else body), own, given


def ordered_symbols(node: Node) -> list[Symbol]:
    """The symbols of a fusion in an order that doesn't depend on their names: as its operands and nodes mention them."""
    graph: Graph = node["body"]
    shapes = [v.type.shape for v in graph.inputs]
    for inner in graph.nodes:
        shapes += [v.type.shape for v in inner.results]
        shapes += [a for a in inner.attributes.values() if isinstance(a, tuple)]
        shapes += [(a,) for a in inner.attributes.values() if isinstance(a, Expr)]
    found: dict[Symbol, None] = {}
    for d in (d for shape in shapes for d in shape if isinstance(d, Expr)):
        found.update(dict.fromkeys(sorted(free_symbols(d), key=lambda s: (s.low, str(s.high), s.name))))
    return list(found)
