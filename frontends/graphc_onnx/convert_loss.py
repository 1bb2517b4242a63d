"""Losses over classes."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.graph import Value
from graphc.ir.types import i64
from graphc_onnx.call import Call, Converter
from graphc_onnx.convert_reduce import average, summed


def _negative_log_likelihood(c: Call) -> Value:
    return _loss(c, c.x(0))


def _softmax_cross_entropy(c: Call) -> list[Value]:
    scores = c.x(0)
    probabilities = c.b.op("log_softmax", scores, axis=1)
    return [_loss(c, probabilities), probabilities][: len(c.outputs)]


def _loss(c: Call, x: Value) -> Value:
    """-weight[target] * x[target] of classes along axis 1, 0 where the target is to be ignored; then reduced."""
    target = c.b.cast(c.x(1), i64)
    if x.type.rank < 2 or target.type.rank != x.type.rank - 1:
        raise c.wrong("x must have a batch and classes, and the target all axes but these", f"{x.type}, {target.type}")
    ignored: Value | None = None
    if (ignore := c.get("ignore_index")) is not None:
        ignored = c.b.op("eq", target, c.b.full_like(int(ignore), target))
        target = c.b.op("select", ignored, c.b.full_like(0, target), target)
    column = c.b.reshape(target, (target.type.shape[0], 1, *target.type.shape[1:]))
    picked = c.b.reshape(c.b.op("take_along", x, column, axis=1), target.type.shape)
    weight: Value | None = None
    if c.has(2):
        weight = c.b.op("gather", c.b.cast(c.x(2), x.type.dtype), target, axis=0)
    if ignored is not None:
        counted = c.b.full_like(1, picked) if weight is None else weight
        weight = c.b.op("select", ignored, c.b.full_like(0, counted), counted)
    loss = c.b.op("neg", picked if weight is None else c.b.op("mul", picked, weight))
    axes = tuple(range(loss.type.rank))
    match c.get("reduction"):
        case "none":
            return loss
        case "sum":
            return summed(c, loss, axes)
        case "mean" if weight is None:
            return average(c, loss, axes)
        case "mean":
            assert weight is not None
            return c.b.op("div", summed(c, loss, axes), summed(c, weight, axes))
    raise c.wrong("unknown reduction", c.get("reduction"), "none, sum or mean")


CONVERTERS: Mapping[str, Converter] = {
    "NegativeLogLikelihoodLoss": _negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": _softmax_cross_entropy,
}
