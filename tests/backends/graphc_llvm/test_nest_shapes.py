"""Kernels over the sizes that decide how they run: whole and partial vectors, blocks, chunks; static and dynamic; all targets."""

import numpy as np
import pytest

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.symbolic import symbol
from graphc.ir.types import DTYPES, f32, i64
from graphc.lowering.lower import lower


def add_relu(b, x, y):
    s = b.op("add", x, y)
    return b.op("max", s, b.full_like(0.0, s))


def scale_columns(b, x, y):
    return b.op("mul", x, b.broadcast(b.reduce("reduce_max", y, (0,)), x.type.shape, (1,)))


def softmax(b, x):
    last = (x.type.rank - 1,)
    e = b.op("exp", b.op("sub", x, b.reduce("reduce_max", x, last, keep=True)))
    return b.op("div", e, b.reduce("reduce_sum", e, last, keep=True))


def reduce(name, axes):
    return lambda b, x: b.op(name, x, axes=axes)


def arg(name, axis):
    return lambda b, x: b.op(name, x, axis=axis)


def transpose(b, x):
    return b.transpose(x, (1, 0))


def pad(b, x):
    return b.op("pad", x, b.scalar(2.5, f32), low=(1, 2), high=(0, 3))


def dot(b, x, y):
    return b.op("dot", x, y, lhs_batch=(), rhs_batch=(), lhs_contract=(1,), rhs_contract=(0,))


def dot_transposed(b, x, y):
    return b.op("dot", x, y, lhs_batch=(), rhs_batch=(), lhs_contract=(1,), rhs_contract=(1,))


def depthwise(size, stride):
    def make(b, x, w):
        p = size // 2
        groups = x.type.shape[-1]
        return b.op(
            "conv", x, w, strides=(stride, stride), padding=(p,) * 4, dilation=(1, 1), groups=groups,
            layout="channels_last", kernel_layout="io",
        )  # fmt: skip

    return make


def max_pool(b, x):
    return b.ops("window_max", x, axes=(1, 2), window=(3, 3), strides=(2, 2), padding=(1, 1, 0, 1), dilation=(1, 1))


def cumulative(axis, exclusive):
    return lambda b, x: b.op("cumsum", x, axis=axis, exclusive=exclusive, reverse=exclusive)


def gather_rows(b, x):
    indices = b.constant(np.array([[2, 0, 1], [1, 1, 2]], np.int64))
    return b.op("gather", x, indices, axis=0)


CASES = {
    "add_relu": (add_relu, "loop", ["mn", "mn"]),
    "softmax": (softmax, "tile", ["mn"]),
    "sum_rows": (reduce("reduce_sum", (1,)), "loop", ["mn"]),
    "sum_columns": (reduce("reduce_sum", (0,)), "loop", ["mn"]),
    "max_all": (reduce("reduce_max", (0, 1)), "loop", ["mn"]),
    "argmax_rows": (arg("argmax", 1), "loop", ["mn"]),
    "argmin_columns": (arg("argmin", 0), "loop", ["mn"]),
    "transpose": (transpose, "loop", ["mn"]),
    "pad": (pad, "loop", ["mn"]),
    "dot": (dot, "loop", ["mk", "kn"]),
    "dot_transposed": (dot_transposed, "loop", ["mk", "nk"]),
    "cumsum_rows": (cumulative(1, False), "loop", ["mn"]),
    "cumsum_columns": (cumulative(0, True), "loop", ["mn"]),
}
SIZES = [(1, 1, 1), (3, 5, 2), (4, 16, 7), (17, 33, 9), (40, 64, 16), (7, 130, 70), (129, 257, 65)]


@pytest.fixture
def check(nest_kernel):
    """Compares the kernel of a graph with the interpreter; gives the kernel."""

    def check(make, kind, types, arrays, dims, target=None, pieces=1):
        b = Builder()
        values = [b.input(f"x{i}", d, s) for i, (d, s) in enumerate(types)]
        results = make(b, *values)
        graph = b.returns(*(results if isinstance(results, tuple) else (results,)))
        kernel = nest_kernel(lower(graph, kind), target)
        outputs = [np.full(v.type.concrete(dims), 77).astype(v.type.dtype.numpy) for v in graph.outputs]
        assert kernel(arrays, outputs, dims, pieces) == 0
        for y, want in zip(outputs, interpret(graph, arrays), strict=True):
            scale = float(np.max(np.abs(want[np.isfinite(want)]), initial=1.0))
            np.testing.assert_allclose(y, want, rtol=2e-6, atol=2e-6 * scale * max(1, dims.get("k", 1)) ** 0.5)
        return kernel

    return check


def sizes_of(letters, size):
    return tuple(size["mnk".index(c)] for c in letters)


@pytest.mark.parametrize("name", CASES)
def test_sizes(check, name, target):
    make, kind, operands = CASES[name]
    rng = np.random.default_rng(1)
    for size in SIZES:
        arrays = [rng.standard_normal(sizes_of(o, size)).astype(np.float32) for o in operands]
        check(make, kind, [(f32, x.shape) for x in arrays], arrays, {}, target, pieces=3)


@pytest.mark.parametrize("name", CASES)
def test_one_dynamic_kernel_for_all_sizes(check, name):
    make, kind, operands = CASES[name]
    rng = np.random.default_rng(2)
    symbols = {c: symbol(c) for c in "mnk"}
    types = [(f32, tuple(symbols[c] for c in o)) for o in operands]
    for size in SIZES:
        arrays = [rng.standard_normal(sizes_of(o, size)).astype(np.float32) for o in operands]
        check(make, kind, types, arrays, dict(zip("mnk", size, strict=True)), pieces=2)


@pytest.mark.parametrize("shape", [(1, 5, 7, 3), (2, 14, 14, 32), (1, 9, 17, 40), (1, 1, 1, 16)])
@pytest.mark.parametrize("size, stride", [(3, 1), (3, 2), (7, 1)])
def test_depthwise(check, shape, size, stride, target):
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape).astype(np.float32)
    w = rng.standard_normal((size, size, 1, shape[-1])).astype(np.float32)
    check(depthwise(size, stride), "loop", [(f32, x.shape), (f32, w.shape)], [x, w], {}, target, pieces=3)


@pytest.mark.parametrize("shape", [(1, 4, 6, 3), (2, 15, 21, 32), (1, 8, 9, 40)])
def test_max_pool(check, shape, target):
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    x[:, :3, :3] = -np.inf
    x[:, 3, 3, 0] = np.nan
    check(max_pool, "loop", [(f32, shape)], [x], {}, target, pieces=2)


def test_dynamic_spatial_dims(check):
    rng = np.random.default_rng(5)
    h, w = symbol("h"), symbol("w")
    k = rng.standard_normal((3, 3, 1, 24)).astype(np.float32)
    for size in [(1, 1), (6, 5), (13, 20)]:
        x = rng.standard_normal((1, *size, 24)).astype(np.float32)
        types = [(f32, (1, h, w, 24)), (f32, k.shape)]
        check(depthwise(3, 1), "loop", types, [x, k], {"h": size[0], "w": size[1]})


@pytest.mark.parametrize("columns", [1, 20])
def test_data_dependent_rows(check, columns, target):
    def rows(b, x, i):
        return b.op("gather", x, i, axis=0)

    x = np.random.default_rng(6).standard_normal((9, columns)).astype(np.float32)
    good = np.array([3, 0, 8, 8, 5], np.int64)
    types = [(f32, x.shape), (i64, good.shape)]
    kernel = check(rows, "loop", types, [x, good], {}, target)
    for bad in (-1, 9, 2**40, -(2**62)):
        indices = good.copy()
        indices[3] = bad
        assert kernel([x, indices], [np.zeros((5, columns), np.float32)]) == 2


def test_dims_of_zero(check):
    n, m = symbol("n", 0), symbol("m", 0)
    for make in (add_relu,):
        for size in [(0, 5), (5, 0), (0, 0), (2, 3)]:
            x = np.ones(size, np.float32)
            check(make, "loop", [(f32, (n, m))] * 2, [x, x], {"n": size[0], "m": size[1]})
    for size in [(0, 5), (5, 0), (2, 3)]:
        x = np.ones(size, np.float32)
        dims = {"n": size[0], "m": size[1]}
        check(reduce("reduce_sum", (1,)), "loop", [(f32, (n, m))], [x], dims)
        check(reduce("reduce_prod", (0,)), "loop", [(f32, (n, m))], [x], dims)


@pytest.mark.parametrize("dtype", ["bool", "i8", "f16", "f32", "i64", "f64"])
@pytest.mark.parametrize("shape", [(3, 40, 70), (2, 33, 16), (1, 64, 129)])
def test_transposes_in_registers(check, dtype, shape, target):
    x = np.random.default_rng(7).integers(0, 2, shape).astype(DTYPES[dtype].numpy)
    values = [(DTYPES[dtype], shape)]
    check(lambda b, v: b.transpose(v, (0, 2, 1)), "loop", values, [x], {}, target, pieces=2)
    check(lambda b, v: b.transpose(v, (2, 0, 1)), "loop", values, [x], {}, target)


@pytest.mark.parametrize("dtype", ["bool", "i8", "bf16", "f32", "f64"])
@pytest.mark.parametrize("shape", [(2, 3, 100), (3, 5, 16), (4, 1, 70), (2, 1, 7)])
def test_a_few_of_each_stored_interleaved(check, dtype, shape, target):
    x = np.random.default_rng(7).integers(0, 2, shape).astype(DTYPES[dtype].numpy)
    kernel = check(lambda b, v: b.transpose(v, (1, 2, 0)), "loop", [(DTYPES[dtype], shape)], [x], {}, target, pieces=2)
    assert "scatter" not in kernel.text
    padded = {"low": (0, 1, 0), "high": (0, 0, 2)}

    def pad(b, v):
        return b.transpose(b.op("pad", v, b.scalar(0, v.type.dtype), **padded), (1, 2, 0))

    check(pad, "loop", [(DTYPES[dtype], shape)], [x], {}, target)


def test_transposed_operand_of_a_fused_nest(check):
    def make(b, x, y):
        return b.op("add", b.transpose(x, (1, 0)), y)

    m, n = symbol("m"), symbol("n")
    for size in [(5, 9), (64, 40), (33, 70)]:
        rng = np.random.default_rng(8)
        arrays = [rng.standard_normal(size).astype(np.float32), rng.standard_normal(size[::-1]).astype(np.float32)]
        check(make, "loop", [(f32, (m, n)), (f32, (n, m))], arrays, dict(zip("mn", size, strict=True)))


@pytest.mark.parametrize("dtype", ["bool", "i8", "bf16", "f32", "f64"])
@pytest.mark.parametrize("n", [2, 5, 16, 33, 100])
def test_strided_and_reversed_lanes(check, dtype, n, target):
    x = np.random.default_rng(9).integers(0, 2, (3, n)).astype(DTYPES[dtype].numpy)
    for stride in (2, 3):
        bounds = {"starts": (0, 1), "limits": (3, n), "strides": (1, stride)}
        check(lambda b, v, a=bounds: b.op("slice", v, **a), "loop", [(DTYPES[dtype], x.shape)], [x], {}, target)
    check(lambda b, v: b.op("reverse", v, axes=(1,)), "loop", [(DTYPES[dtype], x.shape)], [x], {}, target)


def test_pools_along_rows(check, target):
    def pool(b, x):
        return b.ops("window_max", x, axes=(2, 3), window=(3, 3), strides=(2, 2), padding=(1,) * 4, dilation=(1, 1))

    for shape in [(1, 3, 7, 5), (2, 2, 40, 70)]:
        x = np.random.default_rng(10).standard_normal(shape).astype(np.float32)
        check(pool, "loop", [(f32, shape)], [x], {}, target)
