"""Who decides what could be done in several ways: the cost model, or, with `tune=True`, measurements (`tuning.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from graphc.ir.graph import Node


class Choices(Protocol):
    """Who decides what could be done in several ways."""

    def winograd(self, node: Node, predicted: bool) -> bool:
        """Whether a convolution is computed by Winograd's algorithm."""
        ...

    def width(self, node: Node, widths: Sequence[int]) -> int:
        """How many columns a panel of the node's weights has; `widths`, the best first, are what it may have."""
        ...


@dataclass(frozen=True)
class Predicted:
    """The cost model's choices."""

    def winograd(self, node: Node, predicted: bool) -> bool:
        return predicted

    def width(self, node: Node, widths: Sequence[int]) -> int:
        return widths[0]


PREDICTED = Predicted()


@dataclass(frozen=True)
class Fixed:
    """Choices made: what is measured."""

    by_winograd: bool = False
    panel: int | None = None

    def winograd(self, node: Node, predicted: bool) -> bool:
        return self.by_winograd

    def width(self, node: Node, widths: Sequence[int]) -> int:
        return widths[0] if self.panel is None else self.panel
