"""What operator families share: dtype groups, checks of operands and attributes, widening of small floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.opdef import Reference
from graphc.ir.types import TensorType, bf16

FLOATS = ("f16", "bf16", "f32", "f64")
INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
NUMBERS = FLOATS + INTEGERS
ALL = (*NUMBERS, "bool")


def check_dtype(type: TensorType, allowed: Sequence[str], what: str = "operand") -> TensorType:
    """The type itself; raises ShapeError where its element type isn't among the allowed ones."""
    if type.dtype.name not in allowed:
        raise ShapeError(f"element type of {what}", seen=type, expected=", ".join(allowed))
    return type


def check_same_dtype(types: Sequence[TensorType], what: str = "operands") -> None:
    """Raises ShapeError where element types differ."""
    if len({t.dtype for t in types}) > 1:
        raise ShapeError(f"{what} must have one element type", seen=", ".join(map(str, types)), hint="cast them first")


def check_axis(axis: int, rank: int, what: str = "axis") -> int:
    """The axis itself; raises ShapeError outside [0, rank)."""
    if not 0 <= axis < rank:
        raise ShapeError(f"{what} out of range", seen=axis, expected=f"0 <= {what} < {rank}")
    return axis


def check_axes(axes: Sequence[int], rank: int, what: str = "axes") -> Sequence[int]:
    """The axes themselves; raises ShapeError outside [0, rank), or for one given twice."""
    for a in axes:
        check_axis(a, rank, what)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{what} name an axis twice", seen=list(axes))
    return axes


def check_count(items: Sequence[object], count: int, what: str) -> None:
    """Raises ShapeError unless there are exactly `count` items."""
    if len(items) != count:
        raise ShapeError(f"{what} must have one entry for each axis", seen=len(items), expected=count)


def small_float(dtype: np.dtype) -> bool:
    """Whether the dtype is one of 16 bits that computes in f32."""
    return dtype == np.float16 or dtype == bf16.numpy


def widened(compute: Reference) -> Reference:
    """A reference that computes f16 and bf16 operands in f32 and rounds floating results to the first one's dtype.

    With an attribute `wide` that is true, results stay f32.
    """

    def reference(operands: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        narrow = next((x.dtype for x in operands if small_float(x.dtype)), None)
        if narrow is None:
            return compute(operands, attributes)
        computed = compute([x.astype(np.float32) if small_float(x.dtype) else x for x in operands], attributes)
        if attributes.get("wide"):
            return tuple(computed)
        return tuple(y.astype(narrow) if y.dtype == np.float32 else y for y in computed)

    return reference


def in_f64(f: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """An elementwise f32 or f64 function computed in f64 and rounded, so that f32 results err by half an ulp."""

    def computed(*operands: np.ndarray) -> np.ndarray:
        return np.asarray(f(*(x.astype(np.float64) for x in operands))).astype(operands[0].dtype)

    return computed
