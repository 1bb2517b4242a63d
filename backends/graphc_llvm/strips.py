"""The vector axis cut into vectors: whole passes of several, then single ones of which the last is masked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from graphc.ir.symbolic import Dim, ceildiv, symbol
from graphc_llvm.emit import tail_mask
from graphc_llvm.index import LANE, Indexer, Placed
from graphc_llvm.points import Points


@dataclass(frozen=True)
class Pass:
    """One loop over vectors: at iteration i, `vectors` vectors from `first` + i * `vectors` * lanes on.

    length: the elements that the loop covers, where they may end within a vector; None where vectors are whole.
    """

    first: Dim
    vectors: int
    length: Dim | None


@dataclass
class Strips:
    """Cuts ranges of the vector axis of one nest into `lanes` elements each, `unroll` vectors a pass."""

    ix: Indexer
    points: Points
    lanes: int
    unroll: int

    def over(self, first: Dim, length: Dim) -> Iterator[tuple[Dim, Pass]]:
        """The loops that cover [first, first + length): how often each runs, and what `lanes_of` takes."""
        step = self.lanes * self.unroll
        passes = length // step
        if passes != 0:
            yield passes, Pass(first, self.unroll, None)
        rest = length - passes * step
        if rest != 0:
            whole = rest % self.lanes == 0
            yield ceildiv(rest, self.lanes), Pass(first + passes * step, 1, None if whole else rest)

    @contextmanager
    def lanes_of(self, p: Pass, i: Dim) -> Iterator[list[Dim]]:
        """Where the vectors of iteration i stand, as expressions in LANE; inside, lanes beyond the end are masked."""
        lane = symbol(LANE, 0, self.lanes - 1)
        if p.length is not None:
            remaining = p.length - i * self.lanes
            level = self.ix.level_of(remaining)
            with self.ix.at(level):
                self.points.mask = Placed(tail_mask(self.ix.b, self.ix.scalar(remaining), self.lanes), level)
        start = p.first + i * (p.vectors * self.lanes)
        yield [start + self.lanes * u + lane for u in range(p.vectors)]
        self.points.mask = None
