"""A loop nest as it is being lowered: statements are emitted when an element is asked for.

`nest.value(v, Demand(index))` emits what computes element `index` of the graph value `v` and names the scalar; the same
element asked for again is the same scalar. Views emit nothing: they ask their operand at another index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Node, Value
from graphc.ir.symbolic import Dim, Expr, as_symbol, bounds, free_symbols, nonnegative, symbol
from graphc.ir.types import DType, bool_, f32, i64
from graphc.lowering.index_maps import Index
from graphc.lowering.loop_body import (
    Apply,
    Axis,
    AxisKind,
    Load,
    Operand,
    Predicate,
    Range,
    Reduce,
    ReduceKind,
    Statement,
    Store,
)
from graphc.lowering.loop_body import Index as IndexStatement


@dataclass(frozen=True)
class Demand:
    """Which element is wanted; where `predicate` fails, nothing may be accessed and the scalar must be `otherwise`.

    `otherwise` None: any scalar will do there.
    """

    index: Index
    predicate: Predicate = ()
    otherwise: Operand | None = None

    def at(self, index: Sequence[Dim]) -> Demand:
        """The same demand for another element."""
        return replace(self, index=tuple(index))

    def inner(self) -> Demand:
        """The demand on an operand of a computation: `otherwise` is then chosen after it."""
        return replace(self, otherwise=None)


@dataclass(frozen=True)
class Kept:
    """A value that an earlier nest stored: its element at `index` is element `at` of a buffer."""

    buffer: str
    index: Index
    at: Index


Rule = Callable[["Nest", Value, Demand], Operand]
"""Emits one element of a value that a node produces."""


@dataclass
class Nest:
    """buffers: where graph values are in memory; kept: values that earlier nests of the tile left; rules: by operator."""

    rules: Mapping[str, Rule]
    buffers: Mapping[Value, str]
    kept: Mapping[Value, Kept] = field(default_factory=dict)
    axes: list[Axis] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    transparent: frozenset[str] = frozenset()
    _known: dict[tuple[Value, Demand], Operand] = field(default_factory=dict)
    _emitted: dict[str, str] = field(default_factory=dict)
    _unchecked: set[str] = field(default_factory=set)
    _reduction: tuple[Dim, ...] = ()
    _positions: Index = ()
    _count: int = 0

    def axis(self, extent: Dim, kind: AxisKind = "parallel") -> Dim:
        """The index of a new innermost loop; 0, without a loop, for the extent 1."""
        if extent == 1:
            return 0
        name = f"i{len(self.axes)}"
        self.axes.append(Axis(name, extent, kind))
        return symbol(name, 0, extent - 1)

    def reduction_axes(self, node: Node, extents: Sequence[Dim]) -> Index:
        """The indices of the nest's reduction loops, made at the first call; all reductions of a nest share them.

        Extents of 1 have no loop, and the index 0.
        """
        wanted = tuple(e for e in extents if e != 1)
        if wanted and not self._reduction:
            self._reduction = wanted
            self._positions = tuple(self.axis(e, "reduction") for e in wanted)
        elif wanted and self._reduction != wanted:
            raise unsupported(node, f"a nest reduces over {list(self._reduction)}; this reduces over {list(wanted)}")
        loops = iter(self._positions)
        return tuple(0 if e == 1 else next(loops) for e in extents)

    def value(self, v: Value, demand: Demand) -> Operand:
        """The scalar that is the demanded element; f16 and bf16 elements are f32 scalars of representable value."""
        predicate = _reduced(demand.predicate)
        if predicate is None:
            return zero(v.type.dtype) if demand.otherwise is None else demand.otherwise
        demand = replace(demand, predicate=predicate, otherwise=demand.otherwise if predicate else None)
        key = (v, demand)
        if key not in self._known:
            self._known[key] = self._emit(v, demand)
        return self._known[key]

    def _emit(self, v: Value, demand: Demand) -> Operand:
        kept = self.kept.get(v)
        if kept is not None and kept.index == demand.index:
            return self.load(v.type.dtype, kept.buffer, demand.at(kept.at))
        if v in self.buffers:
            return self.load(v.type.dtype, self.buffers[v], demand)
        if v.producer is None:
            raise ValueError(f"%{v.name} has no buffer")
        rule = self.rules.get(v.producer.op.name)
        if rule is None:
            raise unsupported(v.producer, "it has no loop nest")
        if v.producer.op.name in self.transparent or demand.otherwise is None:
            return rule(self, v, demand)
        return self.select(demand.predicate, rule(self, v, demand.inner()), demand.otherwise, carrier(v.type.dtype))

    def define(self, v: Value, index: Index, operand: Operand) -> None:
        """Lets `operand` be the element of `v` at `index`."""
        self._known[v, Demand(index)] = operand

    def load(self, dtype: DType, buffer: str, demand: Demand) -> Operand:
        """buffer[index], widened from f16 and bf16."""
        checked = []
        for i, e in enumerate(demand.index):
            names = {s.name for s in free_symbols(e)} & self._unchecked
            if names:
                s = as_symbol(e)
                if s is None:
                    raise ValueError(f"data-dependent index {e} of %{buffer} isn't a plain value")
                checked.append(i)
        otherwise = zero(dtype) if demand.otherwise is None else demand.otherwise
        return self._define(
            lambda name: Load(name, carrier(dtype), buffer, demand.index, demand.predicate, otherwise, tuple(checked))
        )

    def apply(self, op: str, dtype: DType, operands: Sequence[Operand], operand_dtype: DType) -> Operand:
        """op(operands)."""
        return self._define(lambda name: Apply(name, dtype, op, tuple(operands), operand_dtype))

    def integer(self, e: Dim, dtype: DType = i64) -> Operand:
        """The expression as an integer scalar."""
        if isinstance(e, int):
            return e
        return self._define(lambda name: IndexStatement(name, dtype, e))

    def reduce(
        self, kind: ReduceKind, dtype: DType, operand: Operand, positions: Sequence[Dim], predicate: Predicate = ()
    ) -> Operand:
        """The reduction of a scalar over loops with these indices; itself where there is none."""
        if not any(isinstance(p, Expr) for p in positions):
            return 0 if kind in ("argmax", "argmin") else operand
        return self._define(lambda name: Reduce(name, dtype, kind, operand, _reduced(predicate) or ()))

    def store(self, buffer: str, index: Index, operand: Operand, dtype: DType) -> None:
        """buffer[index] = operand, for a buffer of `dtype`; what was widened from it is stored as it was before."""
        if carrier(dtype) != dtype:
            for s in self.statements:
                if isinstance(s, Apply) and s.value == operand and s.op == "cast" and s.operand_dtype == dtype:
                    operand = s.operands[0]
        self.statements.append(Store(buffer, index, operand))

    def rounded(self, operand: Operand, dtype: DType) -> Operand:
        """An f32 scalar rounded to f16 or bf16 and widened again; any other as it is."""
        if carrier(dtype) == dtype:
            return operand
        return self.apply("cast", f32, [self.apply("cast", dtype, [operand], f32)], dtype)

    def select(self, predicate: Predicate, x: Operand, y: Operand, dtype: DType) -> Operand:
        """x where the predicate holds, else y."""
        return self.apply("select", dtype, [self.condition(predicate), x, y], dtype)

    def condition(self, predicate: Predicate) -> Operand:
        """The predicate as a bool scalar."""
        result: Operand = True
        for r in predicate:
            e = self.integer(r.expression)
            for op, limit in (("ge", r.low), ("lt", r.high)):
                if op == "ge" and nonnegative(r.expression - limit):
                    continue
                holds = self.apply(op, bool_, [e, self.integer(limit)], i64)
                result = holds if result is True else self.apply("logical_and", bool_, [result, holds], bool_)
        return result

    def position(self, operand: Operand, size: Dim) -> Dim:
        """An integer scalar as an index in [0, size) that is checked where it is used."""
        if isinstance(operand, str):
            self._unchecked.add(operand)
        return self.value_symbol(operand, size)

    def value_symbol(self, operand: Operand, size: Dim) -> Dim:
        """An integer scalar of known range [0, size) as an expression."""
        return symbol(operand, 0, size - 1) if isinstance(operand, str) else int(operand)

    def _define(self, make: Callable[[str], Statement]) -> str:
        """Emits a statement under a new name, or finds an equal one."""
        text = str(make("?"))
        if text not in self._emitted:
            name = f"v{self._count}"
            self._count += 1
            self._emitted[text] = name
            self.statements.append(make(name))
        return self._emitted[text]


def carrier(dtype: DType) -> DType:
    """The dtype in which scalars of an element type are computed."""
    return f32 if dtype.name in ("f16", "bf16") else dtype


def zero(dtype: DType) -> Operand:
    """The literal 0 of an element type."""
    return False if dtype.is_bool else 0.0 if dtype.is_float else 0


def unsupported(node: Node, reason: str) -> UnsupportedOpError:
    """The error for a node that can't be part of the nest."""
    layer = ", ".join(node.origin) or f"%{node.results[0].name}"
    return UnsupportedOpError("lowering", [Unsupported(node.op.name, layer, reason)])


def _reduced(predicate: Predicate) -> Predicate | None:
    """The predicate without ranges that provably hold; None where one provably fails."""
    kept: list[Range] = []
    for r in predicate:
        below, above = r.expression - r.low, r.expression - r.high
        high = bounds(below)[1]
        if nonnegative(above) or (high is not None and high < 0):
            return None
        if not (nonnegative(below) and nonnegative(-above - 1)) and r not in kept:
            kept.append(r)
    return tuple(kept)
