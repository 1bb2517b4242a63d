"""Builds graphs node by node, inferring types as it goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.errors import GraphcError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.opdef import Inference, OpDef
from graphc.ir.symbolic import Dim
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import DType, TensorType

Lookup = Callable[[str], OpDef]


class Builder:
    """Emits nodes into a graph, at its end or before a given node, under one `origin`.

    Operators are given by name (looked up among the core's and the plugins') or as an OpDef.
    """

    def __init__(
        self,
        graph: Graph | None = None,
        *,
        before: Node | None = None,
        origin: tuple[str, ...] = (),
        lookup: Lookup | None = None,
    ) -> None:
        self.graph = graph if graph is not None else Graph()
        self.before = before
        self.origin = origin
        if lookup is None:
            from graphc.ops import find_operator

            lookup = find_operator
        self._lookup = lookup

    def input(self, name: str, dtype: DType, shape: Sequence[Dim]) -> Value:
        """A new graph input."""
        return self.graph.add_input(name, TensorType(dtype, tuple(shape)))

    def emit(self, op: str | OpDef, operands: Sequence[Value], *, name: str | None = None, **attributes: Any) -> Node:
        """A new node. Raises ShapeError (with the layer) where inference fails, TypeError on wrong attributes."""
        definition = self._lookup(op) if isinstance(op, str) else op
        definition.check_count(len(operands))
        complete = definition.complete(attributes)
        inference = Inference()
        try:
            types = definition.infer(inference, [v.type for v in operands], complete)
        except GraphcError as e:
            e.layer = e.layer or ", ".join(self.origin) or None
            e.what = f"{definition.name}: {e.what}"
            raise
        for guard in inference.guards:
            if guard not in self.graph.guards:
                self.graph.guards.append(guard)
        hint = name or definition.name
        hints = [hint] if len(types) == 1 else [f"{hint}.{r}" for r in definition.result_names(len(types))]
        node = Node(definition, operands, complete, types, [self.graph.fresh_name(h) for h in hints], self.origin)
        return self.graph.insert(node, self.before)

    def op(self, op: str | OpDef, *operands: Value, name: str | None = None, **attributes: Any) -> Value:
        """The only result of a new node."""
        return self.emit(op, operands, name=name, **attributes).result

    def ops(self, op: str | OpDef, *operands: Value, name: str | None = None, **attributes: Any) -> tuple[Value, ...]:
        """All results of a new node."""
        return self.emit(op, operands, name=name, **attributes).results

    def constant(self, value: np.ndarray | TensorData, name: str | None = None) -> Value:
        """A constant tensor."""
        data = value if isinstance(value, TensorData) else TensorData(value)
        return self.op("constant", name=name, value=data)

    def scalar(self, value: float | int | bool, dtype: DType) -> Value:
        """A rank-0 constant."""
        return self.constant(np.array(value, dtype.numpy))

    def full(self, value: float | int | bool, type: TensorType) -> Value:
        """A tensor of one value: a rank-0 constant, broadcast."""
        return self.broadcast(self.scalar(value, type.dtype), type.shape, ())

    def full_like(self, value: float | int | bool, like: Value) -> Value:
        """A tensor of one value with the type of `like`."""
        return self.full(value, like.type)

    def broadcast(self, x: Value, shape: Sequence[Dim], axes: Sequence[int]) -> Value:
        """`x` with its axis i at axis axes[i] of `shape`, repeated along the others; `x` itself if nothing changes."""
        if x.type.shape == tuple(shape):
            return x
        return self.op("broadcast", x, shape=tuple(shape), axes=tuple(axes))

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        """`x` with another shape of the same size, row-major; `x` itself where nothing changes."""
        return x if x.type.shape == tuple(shape) else self.op("reshape", x, shape=tuple(shape))

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        """Axis i of the result is axis permutation[i] of `x`; `x` itself for the identity."""
        if tuple(permutation) == tuple(range(x.type.rank)):
            return x
        return self.op("transpose", x, permutation=tuple(permutation))

    def cast(self, x: Value, dtype: DType) -> Value:
        """`x` with another element type; `x` itself where nothing changes."""
        return x if x.type.dtype == dtype else self.op("cast", x, dtype=dtype)

    def reduce(self, op: str, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
        """`reduce_sum` and its kin over axes; with `keep`, broadcast back to the shape of `x`."""
        r = self.op(op, x, axes=tuple(axes))
        if not keep:
            return r
        return self.broadcast(r, x.type.shape, [i for i in range(x.type.rank) if i not in axes])

    def returns(self, *values: Value) -> Graph:
        """Sets the graph's outputs and returns it."""
        self.graph.set_outputs(values)
        return self.graph
