"""Contents of files as arrays that take memory only while they are read."""

from __future__ import annotations

import mmap
import os
import stat
from weakref import WeakValueDictionary

import numpy as np

from graphc.errors import GraphcError


class MappedFile(mmap.mmap):
    """A file's mapping. Nothing is ever written to it, so its pages can go at any time."""

    _descriptor = -1
    _seen: tuple[int, int]

    def __new__(cls, file: int, status: os.stat_result) -> MappedFile:
        self = super().__new__(cls, file, status.st_size, access=mmap.ACCESS_READ)
        self._descriptor, self._seen = os.dup(file), (status.st_size, status.st_mtime_ns)
        return self

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def check(self) -> None:
        """Raises GraphcError where the file was written to: reading what was cut off would end the process."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != self._seen:
            raise GraphcError(
                "a file was written to while the model that was read from it is in use",
                seen=f"{now.st_size} bytes",
                expected=f"the {self._seen[0]} bytes that were read",
                hint="replace it instead: write another file, and rename it",
            )


def map_file(file: int) -> np.ndarray:
    """The bytes of an open regular file, read-only; its descriptor may be closed afterwards. Raises OSError.

    The file must stay as it is while the array is in use: replaced or removed it may be, but not written over. As long as it
    is in use, mapping it again gives the same array.
    """
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it isn't a regular file")
    if status.st_size == 0:
        return np.empty(0, np.uint8)
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    array = _MAPPED.get(key)
    if array is None:
        array = _MAPPED[key] = np.frombuffer(MappedFile(file, status), np.uint8)
    return array


_MAPPED: WeakValueDictionary[tuple[int, int, int, int], np.ndarray] = (
    WeakValueDictionary()
)  # a file of many tensors: once


def file_of(array: np.ndarray) -> MappedFile | None:
    """The file that an array lies in, where this module has mapped it."""
    found = _mapping(array)
    return None if found is None else found[0]


def release(array: np.ndarray) -> None:
    """Gives back the memory that a part of a mapped file takes until it is read again; other arrays are left alone."""
    found = _mapping(array)
    if found is not None and array.flags.c_contiguous:
        file, whole = found
        start = array.ctypes.data - whole.ctypes.data
        first, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if first < end:
            file.madvise(mmap.MADV_DONTNEED, first, end - first)


def _mapping(array: np.ndarray) -> tuple[MappedFile, np.ndarray] | None:
    """The mapping that an array lies in, and the array of all of it."""
    whole: np.ndarray = array
    base: object = array
    while isinstance(base, np.ndarray):
        whole, base = base, base.base
    file = base.obj if isinstance(base, memoryview) else base
    return (file, whole) if isinstance(file, MappedFile) else None
