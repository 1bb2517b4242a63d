"""Contents of files as arrays that take memory only while they are read."""

from __future__ import annotations

import mmap
import os
import stat

import numpy as np


class _File(mmap.mmap):
    """A mapping of this module's: nothing is ever written to it, so its pages can go at any time."""


def map_file(file: int) -> np.ndarray:
    """The bytes of an open regular file, read-only; its descriptor may be closed afterwards. Raises OSError.

    The file must stay as it is while the array is in use: replaced or removed it may be, but not written over.
    """
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it isn't a regular file")
    if status.st_size == 0:
        return np.empty(0, np.uint8)
    return np.frombuffer(_File(file, status.st_size, access=mmap.ACCESS_READ), np.uint8)


def is_mapped(array: np.ndarray) -> bool:
    """Whether the array lies in a file that this module has mapped."""
    return _mapping(array) is not None


def release(array: np.ndarray) -> None:
    """Gives back the memory that a part of a mapped file takes until it is read again; other arrays are left alone."""
    found = _mapping(array)
    if found is not None and array.flags.c_contiguous:
        file, whole = found
        start = array.ctypes.data - whole.ctypes.data
        first, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if first < end:
            file.madvise(mmap.MADV_DONTNEED, first, end - first)


def _mapping(array: np.ndarray) -> tuple[_File, np.ndarray] | None:
    """The mapping that an array lies in, and the array of all of it."""
    whole: np.ndarray = array
    base: object = array
    while isinstance(base, np.ndarray):
        whole, base = base, base.base
    file = base.obj if isinstance(base, memoryview) else base
    return (file, whole) if isinstance(file, _File) else None
