"""Conversions between all dtypes, against NumPy, ml_dtypes and Python's own numbers."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from graphc_llvm.target import Target

Machine = tuple[Target, int]
INTEGERS = {f"{kind}{bits}": np.dtype(f"{kind}{bits // 8}") for kind in "iu" for bits in (8, 16, 32, 64)}
FLOATS = {
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f32": np.dtype("f4"),
    "f64": np.dtype("f8"),
}
DTYPES = {**INTEGERS, **FLOATS, "bool": np.dtype(np.bool_)}

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def values(name: str) -> np.ndarray:
    """Values of the dtype: all of them for the 16-bit floats, edges and random ones for the rest."""
    rng = np.random.default_rng(4)
    if name == "bool":
        return np.array([False, True] * 9)
    if name in INTEGERS:
        info = np.iinfo(DTYPES[name])
        edges = np.array([info.min, info.max, 0, 1, info.max // 2, *([-1] if info.min else [])], DTYPES[name])
        return np.concatenate([edges, rng.integers(info.min, info.max, 500, DTYPES[name], endpoint=True)])
    if name in ("f16", "bf16"):
        return np.arange(65536, dtype=np.uint16).view(DTYPES[name])
    powers = np.concatenate([2.0 ** np.arange(-30, 70), -(2.0 ** np.arange(0, 70))])
    # Halfway between two f16, two bf16, and next to that: where rounding twice goes wrong.
    halfway = np.concatenate([1 + (2 * np.arange(8) + 1) * step * 0.5 for step in (2.0**-10, 2.0**-7)])
    near = np.concatenate([halfway, halfway + 2.0**-40, halfway - 2.0**-40, halfway + 2.0**-23, halfway - 2.0**-23])
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.99, 65520, 1e-8, 6e-8, 0.5, -0.5, 1.5, 255.5, -128.9]
    spread = np.exp(rng.uniform(-100, 100, 500)) * rng.choice([-1, 1], 500)
    parts = [special, powers, powers - 1, powers + 1, near, near * 2.0**-20, rng.normal(size=500) * 50, spread]
    return np.concatenate([np.asarray(p, np.float64) for p in parts]).astype(DTYPES[name])


def saturated(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats truncated to integers that saturate, one at a time."""
    info = np.iinfo(dtype)

    def convert(v: float) -> int:
        if v != v:
            return 0
        return max(info.min, min(info.max, int(v))) if abs(v) != np.inf else (info.max if v > 0 else info.min)

    return np.array([convert(float(v)) for v in x], dtype)


def reference(x: np.ndarray, source: str, target: str) -> np.ndarray:
    if source in FLOATS and target in INTEGERS:
        return saturated(x, DTYPES[target])
    if source in ("f16", "bf16") or (source in INTEGERS and target in ("f16", "bf16")):
        x = x.astype(np.float32)
    if source == "f64" and target == "bf16":
        # By way of f32 this would round twice; a number with more bits than f32 and no tie decides it.
        return to_bf16_once(x)
    return x != 0 if target == "bool" else x.astype(DTYPES[target])


def to_bf16_once(x: np.ndarray) -> np.ndarray:
    """The nearest of the two bf16 around x, the even one on a tie."""
    near = x.astype(np.float32).astype(ml_dtypes.bfloat16)
    bits = near.view(np.uint16)
    candidates = np.stack([(bits + np.uint16(step)).view(ml_dtypes.bfloat16) for step in (0, 1, 65535)])
    distance = np.abs(candidates.astype(np.float64) - x)
    tie_break = (candidates.view(np.uint16) & 1) * 0.5
    order = np.lexsort((tie_break, distance), axis=0)[0]
    best = np.take_along_axis(candidates, order[None], 0)[0]
    return np.where(np.isfinite(near.astype(np.float64)), best, near)


@pytest.mark.parametrize("target_dtype", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_cast(source: str, target_dtype: str, machine: Machine, run_cast: Callable) -> None:
    target, width = machine
    x = values(source)
    raw = x.view(np.uint16) if source == "bf16" else x
    got = run_cast(target, raw, source, target_dtype, width)
    got = got.view(ml_dtypes.bfloat16) if target_dtype == "bf16" else got
    want = reference(x, source, target_dtype)
    if target_dtype in FLOATS:
        got, want = got.astype(np.float64), want.astype(np.float64)
        same = ((got == want) & (np.signbit(got) == np.signbit(want))) | (np.isnan(got) & np.isnan(want))
    else:
        same = got == want
    assert same.all(), (x[~same][:5], got[~same][:5], want[~same][:5])
