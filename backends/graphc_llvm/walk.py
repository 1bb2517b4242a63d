"""The order in which a kernel's work items touch its operands: what shows that a part of one kernel may run before the
rest of another, and where the bytes lie that it works on.

Work items do points in order: lexicographically along `extents`. A point touches, of each operand, at most the bytes
[low, high) moved by its coordinates times `strides`; an access that can't be told so touches all of its operand.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir.symbolic import Dim


@dataclass(frozen=True)
class Touch:
    """Bytes of an operand: of the point x, [low, high) + sum(strides[i] * x[i]), so far as they lie in the operand."""

    operand: int
    strides: tuple[Dim, ...]
    low: Dim
    high: Dim


@dataclass(frozen=True)
class Walk:
    """How a kernel goes over its points, as expressions over its `dims`; see the module.

    `rows` successive points are cut into blocks of `block`, of which each takes `panels` work items. Operands from number
    `outputs` on are written, the others read.
    """

    dims: tuple[str, ...]
    extents: tuple[Dim, ...]
    rows: Dim
    block: int
    panels: Dim
    outputs: int
    touches: tuple[Touch, ...]


@dataclass(frozen=True)
class Caches:
    """Bytes of a core's own cache, and of the last one."""

    own: int
    last: int

    @property
    def large(self) -> int:
        """Bytes from which on a buffer is worth a window."""
        return self.last // 8

    def windows(self, threads: int) -> int:
        """Bytes that a chain's windows may take together, about."""
        return self.own * threads


@dataclass(frozen=True)
class Walks:
    """Those of a program's kernels, by number, None where one isn't known; and the caches of their target."""

    kernels: tuple[Walk | None, ...]
    caches: Caches
