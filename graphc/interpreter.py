"""Runs a graph in NumPy, node by node, through the operators' references: the meaning that all else is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import GraphcError, ShapeError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, Expr, Symbol, as_symbol, bounds, evaluate, free_symbols, linear, substitute
from graphc.ir.types import dtype_of

Watch = Callable[[Value, np.ndarray], None]


def interpret(
    graph: Graph, inputs: Sequence[np.ndarray] | Mapping[str, np.ndarray], *, watch: Watch | None = None
) -> list[np.ndarray]:
    """The outputs of a graph, fresh arrays; `watch` sees every value with its array, inputs first.

    Raises ShapeError for inputs that don't fit the graph or its guards, NumericError where a reference does; both name
    the layer and the operator.
    """
    arrays = _in_order(graph, inputs)
    _check_dtypes(graph, arrays)
    dims = bind_dims(graph, [a.shape for a in arrays])
    with np.errstate(all="ignore"):
        return [np.array(y, order="C") for y in _run(graph, arrays, dims, watch)]


def run_node(node: Node, operands: Sequence[np.ndarray], dims: Mapping[str, int]) -> tuple[np.ndarray, ...]:
    """The results of one node at given dims; they may share memory with operands. Bits depend on operands' values alone."""
    if "view" not in node.op.traits:  # NumPy sums, and some functions round, in another way where memory has another order
        operands = [x if x.flags.c_contiguous else x.copy() for x in operands]
    try:
        with np.errstate(all="ignore"):
            results = node.op.reference(operands, _concrete(node, dims))
            _check_results(node, results, dims)
    except GraphcError as e:
        e.layer = e.layer or ", ".join(node.origin) or None
        if not e.what.startswith(f"{node.op.name}: "):
            e.what = f"{node.op.name}: {e.what}"
        raise
    return results


def bind_dims(graph: Graph, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The value of every symbol, from the inputs' shapes; ShapeError names the input and axis that doesn't fit."""
    dims: dict[str, int] = {}
    for value, shape in zip(graph.inputs, shapes, strict=True):
        if len(shape) != value.type.rank:
            raise ShapeError(f"rank of input {value.name}", seen=list(shape), expected=value.type)
    _bind(dict(zip(graph.inputs, shapes, strict=True)), dims, "input")
    check_guards(graph, dims)
    return dims


def check_guards(graph: Graph, dims: Mapping[str, int]) -> None:
    """Raises ShapeError for a guard that doesn't hold; those with symbols not bound yet are passed over."""
    for guard in graph.guards:
        if all(s.name in dims for s in free_symbols(guard.left) | free_symbols(guard.right)):
            left, right = evaluate(guard.left, dims), evaluate(guard.right, dims)
            if left != right:
                at = {s.name: dims[s.name] for s in free_symbols(guard.left) | free_symbols(guard.right)}
                raise ShapeError(f"the model assumes {guard}", seen=f"{left} and {right}, with {_assignments(at)}")


def _in_order(graph: Graph, inputs: Sequence[np.ndarray] | Mapping[str, np.ndarray]) -> list[np.ndarray]:
    names = [v.name for v in graph.inputs]
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ShapeError("inputs by name", seen=", ".join(sorted(inputs)), expected=", ".join(names))
        inputs = [inputs[n] for n in names]
    if len(inputs) != len(names):
        raise ShapeError("number of inputs", seen=len(inputs), expected=f"{len(names)}: {', '.join(names)}")
    return [np.asarray(a) for a in inputs]


def _check_dtypes(graph: Graph, arrays: Sequence[np.ndarray]) -> None:
    for value, array in zip(graph.inputs, arrays, strict=True):
        if array.dtype != value.type.dtype.numpy:
            raise ShapeError(f"element type of input {value.name}", seen=array.dtype, expected=value.type.dtype)


def _run(graph: Graph, arrays: Sequence[np.ndarray], dims: dict[str, int], watch: Watch | None) -> list[np.ndarray]:
    environment = dict(zip(graph.inputs, arrays, strict=True))
    pending = {v: len(v.uses) for v in graph.values()}
    if watch is not None:
        for value, array in environment.items():
            watch(value, array)
    for node in graph.nodes:
        results = run_node(node, [environment[v] for v in node.operands], dims)
        if "defines_symbols" in node.op.traits:
            _bind({v: y.shape for v, y in zip(node.results, results, strict=True)}, dims, "result")
            check_guards(graph, dims)
        environment.update(zip(node.results, results, strict=True))
        if watch is not None:
            for value in node.results:
                watch(value, environment[value])
        for value in node.operands:  # what nothing will read again is dropped, so that memory follows lifetimes
            pending[value] -= 1
            if not pending[value]:
                environment.pop(value, None)
    return [environment[v] for v in graph.outputs]


def _concrete(node: Node, dims: Mapping[str, int]) -> dict[str, Any]:
    """Attributes with ints for dims, and functions for graphs."""
    concrete = dict(node.attributes)
    for name, declared in node.op.attributes.items():
        value = concrete[name]
        if declared.kind == "dim":
            concrete[name] = evaluate(value, dims)
        elif declared.kind == "dims":
            concrete[name] = tuple(evaluate(d, dims) for d in value)
        elif declared.kind == "graph":
            concrete[name] = _as_function(value, dims)
    return concrete


def _as_function(graph: Graph, dims: Mapping[str, int]) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """A region as a function; its symbols have the values of the graph around it."""

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        inner = dict(dims)
        _bind({v: a.shape for v, a in zip(graph.inputs, arrays, strict=True)}, inner, "input")
        check_guards(graph, inner)
        return _run(graph, arrays, inner, None)

    return run


def _check_results(node: Node, results: Sequence[np.ndarray], dims: Mapping[str, int]) -> None:
    if len(results) != len(node.results):
        raise AssertionError(f"reference of {node.op.name} gives {len(results)} results, not {len(node.results)}")
    for value, array in zip(node.results, results, strict=True):
        known = all(s.name in dims for s in value.type.symbols())
        shape = value.type.concrete(dims) if known else array.shape
        if shape != array.shape or value.type.dtype != dtype_of(array):
            seen = f"{dtype_of(array)}{list(array.shape)}"
            raise ShapeError(f"%{value.name} isn't what inference says", seen=seen, expected=value.type)


def _bind(shapes: Mapping[Value, tuple[int, ...]], dims: dict[str, int], role: str) -> None:
    """Adds the symbols that shapes define: plain ones, then those alone unknown in an expression; checks all dims."""
    entries = [(v, i, d, shape[i]) for v, shape in shapes.items() for i, d in enumerate(v.type.shape)]
    entries.sort(key=lambda e: as_symbol(e[2]) is None)
    waiting = entries
    while waiting:
        later = [e for e in waiting if not _bind_one(*e, dims, role)]
        if len(later) == len(waiting):
            value, axis, dim, seen = later[0]
            what = f"dim {axis} of {role} {value.name} doesn't determine its symbols"
            raise ShapeError(what, seen=seen, expected=dim)
        waiting = later


def _bind_one(value: Value, axis: int, dim: Dim, seen: int, dims: dict[str, int], role: str) -> bool:
    """Checks one dim, after solving for its only unknown symbol; False where that isn't possible yet."""
    unknown = [s for s in free_symbols(dim) if s.name not in dims]
    if unknown:
        solved = _solve(dim, unknown[0], seen, dims) if len(unknown) == 1 else None
        if solved is None:
            return False
        _check_range(unknown[0], solved, value, axis, dims, role)
        dims[unknown[0].name] = solved
    expected = evaluate(dim, dims)
    if expected != seen:
        what = str(expected) if isinstance(dim, int) else f"{expected} ({dim} with {_assignments(_used(dim, dims))})"
        raise ShapeError(f"dim {axis} of {role} {value.name}", seen=seen, expected=what)
    return True


def _solve(dim: Dim, symbol: Symbol, seen: int, dims: Mapping[str, int]) -> int | None:
    """The value of the symbol that makes a linear dim equal to `seen` (rounded down, for the check that follows)."""
    parts = linear(substitute(dim, dict(dims)), [symbol.name])
    if parts is None:
        return None
    coefficient, rest = parts[0].get(symbol.name, 0), parts[1]
    if not isinstance(coefficient, int) or not isinstance(rest, int) or coefficient == 0:
        return None
    return (seen - rest) // coefficient


def _check_range(symbol: Symbol, seen: int, value: Value, axis: int, dims: Mapping[str, int], role: str) -> None:
    high = None if symbol.high is None else substitute(symbol.high, dict(dims))
    if isinstance(high, Expr):
        high = bounds(high)[1]
    if seen < symbol.low or (high is not None and seen > high):
        limit = "" if high is None else f" <= {high}"
        expected = f"{symbol.low} <= {symbol.name}{limit}"
        raise ShapeError(f"dim {axis} of {role} {value.name}", seen=seen, expected=expected)


def _used(dim: Dim, dims: Mapping[str, int]) -> dict[str, int]:
    return {s.name: dims[s.name] for s in free_symbols(dim)}


def _assignments(dims: Mapping[str, int]) -> str:
    return ", ".join(f"{n} = {v}" for n, v in sorted(dims.items()))
