"""Arrays between pages that may not be touched: code that reads or writes one byte outside of them ends the process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Literal

import numpy as np

from graphc.errors import GraphcError

PAGE = mmap.PAGESIZE
_PROT_NONE = 0

Side = Literal["end", "start"]


def at_guard_page(array: np.ndarray, side: Side = "end") -> np.ndarray:
    """A writable copy in C order that ends where a forbidden page begins (or with "start", begins where one ends).

    At the end its address is as misaligned as its size allows: a multiple of the element's size alone.
    """
    array = np.asarray(array, order="C")
    room = -(-max(array.nbytes, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    raw = np.frombuffer(memory, np.uint8)  # holds the mapping for as long as the array lives
    for page in (0, PAGE + room):
        _forbid(raw.ctypes.data + page)
    start = PAGE + room - array.nbytes if side == "end" else PAGE
    copy: np.ndarray = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _forbid(page: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), ctypes.c_int(_PROT_NONE)):
        raise GraphcError("a page can't be protected", seen=f"errno {ctypes.get_errno()}")
