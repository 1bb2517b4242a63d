"""The packed form of a product's right operand: panels of columns, one after the other, as many wide as the register tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, ceildiv, floordiv


@dataclass(frozen=True)
class Panels:
    """How an array [outer axes, sum axes, columns] of `shape` is cut into panels of `width` columns.

    `terms`: neighbours along the last sum axis, which it is a multiple of, that lie together.
    """

    shape: tuple[Dim, ...]
    width: int
    outer: int
    terms: int = 1

    @property
    def order(self) -> tuple[int, ...]:
        """[outer, sum, panel, lane] to [outer, panel, sum, lane]; [outer, sum, term, ...] to [..., lane, term]."""
        outer, rank = range(self.outer), len(self.cut)
        if self.terms == 1:
            return (*outer, rank - 2, *range(self.outer, rank - 2), rank - 1)
        return (*outer, rank - 2, *range(self.outer, rank - 3), rank - 1, rank - 3)

    @property
    def cut(self) -> tuple[Dim, ...]:
        """The shape with columns cut in panels, and the last sum axis in groups of terms where these are more than one."""
        *lead, depth, _ = self.shape
        terms = () if self.terms == 1 else (self.terms,)
        return (*lead, floordiv(depth, self.terms), *terms, floordiv(self.columns, self.width), self.width)

    @property
    def columns(self) -> Dim:
        """Columns of whole panels."""
        return ceildiv(self.shape[-1], self.width) * self.width

    def pack(self, b: Builder, w: Value) -> Value:
        """[outer, panel, sum, lane, term], the columns padded with zeros, laid out in memory."""
        columns = self.shape[-1]
        low = (0,) * len(self.shape)
        if self.columns != columns:
            high = (*low[1:], self.columns - columns)
            w = b.op("pad", w, b.scalar(0, w.type.dtype), low=low, high=high)
        return b.op("materialize", b.transpose(b.reshape(w, self.cut), self.order))

    def unpack(self, b: Builder, packed: Value) -> Value:
        """The array again, as views of the packed one."""
        *lead, columns = self.shape
        joined = b.reshape(b.transpose(packed, inverse(self.order)), (*lead, self.columns))
        if self.columns == columns:
            return joined
        rank = len(self.shape)
        return b.op("slice", joined, starts=(0,) * rank, limits=self.shape, strides=(1,) * rank)


def inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes it."""
    return tuple(sorted(range(len(permutation)), key=lambda i: permutation[i]))
