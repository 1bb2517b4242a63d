"""Recurrent layers over (N, time, features), stacked and in both directions."""

from __future__ import annotations

from typing import ClassVar

from graphc.errors import ShapeError
from graphc_nn.initializers import Uniform
from graphc_nn.linear import Dropout
from graphc_nn.module import Module, Parameter
from graphc_nn.tensor import Tensor, concat


class _Direction(Module):
    """One layer in one direction."""

    def __init__(self, operator: str, gates: int, biases: int, states: int, inputs: int, hidden: int) -> None:
        bound = Uniform(-(hidden**-0.5), hidden**-0.5)
        self.operator, self.states, self.hidden = operator, states, hidden
        self.weight_input = Parameter((gates * hidden, inputs), bound)
        self.weight_hidden = Parameter((gates * hidden, hidden), bound)
        self.bias = Parameter((gates * hidden,), bound)
        self.bias_hidden = Parameter((gates * hidden,), bound) if biases == 2 else None

    def forward(self, x: Tensor, backward: bool = False, **attributes: object) -> Tensor:
        biases = [x.of(b) for b in (self.bias, self.bias_hidden) if b is not None]
        start = x.full(0, (x.shape[1], self.hidden))
        given = (x.of(self.weight_input), x.of(self.weight_hidden), *biases, *([start] * self.states))
        return x.ops(self.operator, *given, reverse=backward, **attributes)[0]


class _Recurrent(Module):
    operator: ClassVar[str]
    gates: ClassVar[int]
    biases: ClassVar[int] = 1
    states: ClassVar[int] = 1
    attributes: ClassVar[dict[str, object]] = {}

    def __init__(
        self, inputs: int, hidden: int, layers: int = 1, *, bidirectional: bool = False, dropout: float = 0.0
    ) -> None:
        self.inputs = inputs
        self.ways = 2 if bidirectional else 1
        self.layers: list[Module] = []
        for i in range(layers * self.ways):
            size = inputs if i < self.ways else hidden * self.ways
            self.layers.append(_Direction(self.operator, self.gates, self.biases, self.states, size, hidden))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        if x.rank != 3 or x.shape[2] != self.inputs:
            raise ShapeError("recurrent layers take (N, time, features)", seen=x.value.type, expected=self.inputs)
        h = x.transpose(1, 0, 2)
        for first in range(0, len(self.layers), self.ways):
            h = self.dropout(h) if first else h
            made = [self.layers[first + way](h, backward=way == 1, **self.attributes) for way in range(self.ways)]
            h = made[0] if self.ways == 1 else concat(made, 2)
        return h.transpose(1, 0, 2)


class RNN(_Recurrent):
    """h' = tanh(W x + U h + b): (N, time, inputs) to (N, time, hidden), or twice hidden in both directions."""

    operator, gates = "rnn", 1


class LSTM(_Recurrent):
    """Long short-term memory, its gates in the order of the operator `lstm`: (N, time, inputs) to (N, time, hidden)."""

    operator, gates, states = "lstm", 4, 2


class GRU(_Recurrent):
    """Gated recurrent unit, with the reset after the product, as torch's: (N, time, inputs) to (N, time, hidden)."""

    operator, gates, biases = "gru", 3, 2
    attributes: ClassVar[dict[str, object]] = {"linear_before_reset": True}
