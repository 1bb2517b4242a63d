"""What import in training mode collects: the initializers that learn, what nodes make of them, and the random key."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType, i64
from graphc_onnx.imported import Refused, Tensor

Arrays = dict[str, np.ndarray]


class Learned:
    """The initializers of a model's graph, among `candidates`, that become parameters and state."""

    def __init__(self, graph: Graph, candidates: AbstractSet[str]) -> None:
        self._graph = graph
        self._candidates = candidates
        self._tensors: dict[str, Tensor] = {}
        self._updates: dict[str, Value] = {}
        self._streams = 0
        self.key: Value | None = None

    def offer(self, tensor: Tensor) -> None:
        """Takes an initializer of the model, unless it has infinities, as masks have, or isn't a candidate."""
        name, known = tensor.name, tensor.known
        if name is not None and name in self._candidates and known is not None and np.isfinite(known).all():
            self._tensors[name] = tensor

    def owns(self, tensor: Tensor) -> bool:
        """Whether the tensor itself is one of the initializers taken."""
        return tensor.name is not None and self._tensors.get(tensor.name) is tensor

    def update(self, tensor: Tensor, new: Value) -> None:
        """Makes the initializer part of the state, with `new` as its value after a step."""
        if self.owns(tensor) and tensor.name is not None:
            self._updates[tensor.name] = new

    def check_outside_of_regions(self, b: Builder) -> None:
        """Refuses what a loop's body can't do in training."""
        if b.graph is not self._graph:
            raise Refused("training mode in the body of a loop isn't supported")

    def stream(self, b: Builder) -> tuple[Value, int]:
        """The random key, and the number of a stream that nothing else draws from."""
        self.check_outside_of_regions(b)
        if self.key is None:
            self.key = self._graph.add_input("random_key", TensorType(i64, (2,)))
        self._streams += 1
        return self.key, self._streams - 1

    def return_state(self) -> None:
        """Adds to the graph's outputs what the state becomes, each a value of its own."""
        b = Builder(self._graph)
        for name, new in self._updates.items():
            own = b.op("reshape", new, shape=new.type.shape) if new.is_output else new
            self._graph.rename(own, f"{name}.new")
            self._graph.set_outputs((*self._graph.outputs, own))

    def separate(self) -> tuple[int, Arrays, Arrays]:
        """Makes inputs of the initializers.

        Inputs are then data, parameters, state, the key; initializers that no node reads as tensors are left out. Gives
        the number of data inputs, and the values of parameters and state.
        """
        key = self.key
        if key is not None:
            self._graph.inputs.remove(key)
        data = len(self._graph.inputs)
        read = {name: t for name, t in self._tensors.items() if t.value is not None and t.value.uses}
        parameters = [name for name in read if name not in self._updates]
        state = list(self._updates)
        for name in (*parameters, *state):
            constant = read[name].value
            assert constant is not None and constant.producer is not None
            self._graph.rename(constant, f"{name}.initial")
            self._graph.replace_uses(constant, self._graph.add_input(name, constant.type))
            self._graph.erase(constant.producer)
        if key is not None and key.uses:
            self._graph.inputs.append(key)
        elif key is not None:
            self.key = None
        values = {name: np.array(t.known) for name, t in read.items()}
        return data, {name: values[name] for name in parameters}, {name: values[name] for name in state}


@dataclass(frozen=True)
class Mode:
    """How nodes are converted: as the file says; to be trained (`learned`); or for inference whatever they say."""

    learned: Learned | None = None
    evaluating: bool = False
