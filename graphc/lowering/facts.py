"""What a backend asks of a body before it writes code for it: its symbols, its scratch, the order of its work."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from graphc.ir.symbolic import Dim, Symbol, ceildiv, free_symbols
from graphc.lowering.loop_body import Body, Literal_, LoopBody, Reduce, Statement, Store
from graphc.lowering.memory import ALIGNMENT
from graphc.lowering.rewriting import defined, expressions, symbols_read


def loops(body: Body) -> tuple[LoopBody, ...]:
    """The nests of a body, in order."""
    return (body,) if isinstance(body, LoopBody) else body.loops


def dimensions(body: Body) -> list[Symbol]:
    """The dimension symbols of a body, sorted by name: all but its axes and its values."""
    nests = loops(body)
    axes = [*body.axes, *(a for loop in nests for a in loop.axes)]
    read: list[Dim] = [d for b in body.buffers for d in b.type.shape] + [a.extent for a in axes]
    read += [e for loop in nests for s in loop.statements for e in expressions(s)]
    known = {a.name for a in axes} | {defined(s) for loop in nests for s in loop.statements}
    found = {s.name: s for e in read for s in free_symbols(e) if s.name not in known}
    return [found[name] for name in sorted(found)]


def scratch_sizes(body: Body) -> list[Dim]:
    """Bytes of each scratch buffer, which lie one after another in a worker's scratch memory; multiples of 64."""
    sizes = [b.type.bytes for b in body.buffers if b.access == "scratch"]
    return [ceildiv(size, ALIGNMENT) * ALIGNMENT for size in sizes]


def identity(reduce: Reduce) -> Literal_:
    """What a reduction (but argmax and argmin) starts from: the result for no points, where there is one."""
    if reduce.kind in ("sum", "prod"):
        return int(reduce.kind == "prod")
    least = reduce.kind == "max"
    if reduce.dtype.is_float:
        return -math.inf if least else math.inf
    if reduce.dtype.is_bool:
        return not least
    info = np.iinfo(reduce.dtype.numpy)
    return int(info.min if least else info.max)


@dataclass(frozen=True)
class Phases:
    """The statements of a nest: `before` its reduction axes are walked, `during`, and `after`, once per parallel point."""

    before: tuple[Statement, ...]
    during: tuple[Statement, ...]
    after: tuple[Statement, ...]


def phases(body: LoopBody) -> Phases:
    """When each statement runs. A nest with a scan axis runs all of them `during`, one without reductions `before`."""
    if body.axes_of("scan"):
        return Phases((), body.statements, ())
    reduces = {s.value for s in body.statements if isinstance(s, Reduce)}
    if not reduces:
        return Phases(body.statements, (), ())
    varying = {a.name for a in body.axes_of("reduction")}  # and the values that differ along these axes
    late = set(reduces)  # the values that wait for the reductions
    before: list[Statement] = []
    during: list[Statement] = []
    after: list[Statement] = []
    for s in body.statements:
        read = symbols_read(s)
        if isinstance(s, Reduce):
            during.append(s)
        elif read & varying:
            during.append(s)
            varying.add(defined(s) or "")
        elif read & late or isinstance(s, Store):
            after.append(s)
            late.add(defined(s) or "")
        else:
            before.append(s)
    return Phases(tuple(before), tuple(during), tuple(after))
