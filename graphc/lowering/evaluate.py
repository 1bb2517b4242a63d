"""Runs loop bodies in NumPy, every axis at once: what a body means, for tests and for other backends to be held to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from graphc.errors import NumericError
from graphc.ir.symbolic import Dim, Extremum, FloorDiv, Mod, Symbol
from graphc.ir.symbolic import evaluate as evaluate_dim
from graphc.ir.types import DTYPES, DType
from graphc.lowering.loop_body import Apply, Body, Index, Load, LoopBody, Operand, Predicate, Reduce, Store, TileBody
from graphc.ops import find_operator

Environment = dict[str, np.ndarray | int]
"""Values of axes, dimensions and scalars; arrays have one axis for each loop, of length 1 where they don't vary."""

_UFUNCS = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


def evaluate(body: Body, arrays: Sequence[np.ndarray], dims: Mapping[str, int]) -> None:
    """Writes the outputs of a body into `arrays`: its inputs, then its outputs, C-contiguous, in the order of its buffers.

    Raises NumericError for a checked index out of range, IndexError for any other access outside of its buffer.
    """
    given = iter(arrays)
    memory: dict[str, np.ndarray] = {}
    for buffer in body.buffers:
        if buffer.access == "scratch":
            continue
        array = next(given)
        memory[buffer.name] = array.reshape(buffer.type.concrete(dims))
        if buffer.access == "out" and not np.shares_memory(memory[buffer.name], array) and array.size:
            raise ValueError(f"output %{buffer.name} isn't contiguous")
    with np.errstate(all="ignore"):
        if isinstance(body, LoopBody):
            _run(body, memory, dict(dims))
            return
        extents = [range(evaluate_dim(a.extent, dims)) for a in body.axes]
        for point in itertools.product(*extents):
            _run_tile(body, memory, {**dims, **{a.name: i for a, i in zip(body.axes, point, strict=True)}})


def _run_tile(body: TileBody, memory: dict[str, np.ndarray], values: dict[str, int]) -> None:
    scratch = {b.name: b.type for b in body.buffers if b.access == "scratch"}
    mine = memory | {n: _garbage(t.concrete(values), t.dtype) for n, t in scratch.items()}
    for loop in body.loops:
        _run(loop, mine, dict(values))


def _garbage(shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    return np.full(shape, np.nan if dtype.is_float else 77 if not dtype.is_bool else True, dtype.numpy)


def _run(loop: LoopBody, memory: Mapping[str, np.ndarray], values: Environment) -> None:
    extents = [evaluate_dim(a.extent, {k: v for k, v in values.items() if isinstance(v, int)}) for a in loop.axes]
    if any(e == 0 for e, a in zip(extents, loop.axes, strict=True) if a.kind == "parallel"):
        return
    rank = len(extents)
    for n, (a, e) in enumerate(zip(loop.axes, extents, strict=True)):
        values[a.name] = np.arange(e).reshape([-1 if i == n else 1 for i in range(rank)])
    for s in loop.statements:
        match s:
            case Load():
                values[s.value] = _load(s, memory[s.buffer], values, rank)
            case Index():
                values[s.value] = _array(_expression(s.expression, values), s.dtype, rank)
            case Apply():
                values[s.value] = _apply(s, values, rank)
            case Reduce():
                values[s.value] = _reduce(s, loop, extents, values)
            case Store():
                _store(s, memory[s.buffer], loop, extents, values)


def _expression(e: Dim, values: Environment) -> np.ndarray | int:
    if isinstance(e, int):
        return e
    total: np.ndarray | int = 0
    for monomial, coefficient in e.terms:
        term: np.ndarray | int = coefficient
        for atom in monomial:
            match atom:
                case Symbol():
                    term = term * values[atom.name]
                case FloorDiv():
                    term = term * (_expression(atom.numerator, values) // _expression(atom.divisor, values))
                case Mod():
                    term = term * (_expression(atom.numerator, values) % _expression(atom.divisor, values))
                case Extremum():
                    fold = np.minimum if atom.kind == "min" else np.maximum
                    parts = [_expression(x, values) for x in atom.arguments]
                    term = term * fold.reduce(np.broadcast_arrays(*parts))
        total = total + term
    return total


def _array(x: Operand | np.ndarray, dtype: DType, rank: int) -> np.ndarray:
    array = np.asarray(x)
    if array.dtype != dtype.numpy:
        array = array.astype(dtype.numpy)
    return array.reshape(array.shape if array.ndim == rank else (1,) * rank)


def _operand(o: Operand, values: Environment, dtype: DType, rank: int) -> np.ndarray:
    return _array(values[o] if isinstance(o, str) else o, dtype, rank)


def _holds(predicate: Predicate, values: Environment) -> np.ndarray:
    result = np.array(True)
    for r in predicate:
        e = _expression(r.expression, values)
        result = result & (_expression(r.low, values) <= e) & (e < _expression(r.high, values))
    return result


def _positions(s: Load | Store, buffer: np.ndarray, values: Environment, holds: np.ndarray) -> tuple[np.ndarray, ...]:
    """The index arrays of an access, 0 where its predicate fails."""
    index = []
    for i, e in enumerate(s.index):
        at = np.where(holds, _expression(e, values), 0)
        outside = at[(at < 0) | (at >= buffer.shape[i])]
        if outside.size:
            if i in s.checked:
                raise NumericError(
                    "index out of range", seen=outside.flat[0], expected=f"0 <= index < {buffer.shape[i]}"
                )
            raise IndexError(f"{s}: {outside.flat[0]} is outside of [0, {buffer.shape[i]})")
        index.append(at)
    return tuple(index)


def _load(s: Load, buffer: np.ndarray, values: Environment, rank: int) -> np.ndarray:
    holds = _holds(s.predicate, values)
    otherwise = _operand(s.otherwise, values, s.dtype, rank)
    if buffer.size == 0 and not holds.any():
        return np.broadcast_to(otherwise, np.broadcast_shapes(otherwise.shape, holds.shape))
    shape = np.broadcast_shapes(*(np.shape(_expression(e, values)) for e in s.index), holds.shape)
    if 0 in shape:
        return np.zeros(shape, s.dtype.numpy)
    found = _array(np.asarray(buffer[_positions(s, buffer, values, holds)]), s.dtype, rank)
    return np.where(holds, found, otherwise) if s.predicate else found


def _apply(s: Apply, values: Environment, rank: int) -> np.ndarray:
    dtypes = [s.operand_dtype] * len(s.operands)
    if s.op == "select":
        dtypes[0] = DTYPES["bool"]
    operands = np.broadcast_arrays(*(_operand(o, values, d, rank) for o, d in zip(s.operands, dtypes, strict=True)))
    (result,) = find_operator(s.op).reference(operands, {"dtype": s.dtype})
    return _array(result, s.dtype, rank)


def _reduce(s: Reduce, loop: LoopBody, extents: Sequence[int], values: Environment) -> np.ndarray:
    rank = len(extents)
    scan = [n for n, a in enumerate(loop.axes) if a.kind == "scan"]
    over = scan or [n for n, a in enumerate(loop.axes) if a.kind == "reduction"]
    operand = values[s.operand] if isinstance(s.operand, str) else np.asarray(s.operand)
    operand = operand if isinstance(operand, np.ndarray) and operand.ndim == rank else np.reshape(operand, (1,) * rank)
    holds = _holds(s.predicate, values)
    shape = np.broadcast_shapes(operand.shape, holds.shape, [e if n in over else 1 for n, e in enumerate(extents)])
    operand = np.broadcast_to(operand, shape)
    if s.kind in ("argmax", "argmin"):
        return _arg_extreme(s.kind, operand, np.broadcast_to(holds, shape), over)
    fold = _UFUNCS[s.kind]
    wide = np.float64 if s.dtype.is_float and s.kind in ("sum", "prod") else operand.dtype
    if s.predicate:
        operand = np.where(holds, operand, _identity(s.kind, operand.dtype))
    if scan:
        return fold.accumulate(operand, axis=scan[0], dtype=wide).astype(s.dtype.numpy)
    return np.asarray(fold.reduce(operand, axis=tuple(over), keepdims=True, dtype=wide)).astype(s.dtype.numpy)


def _identity(kind: str, dtype: np.dtype) -> float | int:
    if kind in ("sum", "prod"):
        return int(kind == "prod")
    low = kind == "max"
    if dtype.kind == "f":
        return -np.inf if low else np.inf
    info = np.iinfo(dtype)
    return int(info.min if low else info.max)


def _arg_extreme(kind: str, operand: np.ndarray, holds: np.ndarray, over: Sequence[int]) -> np.ndarray:
    last = [n for n in range(operand.ndim) if n not in over] + list(over)
    kept = [1 if n in over else operand.shape[n] for n in range(operand.ndim)]
    rows = operand.transpose(last).reshape(int(np.prod(kept)), -1)
    counts = holds.transpose(last).reshape(rows.shape)
    found = np.full(len(rows), -1, np.int64)
    for n, (row, count) in enumerate(zip(rows, counts, strict=True)):
        at = np.flatnonzero(count)
        if at.size:
            found[n] = at[np.argmax(row[at]) if kind == "argmax" else np.argmin(row[at])]
    return found.reshape(kept)


def _store(s: Store, buffer: np.ndarray, loop: LoopBody, extents: Sequence[int], values: Environment) -> None:
    rank = len(extents)
    holds = _holds(s.predicate, values)
    operand = values[s.operand] if isinstance(s.operand, str) else np.asarray(s.operand)
    parts = [np.reshape(p, (1,) * rank) if np.ndim(p) != rank else np.asarray(p)
             for p in (operand, holds, *_positions(s, buffer, values, holds))]  # fmt: skip
    # Points in row-major order of the axes: the order of a sequential nest.
    needed = np.broadcast_shapes(*(p.shape for p in parts))
    if loop.sequential:
        needed = tuple(extents)
    element, where, *index = (np.broadcast_to(p, needed).reshape(-1) for p in parts)
    at = tuple(i[where] for i in index)
    element = element[where].astype(buffer.dtype)
    if s.combine == "set":
        if at:
            buffer[at] = element
        elif element.size:
            buffer[()] = element[-1]
        return
    for n in range(element.size):
        position = tuple(int(i[n]) for i in at)
        wide = np.float32 if buffer.dtype.itemsize == 2 and buffer.dtype.kind != "i" else buffer.dtype
        buffer[position] = _UFUNCS[s.combine](buffer[position].astype(wide), element[n].astype(wide))
