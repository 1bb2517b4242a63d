"""The kernel of `sort`: each row's positions sorted by merging, bottom up; values are gathered at the end.

    for row in [begin, end):                              # rows along the sorted axis, wherever their elements lie
      order = 0, 1, ..., n - 1
      for width in 1, 2, 4, ...: merge neighbouring runs of `width` positions, from one half of scratch to the other
      values[k], indices[k] = x[order[k]], order[k]

Stable: of two equal elements the left run's comes first. NaN is the largest. n log n comparisons; scratch holds 2 n
positions."""

from __future__ import annotations

import llvmlite.ir as ir

from graphc.ir.graph import Node
from graphc.ir.symbolic import Dim, product
from graphc.ir.types import DType
from graphc_llvm.abi import KERNEL_TYPE
from graphc_llvm.emit import (
    ELEMENT_TYPES,
    F32,
    I64,
    PTR,
    binary,
    convert_float,
    for_range,
    i32,
    i64,
    load,
    local,
    offset,
    store,
)


def rows(node: Node) -> Dim:
    """How many independent sequences are sorted."""
    shape, axis = node.operands[0].type.shape, node["axis"]
    return product((*shape[:axis], *shape[axis + 1 :]))


def scratch_bytes(node: Node) -> Dim:
    """Two orders of one row."""
    return 16 * node.operands[0].type.shape[node["axis"]]


def dims(node: Node) -> tuple[Dim, Dim]:
    """What the kernel reads from `dims`: the length of the sorted axis, and the elements from one step to the next."""
    shape, axis = node.operands[0].type.shape, node["axis"]
    return shape[axis], product(shape[axis + 1 :])


def emit(dtype: DType, descending: bool, symbol: str) -> str:
    """LLVM IR of the kernel, which serves any shape."""
    return str(_Sort(dtype, descending, symbol).module)


class _Sort:
    def __init__(self, dtype: DType, descending: bool, symbol: str) -> None:
        self.dtype, self.descending = dtype, descending
        self.element = ELEMENT_TYPES[dtype.name]
        self.module = ir.Module(name=symbol)
        self.module.context = ir.Context()
        function = ir.Function(self.module, KERNEL_TYPE, symbol)
        function.attributes.add("nounwind")
        pointers, dims, scratch, begin, end = function.args
        self.b = b = ir.IRBuilder(function.append_basic_block("entry"))
        x, values, indices = (load(b, offset(b, pointers, i, PTR), PTR) for i in range(3))
        self.n, self.stride = (load(b, offset(b, dims, i, I64), I64) for i in range(2))
        self.source, self.target = local(b, PTR), local(b, PTR)
        first, second = scratch, offset(b, scratch, self.n, I64)
        with for_range(b, begin, end, name="row") as row:
            inner = b.urem(row, self.stride)
            base = b.add(b.mul(b.udiv(row, self.stride), b.mul(self.n, self.stride)), inner)
            self.x = offset(b, x, base, self.element)
            with for_range(b, i64(0), self.n, name="start") as i:
                store(b, i, offset(b, first, i, I64))
            b.store(first, self.source, align=8)
            b.store(second, self.target, align=8)
            self.merge_all()
            order = load(b, self.source, PTR)
            with for_range(b, i64(0), self.n, name="out") as k:
                position = load(b, offset(b, order, k, I64), I64)
                at = b.add(base, b.mul(k, self.stride))
                store(b, self.at(position), offset(b, values, at, self.element))
                store(b, position, offset(b, indices, at, I64))
        b.ret(i32(0))

    def at(self, position: ir.Value) -> ir.Value:
        return load(self.b, offset(self.b, self.x, self.b.mul(position, self.stride), self.element), self.element)

    def merge_all(self) -> None:
        """Doubles the runs' width until one run is left; the result lies in `source`."""
        b = self.b
        width = local(b, I64)
        store(b, i64(1), width)
        head, body, done = (b.append_basic_block(f"merge.{name}") for name in ("head", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        w = load(b, width, I64)
        b.cbranch(b.icmp_signed("<", w, self.n), body, done)
        b.position_at_end(body)
        pair = b.mul(w, i64(2))
        with for_range(b, i64(0), self.n, pair, "pair") as low:
            middle = binary(b, "smin", b.add(low, w), self.n)
            high = binary(b, "smin", b.add(low, pair), self.n)
            self.merge(low, middle, high)
        source, target = load(b, self.source, PTR), load(b, self.target, PTR)
        b.store(target, self.source, align=8)
        b.store(source, self.target, align=8)
        store(b, pair, width)
        b.branch(head)
        b.position_at_end(done)

    def merge(self, low: ir.Value, middle: ir.Value, high: ir.Value) -> None:
        """Merges positions [low, middle) and [middle, high) of `source` into `target`."""
        b = self.b
        source, target = load(b, self.source, PTR), load(b, self.target, PTR)
        left, right = local(b, I64), local(b, I64)
        store(b, low, left)
        store(b, middle, right)
        last = b.sub(self.n, i64(1))
        with for_range(b, low, high, name="k") as k:
            i, j = load(b, left, I64), load(b, right, I64)
            # Where a run is used up its position isn't: the loads are clamped, and the answer doesn't depend on them.
            p = load(b, offset(b, source, binary(b, "smin", i, last), I64), I64)
            q = load(b, offset(b, source, binary(b, "smin", j, last), I64), I64)
            wins = b.or_(b.icmp_signed(">=", i, middle), self.before(self.at(q), self.at(p)))
            take_right = b.and_(b.icmp_signed("<", j, high), wins)
            store(b, b.select(take_right, q, p), offset(b, target, k, I64))
            store(b, b.add(i, b.zext(b.not_(take_right), I64)), left)
            store(b, b.add(j, b.zext(take_right, I64)), right)

    def before(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Whether x must come before y."""
        if self.descending:
            x, y = y, x
        b = self.b
        if not self.dtype.is_float:
            compare = b.icmp_signed if self.dtype.kind == "int" else b.icmp_unsigned
            return compare("<", x, y)
        if self.dtype.bytes == 2:
            x, y = convert_float(b, x, F32), convert_float(b, y, F32)
        only_y_is_nan = b.and_(b.fcmp_unordered("uno", y, y), b.fcmp_ordered("ord", x, x))
        return b.or_(b.fcmp_ordered("<", x, y), only_y_is_nan)
