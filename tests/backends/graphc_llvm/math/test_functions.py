"""The transcendental functions against NumPy in long double and mpmath: errors in ulps, special values, limits."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest

from graphc_llvm.math import MAX_ULP
from graphc_llvm.target import Target

Machine = tuple[Target, int]
Wide = np.longdouble

pytestmark = [
    pytest.mark.skipif(np.finfo(Wide).nmant < 63, reason="the reference needs a long double wider than f64"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def erf(x: np.ndarray) -> np.ndarray:
    """erf in long double, by mpmath."""
    with mpmath.workprec(80):
        result = np.array([Wide(mpmath.nstr(mpmath.erf(mpmath.mpf(float(v))), 24)) for v in x])
    return np.copysign(result, x)  # mpmath has no -0


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x) without overflow."""
    t = np.exp(-np.abs(x))
    return np.where(x < 0, t, 1) / (1 + t)


UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh,
    "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "erf": erf,
    "sigmoid": sigmoid,
}  # fmt: skip
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -0.5, 2.0, 1e-30, -1e-30, 1e30, -1e30]


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """The distance of `got` from `want`, which is wider, in units in the last place of the type of `got` at `want`."""
    info = np.finfo(got.dtype)
    _, exponent = np.frexp(np.where(np.isfinite(want), want, 1))
    unit = np.ldexp(Wide(1), np.maximum(exponent - 1, info.minexp) - info.nmant)
    distance = np.abs(got.astype(Wide) - want) / unit
    same = (want.astype(got.dtype) == got) | (np.isnan(want) & np.isnan(got))
    # An infinite result is right only where the true one rounds to it.
    return np.where(same, np.where(np.isfinite(distance), distance, 0), np.where(np.isnan(distance), np.inf, distance))


def points(dtype: type, count: int) -> np.ndarray:
    """Special values, any bits, and denser where functions change: about 0, about 1, and up to overflow."""
    rng = np.random.default_rng(11)
    bits = rng.integers(0, 2 ** (8 * dtype().itemsize), count, np.uint64).astype(f"u{dtype().itemsize}").view(dtype)
    overflow = 1.1 * np.log(np.finfo(dtype).max)
    near_one = 1 + rng.uniform(-1, 1, count) * np.exp(rng.uniform(-20, 0, count))
    parts = [
        SPECIAL, bits, rng.uniform(-1, 1, count), rng.uniform(-6, 6, count), rng.uniform(-overflow, overflow, count),
        np.exp(rng.uniform(-40, 40, count)), near_one, -near_one, [np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal],
    ]  # fmt: skip
    return np.concatenate([np.asarray(p).astype(dtype) for p in parts])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", UNARY)
def test_error_is_within_the_stated_bound(name: str, dtype: type, machine: Machine, run_op: Callable) -> None:
    target, width = machine
    x = points(dtype, 150 if name == "erf" else 2000)
    want = UNARY[name](x.astype(Wide))
    for numerics, bound in MAX_ULP[name].items():
        got = run_op(target, name, [x], numerics, width)
        errors = ulps(got, want)
        worst = np.argmax(errors)
        assert errors[worst] <= bound, (numerics, x[worst], got[worst], want[worst])
        zero = want == 0
        assert np.array_equal(np.signbit(got[zero]), np.signbit(want[zero])), (numerics, x[zero])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pow(dtype: type, machine: Machine, run_op: Callable) -> None:
    target, width = machine
    rng = np.random.default_rng(5)
    special = [*SPECIAL, 3.0, -3.0, 2.5, 2.0**53 - 1, 2.0**60, -(2.0**25)]
    x, y = (g.ravel() for g in np.meshgrid(special, special))
    close = 1 + rng.uniform(-1e-5, 1e-5, 3000)
    x = np.concatenate([x, np.exp(rng.uniform(-80, 80, 3000)), close, rng.uniform(0.7, 1.5, 3000)]).astype(dtype)
    y = np.concatenate([y, rng.uniform(-9, 9, 3000), rng.uniform(-1e7, 1e7, 3000), rng.uniform(-1500, 1500, 3000)])
    y = y.astype(dtype)
    want = np.power(x.astype(Wide), y.astype(Wide))
    for numerics, bound in MAX_ULP["pow"].items():
        got = run_op(target, "pow", [x, y], numerics, width)
        errors = ulps(got, want)
        worst = np.argmax(errors)
        assert errors[worst] <= bound, (numerics, x[worst], y[worst], got[worst], want[worst])
        number = ~np.isnan(want)
        assert np.array_equal(np.signbit(got[number]), np.signbit(want[number]))


@pytest.mark.parametrize(("mantissa", "exponent"), [(6381956970095103, 797), (16367173, 72), (1, 1023), (3, 200)])
def test_large_arguments_of_trigonometric_functions(
    mantissa: int, exponent: int, machine: Machine, run_op: Callable
) -> None:
    """The first two are the f64 and the f32 closest to a multiple of pi / 2."""
    target, width = machine
    value = float(mantissa) * 2.0**exponent
    dtype = np.float32 if exponent == 72 else np.float64
    x = np.array([value, -value, 1.0], dtype)
    with mpmath.workprec(1200):
        for name in ("sin", "cos", "tan"):
            want = np.array([Wide(mpmath.nstr(getattr(mpmath, name)(mpmath.mpf(float(v))), 24)) for v in x])
            for numerics, bound in MAX_ULP[name].items():
                assert np.all(ulps(run_op(target, name, [x], numerics, width), want) <= bound), (name, numerics)


@pytest.mark.parametrize("numerics", ["strict", "fast"])
@pytest.mark.parametrize("name", ["tanh", "erf", "sigmoid"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saturating_functions_reach_one_and_never_exceed_it(
    dtype: type, name: str, numerics: str, machine: Machine, run_op: Callable
) -> None:
    target, width = machine
    x = np.linspace(0, 50, 20001).astype(dtype)
    y = run_op(target, name, [np.concatenate([x, -x])], numerics, width)
    assert np.all(np.abs(y) <= 1)
    assert y[20000] == 1
    if name == "sigmoid":
        assert np.all(y >= 0)
    else:
        assert np.array_equal(y[20001:], -y[:20001])
