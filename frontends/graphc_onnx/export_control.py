"""Recurrent layers, and operators with regions, in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc.ir.graph import Graph
from graphc.ir.types import TensorType, bool_, i64
from graphc_onnx.export_scope import Name, Scope
from graphc_onnx.exported_node import ExportedNode, Exporter

# Recurrent layers: ONNX has an axis of directions, here of one.


def _recurrent(c: ExportedNode, op: str, biases: Name, states: Sequence[Name], **options: Any) -> list[Name]:
    s = c.scope
    x, w, r = (c.x(i) for i in range(3))
    operands = [x, s.unsqueeze(w, [0]), s.unsqueeze(r, [0]), s.unsqueeze(biases, [0]), None]
    operands += [s.unsqueeze(h, [0]) for h in states]
    y, *last = (v.type for v in c.node.results)
    types = [y.with_shape((y.shape[0], 1, *y.shape[1:])), *(h.with_shape((1, *h.shape)) for h in last)]
    direction = "reverse" if c["reverse"] else "forward"
    found = s.ops(op, operands, *types, hidden_size=c.node.operands[2].type.shape[1], direction=direction, **options)
    return [s.squeeze(found[0], 1), *(s.squeeze(h, 0) for h in found[1:])]


def _both(c: ExportedNode, first: Name, second: Name) -> Name:
    """Two biases one after the other."""
    return c.scope.op("Concat", [first, second], first.dtype, (first.shape[0] + second.shape[0],), axis=0)


def _with_zeros(c: ExportedNode) -> Name:
    """The bias, then zeros for the one that ONNX adds to it."""
    bias = c.x(3)
    return _both(c, bias, c.scope.expand(c.scope.scalar(0, bias.dtype), bias.shape))


def _rnn(c: ExportedNode) -> list[Name]:
    return _recurrent(c, "RNN", _with_zeros(c), [c.x(4)], activations=[c["activation"].capitalize()])


def _gru(c: ExportedNode) -> list[Name]:
    before = int(c["linear_before_reset"])
    return _recurrent(c, "GRU", _both(c, c.x(3), c.x(4)), [c.x(5)], linear_before_reset=before)


def _lstm(c: ExportedNode) -> list[Name]:
    return _recurrent(c, "LSTM", _with_zeros(c), [c.x(4), c.x(5)])


# Regions: what they capture is read from outside.


def _inner(c: ExportedNode) -> Scope:
    scope = Scope(c.scope.names, c.scope)
    scope.layer = c.scope.layer
    return scope


def _input(c: ExportedNode, hint: str, type: TensorType) -> Name:
    return Name(c.scope.names.fresh(hint), type.dtype, type.shape)


def _scan(c: ExportedNode) -> list[Name]:
    body: Graph = c["body"]
    own = c["carries"] + c["scanned"]
    inner = _inner(c)
    inputs = [_input(c, v.name, v.type) for v in body.inputs[:own]]
    outputs = c.regions.inline(body, [*inputs, *(c.x(i) for i in range(own, len(c.node.operands)))], inner)
    graph = c.regions.closed(inner, body.name, inputs, outputs)
    backwards = int(c["reverse"])
    return c.scope.ops(
        "Scan", [c.x(i) for i in range(own)], *(v.type for v in c.node.results), body=graph,
        num_scan_inputs=c["scanned"], scan_input_directions=[backwards] * c["scanned"],
        scan_output_directions=[backwards] * (len(outputs) - c["carries"]),
    )  # fmt: skip


def _if(c: ExportedNode) -> list[Name]:
    captures = [c.x(i) for i in range(1, len(c.node.operands))]
    branches = {}
    for theirs, ours in (("then_branch", "then"), ("else_branch", "otherwise")):
        inner = _inner(c)
        outputs = c.regions.inline(c[ours], captures, inner)
        branches[theirs] = c.regions.closed(inner, c[ours].name, [], outputs)
    return c.scope.ops("If", [c.x(0)], *(v.type for v in c.node.results), **branches)


def _while(c: ExportedNode) -> list[Name]:
    """Loop asks whether to go on after each step; the first time, before it."""
    condition, body, carries = c["condition"], c["body"], c["carries"]
    xs = c.xs()
    captures = xs[carries:]
    (first,) = c.regions.inline(condition, xs, c.scope)
    inner = _inner(c)
    inputs = [_input(c, v.name, v.type) for v in body.inputs[:carries]]
    counted = [_input(c, "step", TensorType(i64, ())), _input(c, "going_on", TensorType(bool_, ()))]
    after = c.regions.inline(body, [*inputs, *captures], inner)
    (again,) = c.regions.inline(condition, [*after, *captures], inner)
    graph = c.regions.closed(inner, body.name, [*counted, *inputs], [again, *after])
    bounded = not isinstance(c["max_trips"], int) or c["max_trips"] >= 0
    trips = c.scope.squeeze(c.scope.size(c["max_trips"]), 0) if bounded else None
    return c.scope.ops("Loop", [trips, first, *xs[:carries]], *(v.type for v in c.node.results), body=graph)


EXPORTERS: Mapping[str, Exporter] = {
    "rnn": _rnn,
    "gru": _gru,
    "lstm": _lstm,
    "scan": _scan,
    "if": _if,
    "while": _while,
}
