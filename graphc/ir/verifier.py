"""Checks every rule that a graph obeys, by running inference again on each node."""

from __future__ import annotations

from collections.abc import Iterable
from keyword import iskeyword

from graphc.errors import GraphcError, VerifyError
from graphc.ir.graph import Graph, Guard, Node, Use, Value
from graphc.ir.opdef import Inference
from graphc.ir.symbolic import Expr, Symbol, free_symbols
from graphc.ir.text import print_node

ADDRESSABLE = 2**63
"""Bytes that an index of 64 bits reaches; also of values that are never in memory, as loops count their elements."""


def verify(graph: Graph, outer: frozenset[Symbol] = frozenset()) -> None:
    """Raises VerifyError naming node and layer where the graph breaks a rule.

    Checked: unique names, definitions before uses, operands from this graph, exact use lists, operand counts, complete
    attributes, stored types equal to inferred ones, every assumption of inference listed as a guard, one range per
    symbol, symbols of results, attributes and guards defined by inputs, sizes below 2**63 bytes, donations between equal
    types, each value once, and the same for every region. `outer` are the symbols of the graph around a region, which it may use.
    """
    defined: set[Value] = set()
    names: set[str] = set()
    for value in graph.inputs:
        _define(graph, value, defined, names, None)
    known = outer | {s for v in graph.inputs for s in v.type.symbols()}
    for node in graph.nodes:
        _verify_node(graph, node, defined, known)
        for value in node.results:
            _define(graph, value, defined, names, node)
            new = value.type.symbols() - known
            if new and "defines_symbols" not in node.op.traits:
                raise _error(node, f"symbol {_first(new)} of %{value.name} is defined by no input")
            known |= new
    _verify_symbols(graph, known)
    for value in graph.outputs:
        if value not in defined:
            raise VerifyError(f"graph @{graph.name} returns %{value.name}, which it doesn't define")
    _verify_uses(graph, defined)
    _verify_donations(graph)


def _define(graph: Graph, value: Value, defined: set[Value], names: set[str], node: Node | None) -> None:
    if value.name in names:
        raise VerifyError(f"value name %{value.name} stands twice in graph @{graph.name}")
    if value.producer is not node:
        raise VerifyError(f"%{value.name} doesn't know the node that produces it")
    if any(isinstance(d, int) and d < 0 for d in value.type.shape):
        raise VerifyError(f"%{value.name} has a negative dim", seen=value.type)
    size = value.type.bytes
    if isinstance(size, int) and size >= ADDRESSABLE:
        layer = ", ".join(node.origin) if node is not None else None
        raise VerifyError(f"%{value.name} is larger than any memory", layer=layer or None, seen=value.type)
    names.add(value.name)
    defined.add(value)


def _verify_symbols(graph: Graph, known: frozenset[Symbol]) -> None:
    by_name: dict[str, Symbol] = {}
    for s in known:
        if by_name.setdefault(s.name, s) != s:
            raise VerifyError(f"symbol {s.name} has two ranges in graph @{graph.name}")
        if not (s.name.isascii() and s.name.isidentifier()) or iskeyword(s.name) or s.name in ("min", "max"):
            raise VerifyError(f"symbol name {s.name!r} in graph @{graph.name} isn't an identifier")
        if isinstance(s.high, Expr):
            raise VerifyError(f"symbol {s.name} in graph @{graph.name} has a symbolic bound", seen=s.high)
    for guard in graph.guards:
        unknown = (free_symbols(guard.left) | free_symbols(guard.right)) - known
        if unknown:
            raise VerifyError(f"guard {guard} of graph @{graph.name} uses {_first(unknown)}, which no input defines")


def _first(symbols: Iterable[Symbol]) -> str:
    return min(s.name for s in symbols)


def _verify_node(graph: Graph, node: Node, defined: set[Value], known: frozenset[Symbol]) -> None:
    if node.graph is not graph:
        raise _error(node, f"node belongs to another graph than @{graph.name}")
    for i, value in enumerate(node.operands):
        if value not in defined:
            raise _error(node, f"operand {i}, %{value.name}, isn't defined above in graph @{graph.name}")
    inference = Inference()
    try:
        node.op.check_count(len(node.operands))
        if node.op.complete(node.attributes) != node.attributes:
            raise _error(node, "attributes aren't complete")
        for name, attribute in node.attributes.items():
            if isinstance(attribute, Graph):
                verify(attribute, known)
            elif node.op.attributes[name].kind in ("dim", "dims"):
                dims = attribute if isinstance(attribute, tuple) else (attribute,)
                unknown = frozenset[Symbol]().union(*(free_symbols(d) for d in dims)) - known
                if unknown and "defines_symbols" not in node.op.traits:
                    raise _error(node, f"attribute {name} uses symbol {_first(unknown)}, which no input defines")
        types = node.op.infer(inference, [v.type for v in node.operands], node.attributes)
    except VerifyError:
        raise
    except (GraphcError, TypeError) as e:
        raise _error(node, f"inference fails: {e}") from e
    stored = tuple(v.type for v in node.results)
    if types != stored:
        raise _error(node, f"types are {', '.join(map(str, stored))}; inference says {', '.join(map(str, types))}")
    for guard in inference.guards:
        if guard not in graph.guards and Guard(guard.right, guard.left) not in graph.guards:
            raise _error(node, f"assumes {guard}, which isn't a listed guard")


def _verify_uses(graph: Graph, defined: set[Value]) -> None:
    expected: dict[Value, list[Use]] = {v: [] for v in defined}
    for node in graph.nodes:
        for i, value in enumerate(node.operands):
            expected[value].append(Use(node, i))
    for i, value in enumerate(graph.outputs):
        expected[value].append(Use(graph, i))
    for value, uses in expected.items():
        if len(value.uses) != len(uses) or not set(value.uses).issuperset(uses):
            raise VerifyError(
                f"use list of %{value.name} in graph @{graph.name} is wrong", seen=str(value.uses), expected=str(uses)
            )


def _verify_donations(graph: Graph) -> None:
    for side, known in ((0, graph.inputs), (1, graph.outputs)):
        numbers = [pair[side] for pair in graph.donations]
        if len(set(numbers)) < len(numbers) or not all(0 <= n < len(known) for n in numbers):
            raise VerifyError(f"graph @{graph.name} has donations that can't be", seen=graph.donations)
    for i, o in graph.donations:
        given, taking = graph.inputs[i], graph.outputs[o]
        if given.type != taking.type:
            what = f"%{given.name} is donated to an output of another type"
            raise VerifyError(what, seen=taking.type, expected=given.type)


def _error(node: Node, what: str) -> VerifyError:
    return VerifyError(what, layer=", ".join(node.origin) or None, seen=print_node(node, origins=False))
