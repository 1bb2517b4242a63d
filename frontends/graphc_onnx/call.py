"""What a converter sees of a node: operands, attributes and the builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from onnx import GraphProto

from graphc.errors import ModelError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim, Expr
from graphc.ir.types import DType, TensorType
from graphc_onnx.imported import (
    ONNX_DTYPES,
    Contents,
    Item,
    Refused,
    Tensor,
    as_dims,
    broadcast_shape,
    broadcast_to,
    materialize,
    sources,
)
from graphc_onnx.learned import Mode
from graphc_onnx.tensors import type_name

Results: TypeAlias = Value | Item | Sequence[Value | Item | None] | None
"""What a converter gives: one result, or one for each output; None for one that no node reads."""

Converter: TypeAlias = Callable[["Call"], Results]


@dataclass(frozen=True)
class Within:
    """What becomes of graphs among the attributes: outputs with the nodes put in place, or closed graphs.

    `regions` also gives the values that the graphs capture, the same for each, which follow their own inputs. `attempt`
    is for what may fail: a conversion's results, None where it is refused.
    """

    inline: Callable[[GraphProto, Sequence[Item]], list[Item]]
    regions: Callable[[Sequence[GraphProto], Sequence[TensorType]], tuple[list[Graph], list[Value]]]
    attempt: Callable[[Callable[[], Results]], Results]


class Call:
    """A node under conversion. Operands left out are None; `outputs` are the names of its results, "" where unused."""

    def __init__(
        self,
        op: str,
        layer: str,
        opset: int,
        attributes: Mapping[str, Any],
        operands: Sequence[Item | None],
        outputs: Sequence[str],
        b: Builder,
        contents: Contents,
        within: Within,
        mode: Mode,
    ) -> None:
        self.op = op
        self.layer = layer
        self.opset = opset
        self.attributes = attributes
        self.operands = operands
        self.outputs = outputs
        self.b = b
        self.contents = contents
        self.within = within
        self.mode = mode

    # Operands

    def has(self, index: int) -> bool:
        """Whether the operand is there."""
        return index < len(self.operands) and self.operands[index] is not None

    def tensor(self, index: int) -> Tensor:
        """The operand, which must be a tensor."""
        item = self.operands[index] if self.has(index) else None
        if item is None:
            raise ModelError(f"{self.op} lacks operand {index}", layer=self.layer)
        if not isinstance(item, Tensor):
            raise ModelError(f"operand {index} of {self.op} is a sequence", layer=self.layer, expected="a tensor")
        return item

    def sequence(self, index: int) -> tuple[Tensor, ...]:
        """The operand, which must be a sequence."""
        item = self.operands[index] if self.has(index) else None
        if not isinstance(item, tuple):
            raise ModelError(f"operand {index} of {self.op} isn't a sequence", layer=self.layer)
        return item

    def x(self, index: int = 0) -> Value:
        """The operand as a value of the graph."""
        return self.value(self.tensor(index))

    def xs(self) -> list[Value]:
        """All operands as values of the graph."""
        return [self.x(i) for i in range(len(self.operands))]

    def value(self, tensor: Tensor) -> Value:
        """A tensor as a value of the graph."""
        return materialize(self.b, tensor)

    def known(self, index: int) -> np.ndarray | None:
        """The operand's contents where import knows them, numbers or Dims."""
        return self.contents.known(self.tensor(index))

    def sizes(self, index: int, what: str) -> list[Dim]:
        """The operand's contents as sizes or positions; refused where they depend on a run's data."""
        tensor = self.tensor(index)
        known = self.contents.known(tensor)
        if known is None:
            inputs = sources(tensor.value) if tensor.value is not None else frozenset[str]()
            shown = f", here on {', '.join(sorted(inputs)[:3])}" if inputs else ""
            raise Refused(f"its {what} must not depend on the data of a run{shown}", inputs)
        return as_dims(known)

    def size(self, index: int, what: str) -> Dim:
        """The operand's one size or position."""
        sizes = self.sizes(index, what)
        if len(sizes) != 1:
            raise self.wrong(f"{what} must be one number", sizes)
        return sizes[0]

    def numbers(self, index: int, what: str) -> np.ndarray:
        """The operand's contents as numbers, in its own shape and dtype."""
        if any(isinstance(d, Expr) for d in self.sizes(index, what)):
            raise Refused(f"its {what} must not depend on dynamic dims")
        known = self.known(index)
        assert known is not None
        return known

    def integers(self, index: int, what: str) -> tuple[int, ...]:
        """The operand's contents as plain integers."""
        return tuple(int(d) for d in self.numbers(index, what).reshape(-1).tolist())

    def integer(self, index: int, what: str) -> int:
        """The operand's one integer."""
        values = self.integers(index, what)
        if len(values) != 1:
            raise ModelError(f"{what} of {self.op} must be one number", layer=self.layer, seen=list(values))
        return values[0]

    def known_scalar(self, value: int | bool) -> Tensor:
        """A known i64 or bool of rank 0."""
        return Tensor.of(np.array(value, np.bool_ if isinstance(value, bool) else np.int64))

    def truth(self, item: Item) -> bool | None:
        """A condition; None where it depends on a run's data or dims. ModelError where it isn't one element."""
        if not isinstance(item, Tensor) or item.type.size != 1:
            raise self.wrong("a condition must be one element", item.type if isinstance(item, Tensor) else "a sequence")
        known = self.contents.known(item)
        (only,) = (None,) if known is None else known.reshape(-1).tolist()
        return None if only is None or isinstance(only, Expr) else bool(only)

    # Attributes

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute, given or the schema's default; else `default`."""
        return self.attributes.get(name, default)

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front; ModelError outside [-rank, rank)."""
        if not -rank <= axis < rank:
            raise ModelError(
                f"an axis of {self.op} is out of range", layer=self.layer, seen=axis, expected=f"{-rank} to {rank - 1}"
            )
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Axes counted from the front, each once."""
        found = tuple(self.axis(a, rank) for a in axes)
        if len(set(found)) != len(found):
            raise ModelError(f"{self.op} names an axis twice", layer=self.layer, seen=list(axes))
        return found

    def dtype(self, data_type: int) -> DType:
        """The element type of that number in ONNX; refused where graphc has none."""
        found = ONNX_DTYPES.get(data_type)
        if found is None:
            raise Refused(f"the element type {type_name(data_type)} isn't supported")
        return found

    def wrong(self, what: str, seen: object = None, expected: object = None) -> ModelError:
        """A ModelError that names the layer."""
        return ModelError(f"{self.op}: {what}", layer=self.layer, seen=seen, expected=expected)

    # Building

    def broadcast(self, *values: Value) -> list[Value]:
        """The values repeated to their common shape, by NumPy's rules."""
        shape = broadcast_shape([v.type.shape for v in values])
        return [broadcast_to(self.b, v, shape) for v in values]

    def binary(self, op: str, x: Value, y: Value) -> Value:
        """An elementwise operator after broadcasting."""
        return self.b.op(op, *self.broadcast(x, y))

    def scaled(self, op: str, x: Value, number: float) -> Value:
        """An elementwise operator with a number of x's type on the right."""
        return self.b.op(op, x, self.b.full_like(number, x))
