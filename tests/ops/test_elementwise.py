"""Elementwise operators against PyTorch, and the edges that the contract names."""

import math

import numpy as np
import pytest
import torch

from graphc.errors import NumericError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.types import DTYPES, dtype_of

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, 3.7, -88.0, 100.0, 1e-30, 1e30, np.inf, -np.inf, np.nan]
UNARY = {
    "neg": torch.neg, "abs": torch.abs, "sign": torch.sign, "floor": torch.floor, "ceil": torch.ceil,
    "round": torch.round, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "exp": torch.exp, "expm1": torch.expm1,
    "log": torch.log, "log1p": torch.log1p, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "asin": torch.asin,
    "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh, "tanh": torch.tanh,
    "asinh": torch.asinh, "acosh": torch.acosh, "atanh": torch.atanh, "erf": torch.erf, "sigmoid": torch.sigmoid,
    "is_nan": torch.isnan, "is_inf": torch.isinf,
}  # fmt: skip
BINARY = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "rem": torch.fmod, "mod": torch.remainder,
    "pow": torch.pow, "max": torch.maximum, "min": torch.minimum, "eq": torch.eq, "ne": torch.ne, "lt": torch.lt,
    "le": torch.le, "gt": torch.gt, "ge": torch.ge,
}  # fmt: skip
INTEGER = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "max": torch.maximum, "min": torch.minimum,
    "div": lambda x, y: torch.div(x, y, rounding_mode="trunc"), "rem": torch.fmod, "mod": torch.remainder,
    "bitwise_and": torch.bitwise_and, "bitwise_or": torch.bitwise_or, "bitwise_xor": torch.bitwise_xor,
    "eq": torch.eq, "lt": torch.lt, "ge": torch.ge,
}  # fmt: skip


def run(op, *operands, **attributes):
    b = Builder(Graph())
    values = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate(operands)]
    (y,) = interpret(b.returns(b.op(op, *values, **attributes)), operands)
    return y


def pairs(values):
    x, y = np.meshgrid(values, values)
    return x.reshape(-1), y.reshape(-1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", UNARY)
def test_unary(op, dtype):
    x = np.concatenate([SPECIAL, np.linspace(-6, 6, 101)]).astype(dtype)
    if op == "sign":
        x = x[~np.isnan(x)]  # NaN for us and NumPy, 0 for PyTorch
    expected = UNARY[op](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(op, x), expected, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", BINARY)
def test_binary(op, dtype):
    x, y = pairs(np.array([*SPECIAL, *np.linspace(-3, 3, 9)], dtype))
    expected = BINARY[op](torch.from_numpy(x), torch.from_numpy(y)).numpy()
    if op in ("rem", "mod"):  # PyTorch gives NaN for huge quotients in f32, and for mod of a finite x and an infinite y
        keep = ~np.isinf(y) & (np.abs(x) < 1e20) & ((y == 0) | (np.abs(y) > 1e-20))
        x, y, expected = x[keep], y[keep], expected[keep]
    np.testing.assert_allclose(run(op, x, y), expected, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int8, np.uint8])
@pytest.mark.parametrize("op", INTEGER)
def test_integers(op, dtype):
    info = np.iinfo(dtype)
    x, y = pairs(
        np.array([info.min, info.min + 1, info.max, 0, 1, 2, 3, 7, 100, *([-1, -2, -7] * (info.min < 0))], dtype)
    )
    if op in ("div", "rem", "mod"):
        keep = (y != 0) & ~((x == info.min) & (y.astype(np.int64) == -1))
        x, y = x[keep], y[keep]
    assert np.array_equal(run(op, x, y), INTEGER[op](torch.from_numpy(x), torch.from_numpy(y)).numpy())


@pytest.mark.parametrize("op", ["div", "rem", "mod"])
def test_integer_divisions_without_a_value_raise(op):
    for dtype in (np.int32, np.int64, np.uint8):
        with pytest.raises(NumericError, match="by zero"):
            run(op, np.array([1], dtype), np.array([0], dtype))
    with pytest.raises(NumericError, match="overflows"):
        run(op, np.array([-128], np.int8), np.array([-1], np.int8))
    assert run(op, np.array([128], np.uint8), np.array([255], np.uint8)).tolist() in ([0], [128])


def test_remainders_of_huge_quotients_are_exact():
    x, y = np.array([1e30, -1e30, 5.0, -5.0]), np.array([3e-30, 7.0, np.inf, np.inf])
    assert run("rem", x, y).tolist() == [math.fmod(a, b) for a, b in zip(x, y, strict=True)]
    assert run("mod", x, y).tolist() == [a % b for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def test_shifts():
    x = np.array([1, -8, 127, -1], np.int8)
    for amount in (0, 1, 7):
        assert run("shift_left", x, np.full_like(x, amount)).tolist() == (x << amount).astype(np.int8).tolist()
        assert run("shift_right", x, np.full_like(x, amount)).tolist() == [v >> amount for v in x.tolist()]
    for amount in (8, 100, -1):
        assert run("shift_left", x, np.full_like(x, amount)).tolist() == [0, 0, 0, 0]
        assert run("shift_right", x, np.full_like(x, amount)).tolist() == [0, -1, 0, -1]
    u = np.array([200], np.uint8)
    assert run("shift_right", u, np.array([3], np.uint8)).tolist() == [25]


def test_bools():
    x, y = pairs(np.array([False, True]))
    assert run("logical_and", x, y).tolist() == (x & y).tolist()
    assert run("logical_or", x, y).tolist() == (x | y).tolist()
    assert run("logical_xor", x, y).tolist() == (x ^ y).tolist()
    assert run("logical_not", x).tolist() == (~x).tolist()
    assert run("eq", x, y).tolist() == (x == y).tolist()


def test_select_ignores_the_branch_not_taken():
    y = run("select", np.array([True, False]), np.array([1.0, np.nan]), np.array([np.nan, 2.0]))
    assert y.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("target", ["i8", "u8", "i16", "i32", "i64", "u32", "u64"])
@pytest.mark.parametrize("source", ["f16", "bf16", "f32", "f64"])
def test_floats_become_integers_by_truncation_and_saturation(source, target):
    info = np.iinfo(DTYPES[target].numpy)
    values = [0.0, -0.0, 0.99, -0.99, 1.5, -1.5, 126.9, 255.5, -128.5, 6e4, -3e4, np.inf, -np.inf, np.nan]
    values += [] if source == "f16" else [1e30, -1e30, 2.0**31, 2.0**63, -(2.0**63), 2.0**64]
    x = np.array(values, DTYPES[source].numpy)
    expected = [0 if np.isnan(v) else min(max(v, info.min), info.max) for v in x.astype(np.float64).tolist()]
    expected = [int(v) if np.isfinite(v) else v for v in expected]
    assert run("cast", x, dtype=DTYPES[target]).tolist() == expected


def test_other_casts():
    x = np.array([300, -1, 128, 0], np.int32)
    assert run("cast", x, dtype=DTYPES["i8"]).tolist() == [44, -1, -128, 0]
    assert run("cast", x, dtype=DTYPES["u8"]).tolist() == [44, 255, 128, 0]
    assert run("cast", x, dtype=DTYPES["bool"]).tolist() == [True, True, True, False]
    f = np.array([0.0, -0.0, np.nan, 1e-30, np.inf])
    assert run("cast", f, dtype=DTYPES["bool"]).tolist() == [False, False, True, True, True]
    assert run("cast", np.array([True, False]), dtype=DTYPES["f32"]).tolist() == [1, 0]
    assert run("cast", np.array([65520.0, 65519.0, -1e6]), dtype=DTYPES["f16"]).tolist() == [np.inf, 65504, -np.inf]
    for name, torch_type in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
        expected = torch.from_numpy(x).to(torch_type).to(torch.float32).numpy()
        assert np.array_equal(run("cast", x, dtype=DTYPES[name]).astype(np.float32), expected)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("op", ["exp", "tanh", "erf", "rsqrt"])
def test_small_floats_compute_in_f32_and_round(op, dtype):
    x = np.linspace(0.1, 4, 57).astype(DTYPES[dtype].numpy)
    expected = run(op, x.astype(np.float32)).astype(x.dtype)
    y = run(op, x)
    assert y.dtype == x.dtype
    assert np.array_equal(y, expected)
