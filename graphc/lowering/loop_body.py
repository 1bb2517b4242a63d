"""LoopBody and TileBody: a fused body as one loop nest, or as several per tile, in data that backends translate.

A LoopBody is one nest over its axes. `parallel` axes index independent work; `reduction` axes are summed (or multiplied,
maximized, ...) over; a `scan` axis is walked in order. Per point of the parallel axes the nest runs its statements in
order: those up to the last Reduce at every point of the reduction axes, then, once the reductions are complete, the rest.
(What stands above the last Reduce and doesn't depend on the reduction axes may run once, before them. Reductions never
feed each other, and with a scan axis all statements run at every point.)

    body softmax_max(%0: f32[n,768] in, %1: f32[n] out) {
      for i0 in n parallel, i1 in 768 reduction {
        v0: f32 = load %0[i0, i1]
        v1: f32 = reduce max v0
        store %1[i0] = v1
      }
    }

Values are scalars, named v0, v1, ... in order of definition; a statement's operands are values or literals. Index
expressions are integer expressions over axis symbols (i0, i1, ...), dimension symbols, and integer values (v3) that were
loaded before: an indirect access. A predicate is a conjunction of `low <= expression < high`; a load whose predicate fails
gives its `otherwise` and touches no memory; a store whose predicate fails stores nothing.
Names of buffers, values and axes are canonical, so equal bodies have equal text, and the text is the kernel's key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from graphc.ir.symbolic import Dim
from graphc.ir.text import float_text
from graphc.ir.types import DType, TensorType

AxisKind = Literal["parallel", "reduction", "scan"]
ReduceKind = Literal["sum", "prod", "max", "min", "argmax", "argmin"]
Access = Literal["in", "out", "scratch"]


@dataclass(frozen=True)
class Axis:
    """A loop from 0 to `extent`; its symbol in index expressions is `name`."""

    name: str
    extent: Dim
    kind: AxisKind = "parallel"

    def __str__(self) -> str:
        return f"{self.name} in {self.extent} {self.kind}"


@dataclass(frozen=True)
class Buffer:
    """A dense row-major tensor that the nest reads ("in"), writes ("out"), or both, per thread and tile ("scratch")."""

    name: str
    type: TensorType
    access: Access

    def __str__(self) -> str:
        return f"%{self.name}: {self.type} {self.access}"


@dataclass(frozen=True)
class Range:
    """low <= expression < high."""

    expression: Dim
    low: Dim
    high: Dim

    def __str__(self) -> str:
        return f"{self.low} <= {self.expression} < {self.high}"


Predicate = tuple[Range, ...]
Literal_ = bool | int | float
Operand = str | Literal_
"""The name of a value defined above, or a literal of the statement's operand type."""


@dataclass(frozen=True)
class Load:
    """value = buffer[index], or `otherwise` where the predicate fails.

    `checked`: dims whose index is data-dependent: out of bounds sets the status IndexOutOfBounds and clamps.
    """

    value: str
    dtype: DType
    buffer: str
    index: tuple[Dim, ...]
    predicate: Predicate = ()
    otherwise: Operand = 0
    checked: tuple[int, ...] = ()

    def __str__(self) -> str:
        text = f"{self.value}: {self.dtype} = load %{self.buffer}{_index(self.index)}"
        if self.predicate:
            text += f" if {_predicate(self.predicate)} else {_operand(self.otherwise)}"
        return text + (f" checked {list(self.checked)}" if self.checked else "")


@dataclass(frozen=True)
class Index:
    """value = expression, as an integer of the dtype (iota, dims as data)."""

    value: str
    dtype: DType
    expression: Dim

    def __str__(self) -> str:
        return f"{self.value}: {self.dtype} = index {self.expression}"


@dataclass(frozen=True)
class Apply:
    """value = op(operands): an elementwise operator's scalar meaning, by the operator's name.

    `operand_dtype` is the type of the operands (of the last one for select); `dtype` that of the result.
    """

    value: str
    dtype: DType
    op: str
    operands: tuple[Operand, ...]
    operand_dtype: DType

    def __str__(self) -> str:
        return f"{self.value}: {self.dtype} = {self.op}.{self.operand_dtype} {', '.join(map(_operand, self.operands))}"


@dataclass(frozen=True)
class Reduce:
    """value = the reduction of `operand` over all reduction axes (over the scan axis up to here, for a scan).

    Points where the predicate fails take no part (only windows need it: padding never wins). argmax and argmin give the
    row-major position in the reduction axes (i64) of the first extreme, -1 if no point takes part; a NaN is extreme.
    """

    value: str
    dtype: DType
    kind: ReduceKind
    operand: Operand
    predicate: Predicate = ()

    def __str__(self) -> str:
        text = f"{self.value}: {self.dtype} = reduce {self.kind} {_operand(self.operand)}"
        return text + (f" if {_predicate(self.predicate)}" if self.predicate else "")


@dataclass(frozen=True)
class Store:
    """buffer[index] = operand; or combined with what is there ("sum", "prod", "max", "min": a scatter, run in order)."""

    buffer: str
    index: tuple[Dim, ...]
    operand: Operand
    predicate: Predicate = ()
    combine: Literal["set", "sum", "prod", "max", "min"] = "set"
    checked: tuple[int, ...] = ()

    def __str__(self) -> str:
        sign = "=" if self.combine == "set" else f"{self.combine}="
        text = f"store %{self.buffer}{_index(self.index)} {sign} {_operand(self.operand)}"
        if self.predicate:
            text += f" if {_predicate(self.predicate)}"
        return text + (f" checked {list(self.checked)}" if self.checked else "")


Statement = Load | Index | Apply | Reduce | Store


@dataclass(frozen=True)
class LoopBody:
    """One nest. `sequential` forbids parallel or reordered parallel axes (scatters with repeated targets)."""

    name: str = field(compare=False)
    buffers: tuple[Buffer, ...]
    axes: tuple[Axis, ...]
    statements: tuple[Statement, ...]
    sequential: bool = False

    def __str__(self) -> str:
        return "\n".join([f"body {self.name}({', '.join(map(str, self.buffers))}) {{", *_nest(self), "}"]) + "\n"

    def key(self) -> str:
        """SHA-256 of everything but the name: equal keys are equal kernels."""
        return hashlib.sha256(str(self).partition("(")[2].encode()).hexdigest()

    def buffer(self, name: str) -> Buffer:
        return next(b for b in self.buffers if b.name == name)

    def axes_of(self, kind: AxisKind) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if a.kind == kind)


@dataclass(frozen=True)
class TileBody:
    """Several nests, run in order per point of `axes` (parallel; a tiled dim's axis counts tiles).

    Each loop's index expressions and extents may use the tile axes' symbols; buffers are shared, and scratch buffers hold
    one tile's intermediates, private to a thread. The last partial tile has smaller extents: min(T, n - T*t).
    """

    name: str = field(compare=False)
    buffers: tuple[Buffer, ...]
    axes: tuple[Axis, ...]
    loops: tuple[LoopBody, ...]

    def __str__(self) -> str:
        lines = [
            f"tile {self.name}({', '.join(map(str, self.buffers))}) {{",
            f"  for {', '.join(map(str, self.axes))} {{",
        ]
        lines += [f"  {line}" for loop in self.loops for line in _nest(loop)]
        return "\n".join([*lines, "  }", "}"]) + "\n"

    def key(self) -> str:
        """SHA-256 of everything but the name: equal keys are equal kernels."""
        return hashlib.sha256(str(self).partition("(")[2].encode()).hexdigest()

    def buffer(self, name: str) -> Buffer:
        return next(b for b in self.buffers if b.name == name)


Body = LoopBody | TileBody


def _nest(body: LoopBody) -> list[str]:
    order = "in order " if body.sequential else ""
    head = f"  {order}for {', '.join(map(str, body.axes))} {{" if body.axes else "  {"
    return [head, *(f"    {s}" for s in body.statements), "  }"]


def _index(index: tuple[Dim, ...]) -> str:
    return f"[{', '.join(map(str, index))}]"


def _predicate(predicate: Predicate) -> str:
    return " and ".join(map(str, predicate))


def _operand(operand: Operand) -> str:
    if isinstance(operand, bool):
        return "true" if operand else "false"
    return float_text(operand) if isinstance(operand, float) else str(operand)
