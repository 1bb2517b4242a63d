"""The operations that are exact: NumPy's bits, on all dtypes; faults of integer division; what LLVM may not call."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from graphc.ops import FAMILIES
from graphc_llvm.math import emit_scalar_op, supports
from graphc_llvm.target import Target, parse_target

Machine = tuple[Target, int]
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
FLOATS = [np.float32, np.float64]
COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def equal_bits(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Where both are the same number with the same sign, or both NaN."""
    if want.dtype.kind != "f":
        return got == want
    return ((got == want) & (np.signbit(got) == np.signbit(want))) | (np.isnan(got) & np.isnan(want))


def integer_pairs(dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of extreme and small values, any values with any, any values with small ones."""
    rng, info = np.random.default_rng(2), np.iinfo(dtype)
    edges = [info.min, info.max, info.max - 1, info.max // 2, 0, 1, 2, 3, *([-1, -2, -3] if info.min else [])]
    x, y = (g.ravel() for g in np.meshgrid(np.array(edges, dtype), np.array(edges, dtype)))
    any_x, any_y = (rng.integers(info.min, info.max, 400, dtype, endpoint=True) for _ in range(2))
    small = rng.integers(max(info.min, -70), 70, 400, dtype)
    return np.concatenate([x, any_x, any_x]), np.concatenate([y, any_y, small])


def truncated_division(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """C's x / y in Python's integers, wrapped; x where y is 0."""
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    exact = [a if b == 0 else (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1) for a, b in pairs]
    return np.array([v % 2 ** (8 * x.itemsize) for v in exact], f"u{x.itemsize}").view(x.dtype)


def float_pairs(dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of special values, then quotients small, large and enormous."""
    rng, info = np.random.default_rng(3), np.finfo(dtype)
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, -2.5, info.max, info.tiny, info.smallest_subnormal]
    x, y = (g.ravel() for g in np.meshgrid(edges, edges))
    limit = 0.95 * np.log(info.max)
    wide = [np.exp(rng.uniform(-limit, limit, 1000)) * rng.choice([-1, 1], 1000) for _ in range(2)]
    x = np.concatenate([x, rng.uniform(-10, 10, 1000), rng.uniform(-1e6, 1e6, 1000), wide[0]])
    y = np.concatenate([y, rng.uniform(-3, 3, 1000), rng.uniform(-3, 3, 1000), wide[1]])
    return x.astype(dtype), y.astype(dtype)


INTEGER_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum, "div": truncated_division,
    "rem": np.fmod, "mod": np.mod, "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor, "shift_left": np.left_shift, "shift_right": np.right_shift, **COMPARISONS,
}  # fmt: skip
FLOAT_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "rem": np.fmod, "mod": np.mod, **COMPARISONS,
}  # fmt: skip
FLOAT_UNARY = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "round": np.rint,
    "sqrt": np.sqrt, "is_nan": np.isnan, "is_inf": np.isinf,
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGER_BINARY)
def test_integer_binary(name: str, machine: Machine, run_op: Callable) -> None:
    target, width = machine
    for dtype in INTEGERS:
        x, y = integer_pairs(dtype)
        wrong = run_op(target, name, [x, y], width=width) != INTEGER_BINARY[name](x, y)
        assert not wrong.any(), (dtype, x[wrong][:5], y[wrong][:5])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_unary(dtype: type, machine: Machine, run_op: Callable) -> None:
    target, width = machine
    x, _ = integer_pairs(dtype)
    for name, reference in {"neg": np.negative, "abs": np.abs, "sign": np.sign, "bitwise_not": np.invert}.items():
        assert np.array_equal(run_op(target, name, [x], width=width), reference(x)), name


@pytest.mark.parametrize("name", ["div", "rem", "mod"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_divisions_without_a_value_are_reported(dtype: type, name: str, machine: Machine, run_op: Callable) -> None:
    target, width = machine
    x, y = integer_pairs(dtype)
    low = np.iinfo(dtype).min
    expected = (y == 0) | ((x == low) & (y.astype(object) == -1) & (low < 0))
    assert expected.any()
    assert np.array_equal(run_op(target, name, [x, y], width=width, faults=True), expected)


@pytest.mark.parametrize("name", FLOAT_BINARY)
@pytest.mark.parametrize("dtype", FLOATS)
def test_float_binary(dtype: type, name: str, machine: Machine, run_op: Callable) -> None:
    target, width = machine
    x, y = float_pairs(dtype)
    want = FLOAT_BINARY[name](x, y)
    wrong = ~equal_bits(run_op(target, name, [x, y], width=width), want)
    assert not wrong.any(), (x[wrong][:5], y[wrong][:5], want[wrong][:5])


@pytest.mark.parametrize("name", FLOAT_UNARY)
@pytest.mark.parametrize("dtype", FLOATS)
def test_float_unary(dtype: type, name: str, machine: Machine, run_op: Callable) -> None:
    target, width = machine
    x = np.concatenate([*float_pairs(dtype), np.arange(-5, 5, 0.25, dtype)])
    want = FLOAT_UNARY[name](x)
    wrong = ~equal_bits(run_op(target, name, [x], width=width), want)
    assert not wrong.any(), (x[wrong][:5], want[wrong][:5])


@pytest.mark.parametrize(("name", "reference"), [("max", np.maximum), ("min", np.minimum)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_max_and_min_propagate_nan(
    dtype: type, name: str, reference: Callable, machine: Machine, run_op: Callable
) -> None:
    """Also against a constant, which takes another path. The sign of a zero is free, as in NumPy."""
    target, width = machine
    x, y = float_pairs(dtype)
    np.testing.assert_array_equal(run_op(target, name, [x, y], width=width), reference(x, y))
    for bound in (0.0, -1.5, np.nan, np.inf):
        want = reference(x, dtype(bound))
        np.testing.assert_array_equal(run_op(target, name, [x], width=width, constants=[bound]), want)


def test_bool_operations(machine: Machine, run_op: Callable) -> None:
    target, width = machine
    x, y = np.array([False, False, True, True] * 5), np.array([False, True, False, True] * 5)
    binary = {"logical_and": x & y, "logical_or": x | y, "logical_xor": x ^ y, "max": x | y, "min": x & y}
    for name, want in {**binary, "eq": x == y, "ne": x != y}.items():
        assert np.array_equal(run_op(target, name, [x, y], width=width), want), name
    assert np.array_equal(run_op(target, "logical_not", [x], width=width), ~x)


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, np.bool_])
def test_select(dtype: type, machine: Machine, run_op: Callable) -> None:
    target, width = machine
    condition = np.random.default_rng(1).random(99) < 0.5
    x, y = np.arange(99).astype(dtype), np.arange(99)[::-1].astype(dtype)
    assert np.array_equal(run_op(target, "select", [condition, x, y], width=width), np.where(condition, x, y))


COMPUTED = {"f32": 32, "f64": 64, "bool": 1, **{f"{s}{n}": n for s in "iu" for n in (8, 16, 32, 64)}}


def elementwise_pairs() -> list[tuple[str, str, int]]:
    """(operator, dtype, operands) for all elementwise operators but cast, in the dtypes that compute."""
    operators = [o for family in FAMILIES for o in family.OPERATORS if "elementwise" in o.traits and o.name != "cast"]
    return [(o.name, d, len(o.operands)) for o in operators for d in o.dtypes if d in COMPUTED]


def test_the_table_has_every_elementwise_operator() -> None:
    missing = [(name, dtype) for name, dtype, _ in elementwise_pairs() if not supports(name, dtype)]
    assert not missing


@pytest.mark.parametrize(
    ("name", "dtype"), [("exp", "i32"), ("shift_left", "f32"), ("add", "bool"), ("softmax", "f32")]
)
def test_unknown_operations_are_refused(name: str, dtype: str) -> None:
    assert not supports(name, dtype)
    with pytest.raises(ValueError, match=f"{name}.*{dtype}"):
        emit_scalar_op(None, name, [], dtype)


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4", "aarch64+neon"])
def test_no_operation_calls_a_library(name: str, assembly_of: Callable) -> None:
    target, called = parse_target(name), set()
    for op, dtype, operands in elementwise_pairs():
        if op != "select" and dtype in ("f32", "f64", "i32"):
            code = assembly_of(target, op, dtype, operands, 8)
            called.update((op, f) for f in re.findall(r"^\s+(?:call\w*|bl)\s+(\S+)", code, re.MULTILINE))
    assert called == {(op, "graphc.remainder_by_half_pi") for op in ("sin", "cos", "tan")}
