"""Who decides what could be done in several ways: the cost model, or, with `tune=True`, measurements (`tuning.py`).

A decision has a name and options, numbers of which the cost model's own is the first:

    winograd        1: a convolution by Winograd's algorithm                        pass `winograd`
    panel width     columns of a panel of weights, which is a register tile wide     pass `pack`
    strassen        1: a product by Strassen's algorithm                             kernels
    tile rows       of a product's register tile                                     kernels
    block depth     terms of the sum that a block of the right operand holds         kernels
    vector axis     of a nest, counted from the one that is predicted to be best     kernels
    threads         that share a kernel, at most; 0: as the size of its work says    kernels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from graphc.ir.graph import Node
from graphc.pipeline import PassContext


class Choices(Protocol):
    """Who decides what could be done in several ways."""

    def choose(self, node: Node, what: str, options: Sequence[int]) -> int:
        """One of the options for a node of the graph; the first is what the cost model would take."""
        ...

    def tell(self, context: PassContext) -> None:
        """Notes the decisions since the last call in the compilation's context."""


@dataclass(frozen=True)
class Predicted:
    """The cost model's choices."""

    def choose(self, node: Node, what: str, options: Sequence[int]) -> int:
        return options[0]

    def tell(self, context: PassContext) -> None:
        """Nothing: nothing was measured."""


PREDICTED = Predicted()


@dataclass(frozen=True)
class Fixed:
    """Choices made, by name; where there is none, or the option isn't there, the cost model's: what is measured."""

    made: tuple[tuple[str, int], ...] = ()

    def choose(self, node: Node, what: str, options: Sequence[int]) -> int:
        option = dict(self.made).get(what, options[0])
        return option if option in options else options[0]

    def tell(self, context: PassContext) -> None:
        """Nothing: what is measured is told by who measures."""

    def having(self, what: str, option: int) -> Fixed:
        """These choices and one more."""
        return Fixed((*self.made, (what, option)))
