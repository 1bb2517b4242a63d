"""Keys and values of an attention's block laid out in scratch, as the register tile reads them."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from graphc_llvm.emit import (
    BF16,
    I32,
    binary,
    constant,
    convert_float,
    fma,
    fold_range,
    for_range,
    i64,
    load_masked,
    load_vector,
    offset,
    reduce_vector,
    store_vector,
    tail_mask,
)
from graphc_llvm.memory import transpose


@dataclass(frozen=True)
class Rows:
    """Rows of a matrix in memory: element j of row i is at `pointer` + i * row + j * step, in elements of `memory`."""

    pointer: ir.Value
    memory: ir.Type
    row: ir.Value
    step: ir.Value


def pack_keys(
    b: ir.IRBuilder, keys: Rows, count: ir.Value, depth: int, terms: int, width: int, element: ir.Type, to: ir.Value,
    lanes: int,
) -> None:  # fmt: skip
    """Rows [0, count) as panels [row // width][depth // terms][row % width][terms] of `element`, widened where need be.

    Elements of a row are neighbours, or, where single terms are packed, those of the next rows are. In the last panel, lanes
    beyond the last row are undefined, or repeat it.
    """
    dense = isinstance(keys.step, ir.Constant) and keys.step.constant == 1
    with for_range(b, i64(0), count, lanes, "group") as group:
        panel, lane = b.udiv(group, i64(width)), b.urem(group, i64(width))
        here = offset(b, to, b.add(b.mul(panel, i64(depth * width)), b.mul(lane, i64(terms))), element)
        if dense:
            _transpose(b, keys, group, b.sub(count, i64(1)), depth, terms, width, element, here, lanes)
        else:
            _copy(b, keys, group, b.sub(count, group), depth, width, element, here, lanes)


def _transpose(
    b: ir.IRBuilder, keys: Rows, first: ir.Value, last: ir.Value, depth: int, terms: int, width: int,
    element: ir.Type, to: ir.Value, lanes: int,
) -> None:  # fmt: skip
    """One vector of rows, squares of as many elements, or pairs of them, at a time."""
    rows = [binary(b, "smin", b.add(first, i64(n)), last) for n in range(lanes)]
    lines = [offset(b, keys.pointer, b.mul(row, keys.row), keys.memory) for row in rows]
    square = lanes * terms

    def one(d: ir.Value, left: int) -> None:
        mask = tail_mask(b, i64(left), square) if left < square else None
        found = [read(b, offset(b, line, d, keys.memory), keys.memory, square, mask) for line in lines]
        if terms == 2:
            columns = transpose(b, [b.bitcast(x, ir.VectorType(I32, lanes)) for x in found])
        else:
            columns = transpose(b, [convert_float(b, x, element) for x in found])
        for i, column in enumerate(columns[: left // terms]):
            at = b.add(b.mul(d, i64(width)), i64(i * width * terms))
            store_vector(b, column, offset(b, to, at, element))

    whole = depth // square * square
    with for_range(b, i64(0), i64(whole), square, "depth") as d:
        one(d, square)
    if whole < depth:
        one(i64(whole), depth - whole)


def _copy(
    b: ir.IRBuilder, keys: Rows, first: ir.Value, left: ir.Value, depth: int, width: int, element: ir.Type,
    to: ir.Value, lanes: int,
) -> None:  # fmt: skip
    """One vector of rows, which lie side by side."""
    mask = tail_mask(b, left, lanes)
    with for_range(b, i64(0), i64(depth), name="depth") as d:
        line = load_masked(
            b, offset(b, keys.pointer, b.add(b.mul(d, keys.step), first), keys.memory), mask, keys.memory
        )
        store_vector(b, convert_float(b, line, element), offset(b, to, b.mul(d, i64(width)), element))


def pack_pairs(
    b: ir.IRBuilder, rows: Rows, count: ir.Value, columns: int, stride: int, to: ir.Value, lanes: int
) -> None:
    """Rows [0, count) of bf16 as [row // 2][column][row % 2], `stride` columns apart; zeros where there is nothing to read."""
    order = ir.Constant(ir.VectorType(I32, 2 * lanes), [i + lanes * k for i in range(lanes) for k in (0, 1)])
    with for_range(b, i64(0), count, 2, "pair") as row:
        single = b.icmp_signed("==", b.add(row, i64(1)), count)
        lines = [b.mul(row, rows.row), b.mul(b.select(single, row, b.add(row, i64(1))), rows.row)]
        for c in range(0, columns, lanes):
            mask = tail_mask(b, i64(columns - c), lanes) if columns - c < lanes else None
            even, odd = (
                read(b, offset(b, rows.pointer, b.add(line, i64(c)), BF16), BF16, lanes, mask) for line in lines
            )
            odd = b.select(single, ir.Constant(odd.type, None), odd)
            at = b.add(b.mul(row, i64(stride)), i64(2 * c))
            store_vector(b, b.shuffle_vector(even, odd, order), offset(b, to, at, BF16))


def is_finite(b: ir.IRBuilder, rows: Rows, count: ir.Value, columns: int, element: ir.Type, lanes: int) -> ir.Value:
    """Whether no element of rows [0, count), whose columns are neighbours, is infinite or NaN."""
    zero = constant(ir.VectorType(element, lanes), 0.0)
    starts = range(0, columns, lanes)
    with fold_range(b, i64(0), count, 1, [zero] * len(starts), "row") as loop:
        line = offset(b, rows.pointer, b.mul(loop.index, rows.row), rows.memory)
        found = []
        for start, total in zip(starts, loop.carried, strict=True):
            mask = tail_mask(b, i64(columns - start), lanes) if columns - start < lanes else None
            x = convert_float(b, read(b, offset(b, line, start, rows.memory), rows.memory, lanes, mask), element)
            found.append(fma(b, x, zero, total))  # NaN from then on
        loop.update(found)
    odd = [b.fcmp_unordered("uno", x, x) for x in loop.results]
    while len(odd) > 1:
        odd = [b.or_(odd[0], odd[1]), *odd[2:]]
    return b.not_(reduce_vector(b, "or", odd[0]))


def read(b: ir.IRBuilder, pointer: ir.Value, memory: ir.Type, lanes: int, mask: ir.Value | None) -> ir.Value:
    """A vector from memory, or those lanes of it that the mask has."""
    return load_vector(b, pointer, memory, lanes) if mask is None else load_masked(b, pointer, mask, memory)
