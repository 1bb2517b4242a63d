"""What a converter sees of a node: arguments by the names of the operator's schema, the builder, the result's types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import fx

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr
from graphc.ir.types import DType, TensorType
from graphc_torch.randomness import Randomness
from graphc_torch.refused import Refused
from graphc_torch.symbols import Symbols
from graphc_torch.tensors import dtype_of, scalar_array

Item: TypeAlias = Value | tuple["Item | None", ...]
"""What a node stands for: a tensor, or several results."""

Results: TypeAlias = Value | Sequence[Value | None]
"""What a converter gives: one result, or one for each that torch has; None for one that no node reads."""

Converter: TypeAlias = Callable[["Call"], Results]


class Call:
    """A node under conversion. `randomness` is there in training mode alone."""

    def __init__(
        self,
        node: fx.Node,
        layer: str,
        b: Builder,
        operands: Mapping[fx.Node, Item | None],
        symbols: Symbols,
        randomness: Randomness | None = None,
    ) -> None:
        self.node = node
        self.op = str(node.target).removeprefix("aten.")
        self.layer = layer
        self.b = b
        self.symbols = symbols
        self._randomness = randomness
        self._operands = operands
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)
        self._raw = {a.name: given.get(a.name, a.default_value) for a in schema}

    # The mode

    @property
    def training(self) -> bool:
        """Whether the model is imported to be trained."""
        return self._randomness is not None

    def only_in_training(self) -> None:
        """Refuses the node where the model is imported for inference."""
        if not self.training:
            raise Refused("training mode isn't supported: call .eval() on the module")

    def random_stream(self) -> tuple[Value, int]:
        """The random key and the number of a new stream; refused for inference."""
        if self._randomness is None:
            raise Refused("random numbers aren't supported in inference: call .eval() on the module")
        return self._randomness.stream()

    # Arguments

    def raw(self, name: str) -> Any:
        """The argument as torch's graph has it: tensors and sizes are nodes; None where it is left out."""
        return self._raw.get(name)

    def has(self, name: str) -> bool:
        """Whether the argument is there."""
        return self._raw.get(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """A number, flag or text, or a list of them; `default` where it is left out."""
        found = self._raw.get(name)
        return default if found is None else found

    def x(self, name: str = "self") -> Value:
        """A tensor argument."""
        return self.value(self._raw.get(name), name)

    def value(self, node: Any, what: str) -> Value:
        """The tensor that a node of torch's graph stands for."""
        found = self._operands.get(node) if isinstance(node, fx.Node) else None
        if not isinstance(found, Value):
            raise Refused(f"its {what} is no tensor")
        return found

    def xs(self, name: str) -> list[Value]:
        """An argument that is a list of tensors."""
        return [self.value(n, name) for n in self._raw[name]]

    def is_tensor(self, name: str) -> bool:
        """Whether the argument is a tensor, and no number."""
        node = self._raw.get(name)
        return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)

    def dim(self, node: Any) -> Dim:
        """A number or size of torch's graph as a dim."""
        return self.symbols.dim(node.meta["val"] if isinstance(node, fx.Node) else node)

    def size(self, name: str) -> Dim:
        """An argument that is a size or position."""
        return self.dim(self._raw[name])

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front."""
        return axis % rank if rank else 0

    def axes(self, name: str, rank: int) -> tuple[int, ...]:
        """An argument of axes, increasing; all where it is left out or empty."""
        given = self._raw.get(name)
        if given is None or given == []:
            return tuple(range(rank))
        return tuple(sorted({self.axis(a, rank) for a in ([given] if isinstance(given, int) else given)}))

    def dtype(self, name: str, default: DType) -> DType:
        """An argument that is an element type."""
        found = self._raw.get(name)
        return default if found is None else dtype_of(found)

    # Results

    def type(self, index: int | None = None) -> TensorType:
        """The type that torch gives the result (or one of several)."""
        found = self.node.meta["val"]
        tensor = found if index is None else found[index]
        return TensorType(dtype_of(tensor.dtype), self.symbols.shape(tensor.shape))

    def common_dtype(self, *names: str) -> DType:
        """The element type that torch promotes the arguments to."""
        vals = [n.meta["val"] if isinstance(n, fx.Node) else n for n in (self._raw[name] for name in names)]
        if any(isinstance(v, (torch.SymInt, torch.SymFloat)) for v in vals):
            vals = [1 if isinstance(v, torch.SymInt) else v for v in vals]
        return dtype_of(torch.result_type(*vals))

    # Building

    def operand(self, name: str, dtype: DType, shape: Sequence[Dim]) -> Value:
        """A tensor or number as a value of an element type, broadcast to a shape by NumPy's rules."""
        node = self._raw[name]
        value = self.x(name) if self.is_tensor(name) else self.number(node, dtype)
        return self.broadcast(self.b.cast(value, dtype), shape)

    def number(self, node: Any, dtype: DType) -> Value:
        """A number, or a size, as a rank-0 value."""
        val = node.meta["val"] if isinstance(node, fx.Node) else node
        if isinstance(val, (bool, int, float)):
            return self.b.constant(scalar_array(val, dtype))
        if isinstance(val, torch.SymInt):
            return self.dim_value(self.symbols.dim(val), dtype)
        raise Refused(f"a number that is {type(val).__name__} isn't supported")

    def dim_value(self, d: Dim, dtype: DType) -> Value:
        """A dim as a rank-0 value."""
        if isinstance(d, int):
            return self.b.constant(scalar_array(d, dtype))
        return self.b.cast(self.b.reshape(self.b.op("dims", values=(d,)), ()), dtype)

    def broadcast(self, x: Value, shape: Sequence[Dim]) -> Value:
        """x repeated to a shape that NumPy's rules allow, axes aligned at the end."""
        return self.b.broadcast(x, tuple(shape), range(len(shape) - x.type.rank, len(shape)))

    def scaled(self, op: str, x: Value, number: float) -> Value:
        """An elementwise operator with a number of x's type on the right."""
        return self.b.op(op, x, self.b.full_like(number, x))

    def keep(self, reduced: Value, x: Value, axes: Sequence[int]) -> Value:
        """A reduction of x with the reduced axes put back as 1."""
        return self.b.reshape(reduced, [1 if i in axes else d for i, d in enumerate(x.type.shape)])

    def part(self, x: Value, axis: int, start: Dim, limit: Dim, step: int = 1) -> Value:
        """x[start:limit:step] along one axis."""
        if start == 0 and step == 1 and limit == x.type.shape[axis]:
            return x
        rank = x.type.rank
        starts: list[Dim] = [0] * rank
        limits: list[Dim] = list(x.type.shape)
        strides = [1] * rank
        starts[axis], limits[axis], strides[axis] = start, limit, step
        return self.b.op("slice", x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """The values one after another; the value itself where there is one."""
        return values[0] if len(values) == 1 else self.b.op("concat", *values, axis=axis)

    def static(self, d: Dim, what: str) -> int:
        """A dim that must be known; refused where it is dynamic."""
        if isinstance(d, Expr):
            raise Refused(f"its {what} must not be dynamic")
        return d


def contents(value: Value) -> np.ndarray | None:
    """The numbers of a constant; None for any other value."""
    node = value.producer
    return node["value"].array if node is not None and node.op.name == "constant" else None
