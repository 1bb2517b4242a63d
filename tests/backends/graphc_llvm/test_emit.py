"""The emitting helpers, run on each target that this machine has, against NumPy."""

from __future__ import annotations

import ctypes
import mmap
from functools import partial

import llvmlite.ir as ir
import ml_dtypes
import numpy as np
import pytest

from graphc_llvm import emit
from graphc_llvm.emit import ELEMENT_TYPES, F32, F64, I32, I64, PTR, i64

NUMPY = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64, "i8": np.int8,
         "i16": np.int16, "i32": np.int32, "i64": np.int64, "u8": np.uint8, "bool": np.bool_}  # fmt: skip


def misaligned(count: int, dtype: type) -> np.ndarray:
    """An array whose address is a multiple of its item size and of no more."""
    size = np.dtype(dtype).itemsize
    raw = np.zeros((count + 2) * size + 64, np.uint8)
    start = -raw.ctypes.data % 64 + size
    return raw[start : start + count * size].view(dtype)


@pytest.mark.parametrize(("start", "stop", "step"), [(0, 10, 1), (3, 17, 4), (5, 5, 1), (7, 2, 3), (-4, 4, 3)])
@pytest.mark.parametrize("literal", [True, False])
def test_for_range_visits_what_range_does(native, target, start, stop, step, literal):
    def body(b, out, first, last):
        if literal:
            first, last = i64(start), i64(stop)
        count = emit.local(b, I64)
        b.store(i64(0), count)
        with emit.for_range(b, first, last, step) as i:
            k = b.load(count)
            emit.store(b, i, emit.offset(b, out, k, I64))
            b.store(b.add(k, i64(1)), count)
        return b.trunc(b.load(count), I32)

    out = np.zeros(32, np.int64)
    count = native(target, [PTR, I64, I64], body)(out.ctypes.data, start, stop)
    assert list(out[:count]) == list(range(start, stop, step))


def test_loops_and_conditionals_nest(native, target):
    def body(b, n):
        with emit.fold_range(b, i64(0), n, initial=[i64(0)]) as outer:
            with emit.fold_range(b, i64(0), outer.index, initial=outer.carried) as inner:
                odd = b.trunc(inner.index, emit.I1)
                total = emit.local(b, I64)
                b.store(inner.carried[0], total)
                with b.if_then(odd):
                    b.store(b.add(inner.carried[0], b.mul(inner.index, outer.index)), total)
                inner.update([b.load(total)])
            outer.update(inner.results)
        return outer.results[0]

    function = native(target, [I64], body, I64)
    for n in (0, 1, 2, 9):
        assert function(n) == sum(i * j for i in range(n) for j in range(i) if j % 2)


@pytest.mark.parametrize("dtype", list(NUMPY))
@pytest.mark.parametrize("n", [4, 16])
def test_vectors_move_through_misaligned_memory(native, target, dtype, n):
    def body(b, source, result):
        element = ELEMENT_TYPES[dtype]
        emit.store_vector(b, emit.load_vector(b, source, element, n), result)

    source, result = misaligned(n, NUMPY[dtype]), misaligned(n, NUMPY[dtype])
    source[:] = np.arange(n) % 2
    native(target, [PTR, PTR], body)(source.ctypes.data, result.ctypes.data)
    np.testing.assert_array_equal(source, result)


@pytest.mark.parametrize("remaining", [-3, 0, 1, 7, 15, 16, 17, 2**40])
def test_masked_access_stops_at_the_tail(native, target, remaining):
    def body(b, source, result, left):
        mask = emit.tail_mask(b, left, 16)
        seven = emit.constant(ir.VectorType(F32, 16), 7.0)
        emit.store_masked(b, emit.load_masked(b, source, mask, F32), result, mask)
        rest = emit.load_masked(b, source, mask, F32, otherwise=seven)
        emit.store_vector(b, rest, emit.offset(b, result, 16, F32))

    source, result = np.arange(1, 17, dtype=np.float32), np.full(32, -1, np.float32)
    native(target, [PTR, PTR, I64], body)(source.ctypes.data, result.ctypes.data, remaining)
    on = np.arange(16) < remaining
    np.testing.assert_array_equal(result[:16], np.where(on, source, -1))
    np.testing.assert_array_equal(result[16:], np.where(on, source, 7))


@pytest.mark.parametrize("dtype", ["bool", "f16", "f32", "f64"])
def test_masked_access_touches_no_byte_beyond_the_mask(native, target, dtype):
    """The elements end where a page that can't be read begins."""

    def body(b, data, left):
        mask = emit.tail_mask(b, left, 16)
        emit.store_masked(b, emit.load_masked(b, data, mask, ELEMENT_TYPES[dtype]), data, mask)

    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + page), ctypes.c_size_t(page), 0) == 0  # PROT_NONE
    function = native(target, [PTR, I64], body)
    size = np.dtype(NUMPY[dtype]).itemsize
    for count in (0, 1, 5, 15):
        function(address + page - count * size, count)


def test_gather_reads_where_the_mask_is_on(native, target):
    def body(b, source, indices, result, left):
        where = emit.load_vector(b, indices, I64, 8)
        mask = emit.tail_mask(b, left, 8)
        emit.store_vector(b, emit.gather(b, source, where, mask, F32), result)

    source, indices = np.arange(10, dtype=np.float32), np.array([9, 0, 3, 3, 1, 2**50, 5, -(2**50)])
    result = np.empty(8, np.float32)
    native(target, [PTR, PTR, PTR, I64], body)(source.ctypes.data, indices.ctypes.data, result.ctypes.data, 5)
    np.testing.assert_array_equal(result, [9, 0, 3, 3, 1, 0, 0, 0])


@pytest.mark.parametrize("constant", [True, False])
def test_splat_and_lanes(native, target, constant):
    def body(b, x, result):
        value = i64(5) if constant else x
        emit.store_vector(b, emit.splat(b, value, 8), result)
        emit.store_vector(b, emit.lanes(b, 8, value), emit.offset(b, result, 8, I64))

    result = np.empty(16, np.int64)
    native(target, [I64, PTR], body)(5, result.ctypes.data)
    np.testing.assert_array_equal(result, [5] * 8 + list(range(5, 13)))


def test_fma_rounds_once(native, target):
    function = native(target, [F64, F64, F64], lambda b, x, y, z: emit.fma(b, x, y, z), F64)
    x = 1 + 2.0**-30
    assert function(x, x, -1.0) == 2.0**-29 + 2.0**-60  # x * x - 1 in two roundings loses the last term


REDUCTIONS = {
    "fadd": (np.float32, np.sum), "fmul": (np.float32, np.prod),
    "fmaximum": (np.float32, np.max), "fminimum": (np.float32, np.min),
    "add": (np.int32, np.sum), "mul": (np.int32, partial(np.prod, dtype=np.int32)),
    "smax": (np.int32, np.max), "smin": (np.int32, np.min),
    "and": (np.int32, np.bitwise_and.reduce), "or": (np.int32, np.bitwise_or.reduce),
    "xor": (np.int32, np.bitwise_xor.reduce),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(REDUCTIONS))
def test_reductions(native, target, kind):
    dtype, reference = REDUCTIONS[kind]
    element = F32 if dtype is np.float32 else I32

    def body(b, source, result):
        emit.store(b, emit.reduce_vector(b, kind, emit.load_vector(b, source, element, 16)), result)

    source = np.array([3, 1, -4, 1, 5, -9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3], dtype)
    result = np.empty(1, dtype)
    native(target, [PTR, PTR], body)(source.ctypes.data, result.ctypes.data)
    np.testing.assert_allclose(result[0], reference(source), rtol=1e-6)
    if kind in ("fmaximum", "fminimum"):
        source[5] = np.nan
        native(target, [PTR, PTR], body)(source.ctypes.data, result.ctypes.data)
        assert np.isnan(result[0])


def test_an_unknown_reduction_is_refused(emit_function):
    with pytest.raises(ValueError, match="no reduction named 'mean'"):
        emit_function([F32], lambda b, x: emit.reduce_vector(b, "mean", emit.splat(b, x, 4)))


def edge_values(dtype: type) -> np.ndarray:
    """Floats that conversions get wrong: ties, denormals, overflow, NaN, and random bits."""
    bits = np.random.default_rng(0).integers(0, 256, 40_000 * np.dtype(dtype).itemsize, np.uint8)
    scaled = np.random.default_rng(1).standard_normal(8_000) * 10.0 ** np.random.default_rng(2).integers(-12, 6, 8_000)
    ties = (1 + 2.0**-11) * (1 + 2.0 ** -np.arange(20, 60.0))  # halfway between two f16, and a little above
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.99, 65520, 2**-24, 2**-25, 3.4e38, 1e-40])
    with np.errstate(all="ignore"):
        values = np.concatenate([special, ties, -ties, scaled]).astype(dtype)
    return np.concatenate([values, bits.view(dtype)])


@pytest.mark.parametrize("source", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("result", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("n", [1, 8])
def test_floats_convert_as_numpy_does(native, target, source, result, n):
    def body(b, data, out, count):
        with emit.for_range(b, i64(0), count, n) as i:
            from_, to = ELEMENT_TYPES[source], ELEMENT_TYPES[result]
            at = emit.offset(b, data, i, from_)
            x = emit.load(b, at, from_) if n == 1 else emit.load_vector(b, at, from_, n)
            emit.store(b, emit.convert_float(b, x, to), emit.offset(b, out, i, to))

    data = edge_values(NUMPY[source])
    data = data[: len(data) // 8 * 8]
    out = np.empty(data.shape, NUMPY[result])
    native(target, [PTR, PTR, I64], body)(data.ctypes.data, out.ctypes.data, len(data))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out.astype(np.float64), data.astype(NUMPY[result]).astype(np.float64))
