"""Tensors during import: values of the graph, and what is known of them without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from onnx import TensorProto

from graphc.errors import GraphcError, ModelError, NumericError, ShapeError
from graphc.interpreter import run_node
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, Expr
from graphc.ir.types import DTYPES, DType, TensorType, dtype_of

# Elements of a tensor that import computes with: more than any shape, table of positions or set of anchors has.
MOST_KNOWN_ELEMENTS = 1 << 20
# Elements of an integer tensor that is taken for a shape or an index into one.
MOST_SYMBOLIC_ELEMENTS = 1024
# Bytes of one tensor: more than any machine has, so such a size is a mistake or an attack.
LARGEST_TENSOR = 1 << 36
# Characters of a dim's text.
LONGEST_EXPRESSION = 3000

ONNX_DTYPES: Mapping[int, DType] = {
    TensorProto.FLOAT: DTYPES["f32"], TensorProto.DOUBLE: DTYPES["f64"], TensorProto.FLOAT16: DTYPES["f16"],
    TensorProto.BFLOAT16: DTYPES["bf16"], TensorProto.BOOL: DTYPES["bool"],
    TensorProto.INT8: DTYPES["i8"], TensorProto.INT16: DTYPES["i16"], TensorProto.INT32: DTYPES["i32"],
    TensorProto.INT64: DTYPES["i64"], TensorProto.UINT8: DTYPES["u8"], TensorProto.UINT16: DTYPES["u16"],
    TensorProto.UINT32: DTYPES["u32"], TensorProto.UINT64: DTYPES["u64"],
}  # fmt: skip


class Refused(Exception):
    """A node can't be taken, for `reason`; as constants, the model's `inputs` would let it be."""

    def __init__(self, reason: str, inputs: frozenset[str] = frozenset()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.inputs = inputs


class Unknown(Exception):
    """An operand comes from a node that was refused, so nothing can be said of this one."""


class Tensor:
    """A tensor of the model: its type, and its contents as far as import knows them.

    `known` is an array of the type's dtype, or one of Dims (dtype object) where sizes of inputs stand in it. A tensor
    without `known` has a value of the graph; one with it gets its value when a node reads it.
    """

    __slots__ = ("known", "name", "type", "value")

    def __init__(
        self, type: TensorType, *, known: np.ndarray | None = None, value: Value | None = None, name: str | None = None
    ) -> None:
        self.type = type
        self.known = known
        self.value = value
        self.name = name

    @staticmethod
    def of(array: np.ndarray, name: str | None = None) -> Tensor:
        """A tensor of known numbers; `name` is what its constant will be called."""
        return Tensor(TensorType(dtype_of(array), tuple(array.shape)), known=array, name=name)

    @staticmethod
    def of_dims(dims: np.ndarray, dtype: DType) -> Tensor:
        """A tensor of known sizes, an array of dtype object; of numbers where none has a symbol."""
        if not any(isinstance(d, Expr) for d in dims.reshape(-1)):
            return Tensor.of(np.asarray(dims.tolist(), dtype.numpy).reshape(dims.shape))
        return Tensor(TensorType(dtype, tuple(dims.shape)), known=dims)

    @property
    def rank(self) -> int:
        return self.type.rank


Item: TypeAlias = Tensor | tuple[Tensor, ...]
"""What a name of the model stands for: a tensor, or a sequence of them."""


class Contents:
    """What import knows of values: those that depend on constants alone are computed when asked for, once."""

    def __init__(self) -> None:
        self._constant: dict[Value, bool] = {}
        self._arrays: dict[Value, np.ndarray] = {}

    def known(self, tensor: Tensor) -> np.ndarray | None:
        """The tensor's contents, numbers or Dims; None where they depend on a run's inputs, or are too many."""
        if tensor.known is None and tensor.value is not None and self._is_constant(tensor.value):
            tensor.known = self._evaluate(tensor.value)
        return tensor.known

    def _is_constant(self, value: Value) -> bool:
        """Whether the value and all that it is made of are small and independent of the graph's inputs."""
        for v in self._unvisited(value):
            node = v.producer
            small = v.type.is_static and v.type.size <= MOST_KNOWN_ELEMENTS  # type: ignore[operator]
            self._constant[v] = (
                node is not None and small and _is_closed(node) and all(self._constant[o] for o in node.operands)
            )
        return self._constant[value]

    def _unvisited(self, value: Value) -> list[Value]:
        """The values of the cone above `value` that aren't classified yet, operands first."""
        order: list[Value] = []
        seen: set[Value] = set()
        stack: list[tuple[Value, bool]] = [(value, False)]
        while stack:
            v, done = stack.pop()
            if done:
                order.append(v)
            elif v not in self._constant and v not in seen:
                seen.add(v)
                stack.append((v, True))
                if v.producer is not None:
                    stack.extend((o, False) for o in v.producer.operands)
        return order

    def _evaluate(self, value: Value) -> np.ndarray:
        pending = [value]
        while pending:
            v = pending[-1]
            assert v.producer is not None
            missing = [o for o in v.producer.operands if o not in self._arrays]
            if v in self._arrays or not missing:
                pending.pop()
                if v not in self._arrays:
                    results = run_node(v.producer, [self._arrays[o] for o in v.producer.operands], {})
                    self._arrays.update(zip(v.producer.results, results, strict=True))
            else:
                pending.extend(missing)
        return self._arrays[value]


def _is_closed(node: Node) -> bool:
    """Whether the node's attributes hold no symbol, and no region: how long a loop runs, a file may choose."""
    held = [d for a in node.attributes.values() for d in (a if isinstance(a, tuple) else (a,))]
    return not any(isinstance(d, (Expr, Graph)) for d in held)


def sources(value: Value) -> frozenset[str]:
    """The names of the graph's inputs that a value depends on."""
    found: set[str] = set()
    seen = {value}
    pending = [value]
    while pending:
        v = pending.pop()
        if v.producer is None:
            found.add(v.name)
            continue
        new = [o for o in v.producer.operands if o not in seen]
        seen.update(new)
        pending.extend(new)
    return frozenset(found)


def materialize(b: Builder, tensor: Tensor) -> Value:
    """The tensor as a value of the graph; known contents become a node."""
    if tensor.value is None:
        assert tensor.known is not None
        if tensor.known.dtype == object:
            sizes = b.op("dims", values=tuple(tensor.known.reshape(-1).tolist()))
            tensor.value = b.cast(b.reshape(sizes, tensor.type.shape), tensor.type.dtype)
        else:
            tensor.value = b.constant(tensor.known, tensor.name)
    return tensor.value


def check_size(value: Value) -> None:
    """Raises ModelError for a value that no memory holds; refused where its dims are too long to reason about."""
    for d in value.type.shape:
        if isinstance(d, int) and d < 0:
            raise ModelError("a dim is negative", seen=value.type)
        if isinstance(d, int) and d > LARGEST_TENSOR:
            raise ModelError("a dim is too large", seen=d)
        if is_too_long(d):
            raise Refused("its shape is too long an expression of the dynamic dims")
    size = value.type.bytes
    if isinstance(size, int) and size > LARGEST_TENSOR:
        raise ModelError("a tensor is too large", seen=value.type, expected=f"at most {LARGEST_TENSOR} bytes")


def is_too_long(d: Dim) -> bool:
    """Whether an expression has grown so long, by products of products, that working with it would take for ever."""
    return isinstance(d, Expr) and len(d.text) > LONGEST_EXPRESSION


def as_model_error(error: GraphcError, layer: str) -> GraphcError:
    """What inference or the folding of constants raised, as what it is during import: a model that isn't sound."""
    if not isinstance(error, (ShapeError, NumericError)):
        error.layer = error.layer or layer
        return error
    return ModelError(error.what, layer=layer, seen=error.seen, expected=error.expected, hint=error.hint)


def broadcast_shape(shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    """The shape that NumPy's rules give; a dim with a symbol isn't taken for a 1 that repeats."""
    rank = max(len(s) for s in shapes)
    aligned = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    return tuple(_broadcast_dim(dims) for dims in zip(*aligned, strict=True))


def _broadcast_dim(dims: Sequence[Dim]) -> Dim:
    others = [d for d in dims if d != 1]
    # A number says more than a symbol: inference adds the guard that they are equal.
    return next((d for d in others if isinstance(d, int)), others[0] if others else 1)


def broadcast_to(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    """`x` repeated to a shape that NumPy's rules allow, axes aligned at the end."""
    if x.type.rank > len(shape):
        raise ShapeError("a tensor has too many axes to be broadcast", seen=x.type, expected=list(shape))
    return b.broadcast(x, tuple(shape), range(len(shape) - x.type.rank, len(shape)))


def as_dims(array: np.ndarray) -> list[Any]:
    """Known contents as plain ints and Exprs, in row-major order."""
    return list(array.reshape(-1).tolist())
