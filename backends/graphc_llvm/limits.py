"""What this machine can do at best: rates of arithmetic and of reading memory, measured once by generated code.

Arithmetic: independent chains of multiply-adds in registers. Memory: sums of whole vectors over buffers of a quarter
of the L2 cache, of half of the L3 cache, and one that is too large for both. Each rate is the best of many short runs, so
that what else the machine does counts little; the whole takes about half a second, and is kept in the user's cache.

Arithmetic and L2 cache are a core's own: their rates are those of one thread, times the threads. L3 cache and main memory
are shared: they are measured with as many threads as are asked for.
"""

from __future__ import annotations

import ctypes
import functools
import json
import time
from collections.abc import Callable

import llvmlite.ir as ir

from graphc import config
from graphc.backend import Limits
from graphc.lowering.memory import aligned
from graphc_llvm.abi import KERNEL_TYPE
from graphc_llvm.cache import Cache
from graphc_llvm.emit import (
    BF16,
    ELEMENT_TYPES,
    I64,
    PTR,
    call_intrinsic,
    fma,
    fold_range,
    i32,
    i64,
    load,
    load_vector,
    offset,
    store_vector,
)
from graphc_llvm.linker import load_objects
from graphc_llvm.runtime import runtime
from graphc_llvm.target import Target, host_target

CHAINS = 12
"""Independent sums: enough to hide the latency of a multiply-add, few enough for 16 registers."""
ROUNDS = 30
STEPS = 20_000
LARGEST = 256 * 2**20
"""Bytes of the buffer that stands for main memory, at most."""
LINES = 8
"""Vectors that a pass of the reading loop takes."""

Emit = Callable[[ir.IRBuilder, Target, ir.Value, ir.Value], None]
"""Writes the body of one work item, given the buffer and a number from the dims."""


@functools.cache
def host_limits(threads: int) -> Limits:
    """The limits of this machine for a program of that many threads; measured at first use, then from the user's cache."""
    target, cache = host_target(), Cache(config.cache_dir())
    key = f"limits 1 {target.key} threads {threads}"
    kept = cache.get(key)
    if kept is None:
        found = measure(target, threads)
        cache.put(key, json.dumps({"flops": dict(found.flops), "bandwidth": list(found.bandwidth)}).encode())
        return found
    data = json.loads(kept)
    return Limits(data["flops"], tuple((most, rate) for most, rate in data["bandwidth"]))


def measure(target: Target, threads: int) -> Limits:
    """The limits, measured now."""
    flops = {name: threads * _flops_rate(target, name) for name in ("f32", "f64")}
    # Where products of bf16 have no instruction, they are widened and summed as f32.
    flops["bf16"] = threads * _flops_rate(target, "bf16") if has_bf16_products(target) else flops["f32"]
    flops["f16"] = flops["f32"]
    shared = min(target.l3 // 2, LARGEST // 8)
    bandwidth = (
        (target.l2 * threads, threads * _read_rate(target, target.l2 // 4, 1)),
        (target.l3, _read_rate(target, shared, threads)),
        (None, _read_rate(target, min(4 * target.l3, LARGEST), threads)),
    )
    return Limits(flops, bandwidth)


def has_bf16_products(target: Target) -> bool:
    """Whether the target sums products of bf16 in one instruction, on vectors of its width."""
    return "avx512bf16" in target.features and target.vector_bits == 512


def _flops_rate(target: Target, dtype: str) -> float:
    """Operations a second of one thread."""
    element = ELEMENT_TYPES["f32" if dtype == "bf16" else dtype]
    lanes = target.lanes(8 if dtype == "f64" else 4)

    def emit(b: ir.IRBuilder, target: Target, buffer: ir.Value, steps: ir.Value) -> None:
        x, y = (load_vector(b, offset(b, buffer, 64 * k), element, lanes) for k in (0, 1))
        first = [load_vector(b, offset(b, buffer, 64 * k), element, lanes) for k in range(CHAINS)]
        with fold_range(b, i64(0), steps, 1, first) as loop:
            loop.update([_multiply_add(b, dtype, total, x, y) for total in loop.carried])
        for k, total in enumerate(loop.results):
            store_vector(b, total, offset(b, buffer, 64 * k))

    run = _runner(target, f"flops_{dtype}", emit, 64 * CHAINS, STEPS)
    operations = 2 * CHAINS * lanes * STEPS * (2 if dtype == "bf16" else 1)
    return operations / min(run(1, 1) for _ in range(ROUNDS))


def _multiply_add(b: ir.IRBuilder, dtype: str, total: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    if dtype != "bf16":
        return fma(b, x, y, total)
    pairs = ir.VectorType(BF16, 32)
    return call_intrinsic(
        b, "llvm.x86.avx512bf16.dpbf16ps.512", total.type, [total, b.bitcast(x, pairs), b.bitcast(y, pairs)]
    )


def _read_rate(target: Target, size: int, threads: int) -> float:
    """Bytes a second at which threads read a buffer of that many bytes together, each a part of its own."""
    lanes = target.lanes(4)
    step = LINES * lanes * 4
    part = size // threads // step * step

    def emit(b: ir.IRBuilder, target: Target, buffer: ir.Value, steps: ir.Value) -> None:
        vector = ir.VectorType(ELEMENT_TYPES["i32"], lanes)
        with fold_range(b, i64(0), steps, 1, [ir.Constant(vector, None)] * LINES) as loop:
            here = offset(b, buffer, b.mul(loop.index, i64(step)))
            found = [load_vector(b, offset(b, here, k * lanes * 4), vector.element, lanes) for k in range(LINES)]
            loop.update([b.xor(total, x) for total, x in zip(loop.carried, found, strict=True)])
        for k, total in enumerate(loop.results):
            store_vector(b, total, offset(b, buffer, k * lanes * 4))

    passes = max(1, 2**22 // part)
    run = _runner(target, "read", emit, part * threads, part // step, part)
    return passes * part * threads / min(run(threads, passes) for _ in range(ROUNDS))


def _runner(target: Target, name: str, emit: Emit, size: int, count: int, part: int = 0) -> Callable[[int, int], float]:
    """A function (threads, passes) -> seconds, of as many runs of the item's body by each thread, on a buffer of `size` bytes.

    Thread t's part of the buffer begins at t * part; `count` is the number that the body is given.
    """
    module = ir.Module(name=name)
    module.context = ir.Context()
    function = ir.Function(module, KERNEL_TYPE, f"limits_{name}")
    function.attributes.add("nounwind")
    pointers, dims, _, begin, end = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    buffer, passes, steps = load(b, pointers, PTR), load(b, dims, I64), load(b, offset(b, dims, 1, I64), I64)
    with fold_range(b, begin, end) as item, fold_range(b, i64(0), passes):
        emit(b, target, offset(b, buffer, b.mul(item.index, i64(part))), steps)
    b.ret(i32(0))
    from graphc_llvm.jit import compile_object  # LLVM's library, which running needs not

    library = load_objects([compile_object(str(module), target)], [function.name])
    memory = aligned(size)
    memory[:] = 0
    runtime_library = runtime().library
    start = ctypes.CFUNCTYPE(
        ctypes.c_int32, *[ctypes.c_void_p] * 4, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64
    )(runtime_library.address("run_kernel"))  # fmt: skip

    def run(threads: int, passes: int) -> float:
        places, numbers = (ctypes.c_void_p * 1)(memory.ctypes.data), (ctypes.c_int64 * 2)(passes, count)
        before = time.perf_counter()
        start(
            library.address(function.name), ctypes.addressof(places), ctypes.addressof(numbers), 0, 0, threads, threads
        )
        return time.perf_counter() - before

    return run
