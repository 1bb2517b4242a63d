"""Recurrent layers: RNN, GRU and LSTM, each direction a composite of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphc.ir.graph import Value
from graphc_onnx.call import Call, Converter
from graphc_onnx.convert_movement import concatenate, part
from graphc_onnx.imported import Refused

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
# (call, x [s,b,i], direction) -> (all h [s,b,h], then the last of each state [b,h])
Layer = Callable[[Call, Value, int, bool], tuple[Value, ...]]


def _recurrent(layer: Layer, states: int, activations: tuple[str, ...]) -> Converter:
    """Joins the directions: Y is [s, dirs, b, h] and each state [dirs, b, h]; with layout=1 batch first."""

    def convert(c: Call) -> list[Value | None]:
        directions = _DIRECTIONS.get(c.get("direction"))
        if directions is None:
            raise c.wrong("unknown direction", c.get("direction"), ", ".join(_DIRECTIONS))
        _check(c, len(directions), activations)
        batch_first = bool(c.get("layout", 0))
        x = c.x()
        if x.type.rank != 3:
            raise c.wrong("x must have three axes", x.type)
        x = c.b.transpose(x, (1, 0, 2)) if batch_first else x
        _check_lengths(c, x)
        found = [layer(c, x, i, reverse) for i, reverse in enumerate(directions)]
        steps, batch, hidden = found[0][0].type.shape
        y = concatenate(c, [c.b.reshape(f[0], (steps, 1, batch, hidden)) for f in found], 1)
        last = [concatenate(c, [c.b.reshape(f[k], (1, batch, hidden)) for f in found], 0) for k in range(1, states + 1)]
        if batch_first:
            y = c.b.transpose(y, (2, 0, 1, 3))
            last = [c.b.transpose(s, (1, 0, 2)) for s in last]
        return [y, *last]

    return convert


def _check(c: Call, directions: int, activations: tuple[str, ...]) -> None:
    """Refuses what the composites can't do."""
    # The default names two activations where one direction needs but one.
    given = [a.lower() for a in c.get("activations") or activations * directions][: len(activations) * directions]
    plain = activations == ("Tanh",) and set(given) <= {"tanh", "relu"}
    if not plain and given != [a.lower() for a in activations] * directions:
        raise Refused(f"the activations {', '.join(given)} aren't supported")
    if c.get("clip") is not None:
        raise Refused("clipping isn't supported")
    if c.get("input_forget", 0):
        raise Refused("coupled input and forget gates aren't supported")


def _check_lengths(c: Call, x: Value) -> None:
    """Sequences must all have the full length."""
    if not c.has(4):
        return
    lengths = c.sizes(4, "lengths of sequences")
    if any(length != x.type.shape[0] for length in lengths):
        raise Refused("sequences of different lengths aren't supported")


def _weights(c: Call, index: int, direction: int) -> Value:
    """A direction's share of a weight [dirs, ...]."""
    w = part(c, c.x(index), 0, direction, direction + 1)
    return c.b.reshape(w, w.type.shape[1:])


def _biases(c: Call, direction: int, gates: int) -> tuple[Value, Value]:
    """The two biases [gates * hidden] of a direction; zeros where they are left out."""
    hidden = _hidden(c)
    if not c.has(3):
        zero = c.b.full(0, c.tensor(1).type.with_shape((gates * hidden,)))
        return zero, zero
    both = _weights(c, 3, direction)
    return part(c, both, 0, 0, gates * hidden), part(c, both, 0, gates * hidden, 2 * gates * hidden)


def _hidden(c: Call) -> int:
    size = c.tensor(2).type.shape[-1]
    if not isinstance(size, int) or c.get("hidden_size", size) != size:
        raise c.wrong("hidden_size isn't that of the weights", c.get("hidden_size"), size)
    return size


def _initial(c: Call, index: int, x: Value, direction: int) -> Value:
    """The first state [b, h] of a direction; zeros where it is left out."""
    if not c.has(index):
        return c.b.full(0, x.type.with_shape((x.type.shape[1], _hidden(c))))
    state = c.x(index)
    if c.get("layout", 0):
        state = c.b.transpose(state, (1, 0, 2))
    state = part(c, state, 0, direction, direction + 1)
    return c.b.reshape(state, state.type.shape[1:])


def _lstm(c: Call, x: Value, direction: int, reverse: bool) -> tuple[Value, ...]:
    if c.has(7):
        raise Refused("peepholes aren't supported")
    bias = c.b.op("add", *_biases(c, direction, 4))
    h, cell = _initial(c, 5, x, direction), _initial(c, 6, x, direction)
    return c.b.ops("lstm", x, _weights(c, 1, direction), _weights(c, 2, direction), bias, h, cell, reverse=reverse)


def _gru(c: Call, x: Value, direction: int, reverse: bool) -> tuple[Value, ...]:
    return c.b.ops(
        "gru", x, _weights(c, 1, direction), _weights(c, 2, direction), *_biases(c, direction, 3),
        _initial(c, 5, x, direction), reverse=reverse, linear_before_reset=bool(c.get("linear_before_reset", 0)),
    )  # fmt: skip


def _rnn(c: Call, x: Value, direction: int, reverse: bool) -> tuple[Value, ...]:
    bias = c.b.op("add", *_biases(c, direction, 1))
    activations = [a.lower() for a in c.get("activations") or ()]
    return c.b.ops(
        "rnn", x, _weights(c, 1, direction), _weights(c, 2, direction), bias, _initial(c, 5, x, direction),
        reverse=reverse, activation=activations[direction] if direction < len(activations) else "tanh",
    )  # fmt: skip


CONVERTERS: Mapping[str, Converter] = {
    "LSTM": _recurrent(_lstm, 2, ("Sigmoid", "Tanh", "Tanh")),
    "GRU": _recurrent(_gru, 1, ("Sigmoid", "Tanh")),
    "RNN": _recurrent(_rnn, 1, ("Tanh",)),
}
