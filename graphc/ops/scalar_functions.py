"""The NumPy meaning of scalar functions that NumPy lacks or defines otherwise: division, casts, erf, sigmoid."""

from __future__ import annotations

import math

import numpy as np

from graphc.errors import NumericError
from graphc.ir.types import DType, bf16, f16
from graphc.ops.common import small_float


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, in f64."""
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x.astype(np.float64))).astype(np.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow on either side."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small))


def _check_division(x: np.ndarray, y: np.ndarray) -> None:
    if np.any(y == 0):
        raise NumericError("integer division by zero")
    if x.dtype.kind == "i" and np.any((y == -1) & (x == np.iinfo(x.dtype).min)):
        raise NumericError("integer division overflows", seen=f"{np.iinfo(x.dtype).min} / -1")


def divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x / y; integers truncate toward zero. Raises NumericError for integers by zero and for MIN / -1."""
    if x.dtype.kind == "f":
        return np.asarray(x / y)
    _check_division(x, y)
    return np.asarray((x - np.fmod(x, y)) // y)


def remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x - y * truncate(x / y), with the sign of x as in C; raises NumericError where `divide` does."""
    if x.dtype.kind != "f":
        _check_division(x, y)
    return np.asarray(np.fmod(x, y))


def modulo(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x - y * floor(x / y), with the sign of y as in Python; raises NumericError where `divide` does."""
    if x.dtype.kind != "f":
        _check_division(x, y)
    return np.asarray(np.mod(x, y))


def cast(x: np.ndarray, dtype: DType) -> np.ndarray:
    """x as another element type.

    Floats to integers truncate and saturate, NaN becomes 0; integers to integers wrap; anything to bool is x != 0. All
    other conversions round to nearest even; integers round to f32 before f16 or bf16, and f64 does before bf16.
    """
    if dtype.is_bool:
        return np.asarray(x != 0)
    if dtype.is_integer and (x.dtype.kind == "f" or small_float(x.dtype)):
        return _float_to_integer(x.astype(np.float64), dtype)
    if (dtype in (f16, bf16) and x.dtype.kind in "iub") or (dtype == bf16 and x.dtype == np.float64):
        x = x.astype(np.float32)
    return x.astype(dtype.numpy)


def _float_to_integer(x: np.ndarray, dtype: DType) -> np.ndarray:
    info = np.iinfo(dtype.numpy)
    whole = np.trunc(x)
    fits = (whole >= float(info.min)) & (whole < float(info.max + 1))  # min and max + 1 are powers of two: exact
    result = np.where(fits, whole, 0).astype(dtype.numpy)
    result = np.where(whole < float(info.min), info.min, result)
    return np.where(whole >= float(info.max + 1), info.max, result).astype(dtype.numpy)
