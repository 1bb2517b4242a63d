"""Memory plans: offsets in one arena for buffers whose lifetimes are known, so that those in use at once never overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `bytes`, in use from step `first` to step `last`, both included."""

    first: int
    last: int
    bytes: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are in use at some step."""
        return self.first <= other.last and other.first <= self.last


def plan(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """(offset of each buffer, bytes of the arena). Offsets are multiples of 64.

    Greedy by size: the largest first, each into the smallest gap that holds it among the buffers placed that it meets
    (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020).
    """
    order = sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].bytes, lifetimes[i].first))
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for i in order:
        size = _aligned(lifetimes[i].bytes)
        taken = sorted((offsets[j], _aligned(lifetimes[j].bytes)) for j in placed if lifetimes[j].meets(lifetimes[i]))
        offsets[i] = _best_gap(taken, size)
        placed.append(i)
    total = max((offsets[i] + _aligned(x.bytes) for i, x in enumerate(lifetimes)), default=0)
    return offsets, total


def _best_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """Where the smallest gap that holds `size` begins; behind everything if there is none."""
    best: tuple[int, int] | None = None
    end = 0
    for start, length in taken:
        gap = start - end
        if gap >= size and (best is None or gap < best[0]):
            best = gap, end
        end = max(end, start + length)
    return best[1] if best is not None else end


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def aligned(size: int) -> np.ndarray:
    """Uninitialized memory of `size` bytes, 64-byte aligned; never empty."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + max(size, 1)]
