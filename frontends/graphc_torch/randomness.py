"""The random key of a model in training mode."""

from __future__ import annotations

from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType, i64
from graphc_torch.refused import Refused


class Randomness:
    """A graph's random key, its last input, there once something is drawn; each use draws from a stream of its own."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._streams = 0
        self.key: Value | None = None

    def stream(self) -> tuple[Value, int]:
        """The key, and the number of a stream that nothing else draws from."""
        if self.key is None:
            self.key = self._graph.add_input("random_key", TensorType(i64, (2,)))
        self._streams += 1
        return self.key, self._streams - 1


class NoRandomness(Randomness):
    """That of a region in training mode: it has no key of its own."""

    def stream(self) -> tuple[Value, int]:
        raise Refused("random numbers in a branch or a loop aren't supported")
