"""Tensors of a model that is being built: they record what is done to them as nodes of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.errors import GraphcError, ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim
from graphc.ir.types import DType, TensorType, i64
from graphc.ops.arithmetic import count

if TYPE_CHECKING:
    from graphc_nn.module import Module, Parameter, State

Number = float | int


class Trace:
    """A graph while modules add to it: their parameters and states, by what they stand for, and the path that is active.

    training: whether layers that differ behave as in training.
    """

    def __init__(self, names: dict[int, str], training: bool) -> None:
        self.graph = Graph("main")
        self.builder = Builder(self.graph)
        self.training = training
        self.names = names
        self.held: dict[int, Value] = {}
        self.written: dict[int, Value] = {}
        self.key: Value | None = None
        self.streams = 0

    def value(self, held: Parameter | State) -> Value:
        """What a parameter or state is in the graph."""
        if id(held) not in self.held:
            hint = "make it in __init__, and keep it as an attribute; modules may stand in a list"
            raise GraphcError("a parameter isn't an attribute of a module of the model", seen=held, hint=hint)
        return self.written.get(id(held), self.held[id(held)])

    def write(self, held: State, value: Value) -> None:
        """Gives a state its next value."""
        self.written[id(held)] = value

    def random(self) -> tuple[Value, int]:
        """The key of random numbers, and a stream that no other layer draws from."""
        if self.key is None:
            self.key = self.graph.add_input("key", TensorType(i64, (2,)))
        self.streams += 1
        return self.key, self.streams - 1

    @contextmanager
    def inside(self, module: Module) -> Iterator[None]:
        """Nodes made meanwhile come from the module; errors name its path."""
        before = self.builder.origin
        path = self.names.get(id(module), type(module).__name__)
        self.builder.origin = (path,) if path else before or (type(module).__name__,)
        try:
            yield
        except GraphcError as e:
            e.layer = e.layer or path or type(module).__name__
            raise
        finally:
            self.builder.origin = before


class Tensor:
    """A value of the graph. Arithmetic follows NumPy's rules of broadcasting; every operator of graphc is `op`."""

    def __init__(self, trace: Trace, value: Value) -> None:
        self.trace, self.value = trace, value

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.value.type.shape

    @property
    def dtype(self) -> DType:
        return self.value.type.dtype

    @property
    def rank(self) -> int:
        return self.value.type.rank

    def op(self, name: str, *others: Tensor, **attributes: Any) -> Tensor:
        """The only result of an operator on this and other tensors."""
        return Tensor(self.trace, self.trace.builder.op(name, self.value, *(t.value for t in others), **attributes))

    def ops(self, name: str, *others: Tensor, **attributes: Any) -> tuple[Tensor, ...]:
        """All results of an operator."""
        found = self.trace.builder.ops(name, self.value, *(t.value for t in others), **attributes)
        return tuple(Tensor(self.trace, v) for v in found)

    def of(self, held: Parameter | State) -> Tensor:
        """A parameter or state, beside this tensor."""
        return Tensor(self.trace, self.trace.value(held))

    def constant(self, array: np.ndarray) -> Tensor:
        """A constant, beside this tensor."""
        return Tensor(self.trace, self.trace.builder.constant(np.asarray(array)))

    def full(self, number: Number, shape: Sequence[Dim] | None = None) -> Tensor:
        """One number, in this tensor's element type and shape, or another shape."""
        t = self.value.type if shape is None else self.value.type.with_shape(shape)
        return Tensor(self.trace, self.trace.builder.full(number, t))

    # Arithmetic

    def _both(self, name: str, other: Tensor | Number, swapped: bool = False) -> Tensor:
        y = other if isinstance(other, Tensor) else self.full(other)
        a, b = broadcast(self, y)
        return b.op(name, a) if swapped else a.op(name, b)

    def __add__(self, other: Tensor | Number) -> Tensor:
        return self._both("add", other)

    __radd__ = __add__

    def __mul__(self, other: Tensor | Number) -> Tensor:
        return self._both("mul", other)

    __rmul__ = __mul__

    def __sub__(self, other: Tensor | Number) -> Tensor:
        return self._both("sub", other)

    def __rsub__(self, other: Number) -> Tensor:
        return self._both("sub", other, swapped=True)

    def __truediv__(self, other: Tensor | Number) -> Tensor:
        return self._both("div", other)

    def __rtruediv__(self, other: Number) -> Tensor:
        return self._both("div", other, swapped=True)

    def __pow__(self, other: Tensor | Number) -> Tensor:
        return self._both("pow", other)

    def __neg__(self) -> Tensor:
        return self.op("neg")

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.op("matmul", other)

    # Shapes

    def reshape(self, *shape: Dim) -> Tensor:
        """Another shape of the same size, row-major."""
        return Tensor(self.trace, self.trace.builder.reshape(self.value, shape))

    def transpose(self, *permutation: int) -> Tensor:
        """Axis i is axis permutation[i] of this."""
        return Tensor(self.trace, self.trace.builder.transpose(self.value, permutation))

    def along(self, axis: int, shape: Sequence[Dim]) -> Tensor:
        """A vector, repeated to a shape in which it lies along `axis`."""
        return Tensor(self.trace, self.trace.builder.broadcast(self.value, shape, (axis % len(shape),)))

    def part(self, axis: int, start: Dim, stop: Dim, step: int = 1) -> Tensor:
        """Elements start, start + step, ... before stop along an axis."""
        axis %= self.rank
        starts: list[Dim] = [0] * self.rank
        limits, strides = list(self.shape), [1] * self.rank
        starts[axis], limits[axis], strides[axis] = start, stop, step
        return self.op("slice", starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))

    def __getitem__(self, key: int | slice | tuple[int | slice, ...]) -> Tensor:
        """NumPy's basic indexing of the first axes: h[:, -1], x[:, 2:8, ::2]. Raises ShapeError for more axes than there are."""
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > self.rank:
            raise ShapeError("there are more indices than axes", seen=len(keys), expected=f"{self.rank} or fewer")
        found, gone = self, []
        for axis, k in enumerate(keys):
            size = self.shape[axis]
            if isinstance(k, int):
                start = size + k if k < 0 else k
                gone.append(axis)
                found = found.part(axis, start, start + 1)
            elif isinstance(k, slice):
                if k.step is not None and k.step < 1:
                    raise ShapeError(
                        "slices go forwards", seen=k.step, hint='x.op("reverse", axes=(0,)) turns an axis around'
                    )
                start, stop = (size + i if isinstance(i, int) and i < 0 else i for i in (k.start or 0, k.stop))
                if isinstance(size, int) and isinstance(stop, int):
                    stop = min(stop, size)
                found = found.part(axis, start, size if stop is None else stop, k.step or 1)
            else:
                raise ShapeError(
                    "a tensor is indexed by integers and slices", seen=type(k).__name__, hint='x.op("gather", ...)'
                )
        return found.reshape(*(d for i, d in enumerate(found.shape) if i not in gone))

    def reduce(self, kind: str, *axes: int) -> Tensor:
        """The sum, "max", "min" or "prod" over axes, which go."""
        return self.op(f"reduce_{kind}", axes=tuple(sorted(a % self.rank for a in axes)))

    def mean(self, *axes: int) -> Tensor:
        """The mean over axes, which go."""
        chosen = sorted(a % self.rank for a in axes)
        total = self.reduce("sum", *chosen)
        size = count(self.trace.builder, [self.shape[a] for a in chosen], self.dtype)
        return total / Tensor(self.trace, size)

    def __repr__(self) -> str:
        return f"<tensor {self.value.type}>"


def broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the shape that NumPy's rules give; raises ShapeError where there is none."""
    rank = max(a.rank, b.rank)
    shapes = [(1,) * (rank - t.rank) + t.shape for t in (a, b)]
    shape: list[Dim] = []
    for x, y in zip(*shapes, strict=True):
        if x != y and 1 not in (x, y):
            raise ShapeError("shapes don't broadcast", seen=f"{list(a.shape)} and {list(b.shape)}")
        shape.append(y if x == 1 else x)
    return spread(a, shape), spread(b, shape)


def spread(t: Tensor, shape: Sequence[Dim]) -> Tensor:
    """The tensor broadcast to a shape; raises ShapeError where it doesn't fit."""
    first = len(shape) - t.rank
    if first < 0 or any(d not in (1, shape[first + i]) for i, d in enumerate(t.shape)):
        raise ShapeError("shapes don't broadcast", seen=f"{list(t.shape)} to {list(shape)}")
    if t.shape == tuple(shape):
        return t
    kept = [i for i in range(t.rank) if t.shape[i] == shape[first + i]]
    small = t.reshape(*(t.shape[i] for i in kept))
    builder = t.trace.builder
    return Tensor(t.trace, builder.broadcast(small.value, shape, [first + i for i in kept]))


def concat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """The tensors one behind the other along an axis."""
    return tensors[0].op("concat", *tensors[1:], axis=axis % tensors[0].rank)
