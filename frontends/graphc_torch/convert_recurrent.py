"""Recurrent layers: RNN, GRU and LSTM, kept whole; layers and directions joined here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.ir.graph import Value
from graphc_torch.call import Call, Converter
from graphc_torch.convert_random import dropout
from graphc_torch.refused import Refused

# Which of torch's gates stand where: torch has an LSTM's as i, f, g, o and a GRU's as r, z, n.
_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


def _gates(c: Call, w: Value, kind: str) -> Value:
    """A weight or bias with its gates in graphc's order."""
    order = _ORDER[kind]
    if order == tuple(range(len(order))):
        return w
    size = c.static(w.type.shape[0], "hidden size") // len(order)
    return c.concat([c.part(w, 0, i * size, (i + 1) * size) for i in order], 0)


def _layer(
    c: Call, kind: str, activation: str, x: Value, parameters: Sequence[Value], states: Sequence[Value], reverse: bool
) -> tuple[Value, ...]:
    """One direction of one layer: all h, then the last of each state."""
    w, r = (_gates(c, p, kind) for p in parameters[:2])
    biases = [_gates(c, p, kind) for p in parameters[2:]]
    if not biases:
        zero = c.b.full(0, w.type.with_shape(w.type.shape[:1]))
        biases = [zero, zero]
    if kind == "gru":
        return c.b.ops("gru", x, w, r, *biases, *states, reverse=reverse, linear_before_reset=True)
    bias = c.b.op("add", *biases)
    if kind == "lstm":
        return c.b.ops("lstm", x, w, r, bias, *states, reverse=reverse)
    return c.b.ops("rnn", x, w, r, bias, *states, reverse=reverse, activation=activation)


def _state(c: Call, states: Value, index: int) -> Value:
    """State [b, h] of a layer and direction, from [layers * directions, b, h]."""
    return c.b.reshape(c.part(states, 0, index, index + 1), states.type.shape[1:])


def _recurrent(kind: str, activation: str = "tanh") -> Converter:
    """(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first) -> output, last states."""

    def convert(c: Call) -> list[Value]:
        x = c.x("input")
        x = c.b.transpose(x, (1, 0, 2)) if c.get("batch_first") else x
        initial = c.xs("hx") if kind == "lstm" else [c.x("hx")]
        parameters = c.xs("params")
        each = 4 if c.get("has_biases") else 2
        directions = (False, True) if c.get("bidirectional") else (False,)
        if len(parameters) != each * len(directions) * c.get("num_layers"):
            raise Refused("a projection of the hidden state isn't supported")
        last: list[list[Value]] = [[] for _ in initial]
        for number in range(c.get("num_layers")):
            if number and c.get("train"):
                x = dropout(c, x, float(c.get("dropout")))
            found = []
            for i, reverse in enumerate(directions):
                at = number * len(directions) + i
                states = [_state(c, s, at) for s in initial]
                found.append(_layer(c, kind, activation, x, parameters[at * each : (at + 1) * each], states, reverse))
            x = c.concat([f[0] for f in found], 2)
            for kept, ends in zip(last, zip(*(f[1:] for f in found), strict=True), strict=True):
                kept += [c.b.reshape(s, (1, *s.type.shape)) for s in ends]
        y = c.b.transpose(x, (1, 0, 2)) if c.get("batch_first") else x
        return [y, *(c.concat(kept, 0) for kept in last)]

    return convert


CONVERTERS: Mapping[str, Converter] = {
    name: convert
    for kind, convert in (
        ("lstm", _recurrent("lstm")),
        ("gru", _recurrent("gru")),
        ("rnn_tanh", _recurrent("rnn")),
        ("rnn_relu", _recurrent("rnn", "relu")),
    )
    for name in (f"{kind}.input", f"graphc.{kind}")
}
