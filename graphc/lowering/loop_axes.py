"""The axes of loop nests: split where indices divide them, merged where memory is contiguous."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from graphc.ir.symbolic import Dim, Expr, Mod, bounds, floordiv, free_symbols, linear, mod, substitute, symbol
from graphc.lowering.loop_body import Apply, Axis, Buffer, Load, LoopBody, Reduce, Statement
from graphc.lowering.rewriting import Access, accesses, divisions, expressions, map_expressions


def axis_symbol(axis: Axis) -> Expr:
    """The axis's index as an expression."""
    return symbol(axis.name, 0, axis.extent - 1)


# Splitting


def split_axes(loop: LoopBody) -> LoopBody:
    """The nest with an axis `i` made two, i = c*outer + inner, wherever that rids its indices of divisions by c.

    So indices become affine: `x[i//64, i%64]` is `x[outer, inner]`. Loads of packed panels, `w[n//c, k, n%c]` under a
    contraction, are left as they are and cause no split.
    """
    count = _divisions(loop)
    while count:
        better = next(((s, n) for s in _splits(loop) if (n := _divisions(s)) < count), None)
        if better is None:
            break
        loop, count = better
    return loop


def _splits(loop: LoopBody) -> Iterator[LoopBody]:
    axes = {a.name: a for a in loop.axes if a.kind != "scan"}
    panels = _panel_loads(loop)
    tried: set[tuple[str, Dim]] = set()
    for s in loop.statements:
        if s in panels:
            continue
        for atom in (d for e in expressions(s) for d in divisions(e)):
            for name in sorted(t.name for t in free_symbols(atom.numerator) if t.name in axes):
                axis, c = axes[name], _factor(atom.numerator, name, atom.divisor)
                if c is None or (name, c) in tried or c == axis.extent or mod(axis.extent, c) != 0:
                    continue
                tried.add((name, c))
                yield _split(loop, axis, c)


def _factor(numerator: Dim, name: str, divisor: Dim) -> Dim | None:
    """The c for which name = c*outer + inner lets `divisor` divide outer's coefficient."""
    parts = linear(numerator, [name])
    if parts is None:
        return None
    coefficient = parts[0][name]
    if (bounds(coefficient)[0] or 0) < 1 or mod(divisor, coefficient) != 0:
        return None
    c = floordiv(divisor, coefficient)
    return None if c == 1 else c


def _split(loop: LoopBody, axis: Axis, c: Dim) -> LoopBody:
    outer = Axis(f"{axis.name}o", floordiv(axis.extent, c), axis.kind)
    inner = Axis(f"{axis.name}i", c, axis.kind)
    at = axis_symbol(outer) * c + axis_symbol(inner)
    axes = [x for a in loop.axes for x in ((outer, inner) if a is axis else (a,))]
    statements = tuple(map_expressions(s, lambda e: substitute(e, {axis.name: at})) for s in loop.statements)
    return replace(loop, axes=tuple(axes), statements=statements)


def _divisions(loop: LoopBody) -> int:
    panels = _panel_loads(loop)
    return sum(1 for s in loop.statements if s not in panels for e in expressions(s) for _ in divisions(e))


def _panel_loads(loop: LoopBody) -> list[Statement]:
    """Loads under a contraction whose innermost index is the remainder of a parallel axis: packed panels.

    Panels of pairs have one index more, the remainder of an axis of the sum by 2.
    """
    defined = {s.value: s for s in loop.statements if isinstance(s, Load | Apply)}
    parallel = {a.name for a in loop.axes_of("parallel")}
    found: list[Statement] = []
    for r in loop.statements:
        product = defined.get(str(r.operand)) if isinstance(r, Reduce) and r.kind == "sum" else None
        if not isinstance(product, Apply) or product.op != "mul":
            continue
        for o in product.operands:
            load = defined.get(str(o))
            if isinstance(load, Load) and len(load.index) >= 3 and any(_ends_panel(_lane(load), parallel)):
                found.append(load)
    return found


def _lane(load: Load) -> Dim:
    """The index of a panel's columns, if the load is from one."""
    last = divisions(load.index[-1])
    return load.index[-2] if any(isinstance(d, Mod) and d.divisor == 2 for d in last) else load.index[-1]


def _ends_panel(e: Dim, parallel: set[str]) -> Iterator[bool]:
    for atom in divisions(e):
        yield isinstance(atom.divisor, int) and all(s.name in parallel for s in free_symbols(atom.numerator))


# Merging


def merge_axes(
    tile: Sequence[Axis], loops: Sequence[LoopBody], buffers: Sequence[Buffer]
) -> tuple[list[Axis], list[LoopBody], list[Buffer]]:
    """Tile axes and nests with neighbouring axes joined wherever every access walks both as one; buffers' dims likewise.

    Buffers lose dims of 1 first, so shapes in a body may be of lower rank than the tensors'; the elements and their
    order are the same.
    """
    outer = list(tile)
    nests, memory = _squeeze(list(loops), list(buffers))
    while (step := _next_merge(outer, nests, memory)) is not None:
        at, a, b, joined = step
        for name, dim in joined:
            nests, memory = _join_dims(nests, memory, name, dim)
        outer = _join_axes(outer, a, b)
        nests = [_join(n, a, b) if at in (None, i) else n for i, n in enumerate(nests)]
    return outer, nests, memory


Merge = tuple[int | None, Axis, Axis, list[tuple[str, int]]]
"""Which nest (None: the tile's own axes), two of its axes, and the dims of buffers to join for it."""


def _next_merge(tile: Sequence[Axis], loops: Sequence[LoopBody], buffers: Sequence[Buffer]) -> Merge | None:
    places: list[tuple[int | None, Sequence[Axis]]] = [(None, tile), *((n, x.axes) for n, x in enumerate(loops))]
    for at, axes in places:
        for a, b in itertools.pairwise(axes):
            if a.kind != b.kind or a.kind == "scan":
                continue
            found = [_joined_dims(x, buffers, a, b) for n, x in enumerate(loops) if at in (None, n)]
            joined = {j for dims in found if dims is not None for j in dims}
            if None not in found and not any(_is_checked(loops, *j) for j in joined):
                return at, a, b, sorted(joined, key=lambda j: -j[1])
    return None


def _squeeze(loops: list[LoopBody], buffers: list[Buffer]) -> tuple[list[LoopBody], list[Buffer]]:
    for k, buffer in enumerate(buffers):
        shape = buffer.type.shape
        uses = [x for x in _all_accesses(loops) if x.buffer == buffer.name]
        kept = [i for i, d in enumerate(shape) if d != 1 or any(x.index[i] != 0 or i in x.checked for x in uses)]
        if len(kept) == len(shape):
            continue
        buffers[k] = replace(buffer, type=buffer.type.with_shape(shape[i] for i in kept))

        def without(x: Access, kept: list[int] = kept) -> Access:
            index = tuple(x.index[i] for i in kept)
            return replace(x, index=index, checked=tuple(kept.index(i) for i in x.checked))

        loops = [_map_accesses(loop, buffer.name, without) for loop in loops]
    return loops, buffers


def _all_accesses(loops: Iterable[LoopBody]) -> Iterator[Access]:
    for loop in loops:
        yield from accesses(loop)


def _map_accesses(loop: LoopBody, buffer: str, f: Callable[[Access], Access]) -> LoopBody:
    changed = (f(s) if isinstance(s, Access) and s.buffer == buffer else s for s in loop.statements)
    return replace(loop, statements=tuple(changed))


def _is_checked(loops: Sequence[LoopBody], buffer: str, dim: int) -> bool:
    return any(x.buffer == buffer and {dim, dim + 1} & set(x.checked) for x in _all_accesses(loops))


def _joined_dims(loop: LoopBody, buffers: Sequence[Buffer], a: Axis, b: Axis) -> list[tuple[str, int]] | None:
    """The (buffer, dim) whose dims `dim` and `dim + 1` must be joined before a and b can be; None if they can't be."""
    shapes = {x.name: x.type.shape for x in buffers}
    joined: list[tuple[str, int]] = []
    for s in loop.statements:
        if not isinstance(s, Access):
            if not all(_is_joint(e, a, b) for e in expressions(s)):
                return None
            continue
        guards = [e for r in s.predicate for e in (r.expression, r.low, r.high)]
        if not all(_is_joint(e, a, b) for e in guards):
            return None
        split = [i for i, e in enumerate(s.index) if not _is_joint(e, a, b)]
        if not split:
            continue
        p = split[0]
        if split != [p, p + 1] or shapes[s.buffer][p + 1] != b.extent or s.index[p + 1] != axis_symbol(b):
            return None
        parts = linear(s.index[p], [a.name, b.name])
        if parts is None or parts[0] != {a.name: 1}:
            return None
        if (s.buffer, p) not in joined:
            joined.append((s.buffer, p))
    return joined


def _is_joint(e: Dim, a: Axis, b: Axis) -> bool:
    """Whether `e` depends on a and b only through a*extent(b) + b."""
    parts = linear(e, [a.name, b.name])
    return parts is not None and parts[0].get(a.name, 0) == parts[0].get(b.name, 0) * b.extent


def _join_dims(
    loops: list[LoopBody], buffers: list[Buffer], name: str, dim: int
) -> tuple[list[LoopBody], list[Buffer]]:
    at = next(i for i, b in enumerate(buffers) if b.name == name)
    shape = buffers[at].type.shape
    size = shape[dim + 1]
    joined = buffers[at].type.with_shape((*shape[:dim], shape[dim] * size, *shape[dim + 2 :]))

    def join(x: Access) -> Access:
        index = (*x.index[:dim], x.index[dim] * size + x.index[dim + 1], *x.index[dim + 2 :])
        return replace(x, index=index, checked=tuple(i - (i > dim) for i in x.checked))

    buffers = [replace(b, type=joined) if i == at else b for i, b in enumerate(buffers)]
    return [_map_accesses(loop, name, join) for loop in loops], buffers


def _both(a: Axis, b: Axis) -> Axis:
    return Axis(f"{a.name}_{b.name}", a.extent * b.extent, a.kind)


def _join_axes(axes: Sequence[Axis], a: Axis, b: Axis) -> list[Axis]:
    return [_both(a, b) if x == a else x for x in axes if x != b]


def _join(loop: LoopBody, a: Axis, b: Axis) -> LoopBody:
    def through(e: Dim) -> Dim:
        parts = linear(e, [a.name, b.name])
        assert parts is not None
        return axis_symbol(_both(a, b)) * parts[0].get(b.name, 0) + parts[1]

    statements = tuple(map_expressions(s, through) for s in loop.statements)
    return replace(loop, axes=tuple(_join_axes(loop.axes, a, b)), statements=statements)
