"""What callers pass, as the arrays that compiled code takes: checked against a signature, copied only where it must be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.types import TensorType

Wrap = Callable[[np.ndarray], Any] | None
"""Makes a result of the caller's kind of array; None: NumPy's own."""


class Expected:
    """An input's name and type, and what is asked of them at each call."""

    __slots__ = ("dtype", "name", "shape", "type")

    def __init__(self, name: str, type: TensorType) -> None:
        self.name, self.type, self.dtype = name, type, type.dtype.numpy
        self.shape = tuple(type.shape) if type.is_static else None


def as_arrays(inputs: Sequence[Any], expected: Sequence[Expected]) -> tuple[list[np.ndarray], Wrap]:
    """The inputs as aligned C-contiguous arrays of their dtypes, and what makes results of the caller's kind.

    Raises ShapeError naming what doesn't fit.
    """
    if len(inputs) != len(expected):
        names = ", ".join(e.name for e in expected)
        raise ShapeError("wrong number of inputs", seen=len(inputs), expected=f"{len(expected)} ({names})")
    arrays: list[np.ndarray] = []
    wrap: Wrap = None
    for x, e in zip(inputs, expected, strict=True):
        if not isinstance(x, np.ndarray):
            x, wrap = _from_dlpack(x, e.name, e.type)
        if x.dtype != e.dtype or (x.shape != e.shape if e.shape is not None else x.ndim != e.type.rank):
            x = _mended(x, e.name, e.type)
        flags = x.flags
        if not (flags.c_contiguous and flags.aligned and x.dtype.isnative):
            x = np.array(x, e.dtype, order="C")
        if e.dtype.kind == "b" and x.view(np.uint8).max(initial=0) > 1:  # made by a view of other bytes
            x = x.view(np.uint8) != 0
        arrays.append(x)
    return arrays, wrap


def _mended(x: np.ndarray, name: str, type: TensorType) -> np.ndarray:
    """`x` in native byte order; raises ShapeError naming what doesn't fit."""
    if x.dtype.newbyteorder("=") != type.dtype.numpy:
        raise ShapeError(f"input {name} has the wrong dtype", seen=x.dtype, expected=type.dtype.numpy)
    fits = x.ndim == type.rank and all(a == b for a, b in zip(x.shape, type.shape, strict=True) if isinstance(b, int))
    if not fits:
        raise ShapeError(f"input {name} has the wrong shape", seen=list(x.shape), expected=type)
    return x.astype(type.dtype.numpy)


def set_apart(arrays: list[np.ndarray], given: Sequence[int]) -> None:
    """Copies what shares memory with one of the arrays `given`, which the program writes over."""
    addresses = [x.__array_interface__["data"][0] for x in arrays]
    donated, end, last = set(given), 0, 0
    for i in sorted(range(len(arrays)), key=addresses.__getitem__):
        if addresses[i] < end and (i in donated or last in donated):
            arrays[i] = arrays[i].copy()
        elif addresses[i] + arrays[i].nbytes > end:
            end, last = addresses[i] + arrays[i].nbytes, i


def _from_dlpack(x: Any, name: str, type: TensorType) -> tuple[np.ndarray, Any]:
    """The array behind a DLPack object, without a copy, and the function that makes results of its kind."""
    if not hasattr(x, "__dlpack__"):
        raise ShapeError(
            f"input {name} is no array",
            seen=f"{x.__class__.__name__}",
            expected=f"a NumPy array or DLPack object of {type}",
        )
    library = sys.modules.get(x.__class__.__module__.partition(".")[0])
    try:
        if type.dtype.name == "bf16" and x.dtype == getattr(library, "bfloat16", None):
            # NumPy takes no bfloat16 through DLPack: its bits go as integers.
            return np.from_dlpack(x.view(library.int16)).view(type.dtype.numpy), _maker(library)  # type: ignore[union-attr]
        return np.from_dlpack(x), _maker(library)
    except (BufferError, RuntimeError, TypeError) as error:
        raise ShapeError(
            f"input {name} can't be read in place", seen=error, expected=f"an array on the CPU, of {type}",
            hint="a tensor that requires a gradient: pass x.detach()" if getattr(x, "requires_grad", False) else None,
        ) from error  # fmt: skip


def _maker(library: Any) -> Callable[[np.ndarray], Any] | None:
    """What makes an array of the library, without a copy; None where it has no from_dlpack."""
    make: Callable[[np.ndarray], Any] | None = getattr(library, "from_dlpack", None)
    if make is None:
        return None
    return lambda y: make(y.view(np.int16)).view(library.bfloat16) if y.dtype.name == "bfloat16" else make(y)
