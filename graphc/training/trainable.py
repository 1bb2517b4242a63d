"""What a frontend gives for training: a model as a function of its data, parameters, state and random key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from graphc.errors import GraphcError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Trainable:
    """A model in training mode.

    graph: its inputs are `data` inputs, then the parameters, then the state, then, if `random`, a key i64[2] (seed and
        step: another step, other numbers); its outputs are the model's, then the new value of each entry of the state.
    parameters: the user's name and the initial value of each, in the order of the inputs (whose names may differ).
    state: what the forward pass updates, as running statistics; named and ordered likewise.
    inference: from values of parameters and state, the model for inference, with these as constants.
    write_back: puts values of parameters and state into the user's model; raises GraphcError where it can't.
    """

    graph: Graph
    data: int
    parameters: Arrays
    state: Arrays
    random: bool
    inference: Callable[[Arrays], Graph]
    write_back: Callable[[Arrays], None]

    @property
    def data_inputs(self) -> list[Value]:
        return self.graph.inputs[: self.data]

    @property
    def parameter_inputs(self) -> list[Value]:
        return self.graph.inputs[self.data : self.data + len(self.parameters)]

    @property
    def state_inputs(self) -> list[Value]:
        first = self.data + len(self.parameters)
        return self.graph.inputs[first : first + len(self.state)]

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What the model returns."""
        return self.graph.outputs[: len(self.graph.outputs) - len(self.state)]


def trainable_graph(graph: Graph) -> Trainable:
    """A graph's float weights as parameters, named after their values; its inputs are the data.

    It has no state, and nothing to write back to. Weights inside regions stay constants.
    """
    copy, _ = graph.clone()
    data = len(copy.inputs)
    parameters: dict[str, np.ndarray] = {}
    for node in copy.nodes:
        if node.op.name == "constant" and node["value"].is_weight and node.result.type.dtype.is_float:
            name = node.result.name
            parameters[name] = node["value"].array
            copy.rename(node.result, f"{name}.initial")
            copy.replace_uses(node.result, copy.add_input(name, node.result.type))
            copy.erase(node)

    def inference(values: Arrays) -> Graph:
        trained, _ = graph.clone()
        for node in trained.nodes:
            if node.op.name == "constant" and node.result.name in values:
                name = node.result.name
                trained.rename(node.result, f"{name}.initial")
                b = Builder(trained, before=node, origin=node.origin)
                trained.replace_uses(node.result, b.constant(values[name], name=name))
                trained.erase(node)
        return trained

    def write_back(_: Arrays) -> None:
        raise GraphcError("a graph is never changed", hint="take step.parameters, or the graph of step.inference()")

    return Trainable(copy, data, parameters, {}, False, inference, write_back)
