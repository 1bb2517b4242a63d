"""Recurrent layers over (N, time, features), stacked and in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from graphc.errors import ShapeError
from graphc.training.hyperparameters import COUNT, check_value
from graphc_nn.initializers import Uniform
from graphc_nn.linear import Dropout
from graphc_nn.module import Module, Parameter
from graphc_nn.tensor import Tensor, concat

States: TypeAlias = Tensor | tuple[Tensor, ...]
"""h, or h and c, of all layers and directions."""


class _Direction(Module):
    """One layer in one direction."""

    def __init__(self, operator: str, gates: int, biases: int, inputs: int, hidden: int) -> None:
        bound = Uniform(-(hidden**-0.5), hidden**-0.5)
        self.operator = operator
        self.weight_input = Parameter((gates * hidden, inputs), bound)
        self.weight_hidden = Parameter((gates * hidden, hidden), bound)
        self.bias = Parameter((gates * hidden,), bound)
        self.bias_hidden = Parameter((gates * hidden,), bound) if biases == 2 else None

    def forward(self, x: Tensor, states: Sequence[Tensor], backward: bool, **attributes: object) -> tuple[Tensor, ...]:
        """All h, then the last of each state."""
        biases = [x.of(b) for b in (self.bias, self.bias_hidden) if b is not None]
        given = (x.of(self.weight_input), x.of(self.weight_hidden), *biases, *states)
        return x.ops(self.operator, *given, reverse=backward, **attributes)


class _Recurrent(Module):
    operator: ClassVar[str]
    gates: ClassVar[int]
    biases: ClassVar[int] = 1
    states: ClassVar[int] = 1
    attributes: ClassVar[dict[str, object]] = {}

    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        return_state: bool = False,
    ) -> None:
        for name, size in (("inputs", inputs), ("hidden", hidden), ("layers", layers)):
            check_value(f"{type(self).__name__}: {name}", size, COUNT)
        self.inputs, self.hidden, self.return_state = inputs, hidden, return_state
        self.ways = 2 if bidirectional else 1
        self.layers: list[Module] = []
        for i in range(layers * self.ways):
            size = inputs if i < self.ways else hidden * self.ways
            self.layers.append(_Direction(self.operator, self.gates, self.biases, size, hidden))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, state: States | None = None) -> Tensor | tuple[Tensor, States]:
        if x.rank != 3 or x.shape[2] != self.inputs:
            raise ShapeError("recurrent layers take (N, time, features)", seen=x.value.type, expected=self.inputs)
        first, last = self._first(x, state), list[Sequence[Tensor]]()
        h = x.transpose(1, 0, 2)
        for number in range(0, len(self.layers), self.ways):
            h = self.dropout(h) if number else h
            made = [
                self.layers[number + way](h, first[number + way], backward=way == 1, **self.attributes)
                for way in range(self.ways)
            ]
            h = made[0][0] if self.ways == 1 else concat([m[0] for m in made], 2)
            last += [m[1:] for m in made]
        y = h.transpose(1, 0, 2)
        if not self.return_state:
            return y
        ends = tuple(concat([_row(s[i]) for s in last], 0) for i in range(self.states))
        return y, ends if self.states > 1 else ends[0]

    def _first(self, x: Tensor, state: States | None) -> list[list[Tensor]]:
        """The states that each layer and direction begins with. Raises ShapeError where they don't fit."""
        shape = (len(self.layers), x.shape[0], self.hidden)
        if state is None:
            zero = x.full(0, shape[1:])
            return [[zero] * self.states for _ in self.layers]
        given = list(state) if isinstance(state, (tuple, list)) else [state]
        if len(given) != self.states or any(t.shape != shape or t.dtype != x.dtype for t in given):
            seen = ", ".join(str(t.value.type) for t in given)
            raise ShapeError("the first state doesn't fit", seen=seen, expected=f"{self.states} of {x.dtype}{list(shape)}")
        return [[t.part(0, i, i + 1).reshape(*shape[1:]) for t in given] for i in range(len(self.layers))]


def _row(state: Tensor) -> Tensor:
    return state.reshape(1, *state.shape)


class RNN(_Recurrent):
    """h' = tanh(W x + U h + b): (N, time, inputs) to (N, time, hidden), or twice hidden in both directions.

    It begins with a state of zeros or the one given, `rnn(x, h0)`; with `return_state` it gives (y, h), the last ones. A
    state is (layers * directions, N, hidden), as torch has it: a layer's forward direction comes first.
    """

    operator, gates = "rnn", 1


class LSTM(_Recurrent):
    """Long short-term memory, its gates in the order of the operator `lstm`: (N, time, inputs) to (N, time, hidden).

    States as in `RNN`, but in pairs: `lstm(x, (h0, c0))`, and (y, (h, c)) with `return_state`.
    """

    operator, gates, states = "lstm", 4, 2


class GRU(_Recurrent):
    """Gated recurrent unit, with the reset after the product, as torch's: (N, time, inputs) to (N, time, hidden).

    States as in `RNN`.
    """

    operator, gates, biases = "gru", 3, 2
    attributes: ClassVar[dict[str, object]] = {"linear_before_reset": True}
