"""Normalization, and the softmaxes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, product
from graphc.ir.types import DType
from graphc_torch.call import Call, Converter
from graphc_torch.refused import Refused


def _parameter(c: Call, name: str, dtype: DType, shape: tuple[Dim, ...], default: int) -> Value:
    """A scale or bias in the type of the computation; ones or zeros where it is left out."""
    if not c.has(name):
        return c.b.broadcast(c.b.scalar(default, dtype), shape, ())
    return c.b.reshape(c.b.cast(c.x(name), dtype), shape)


def _layer_norm(c: Call) -> Value:
    x = c.x("input")
    axis = x.type.rank - len(c.raw("normalized_shape"))
    scale, bias = (
        _parameter(c, n, x.type.dtype, x.type.shape[axis:], default) for n, default in (("weight", 1), ("bias", 0))
    )
    return c.b.op("layer_norm", x, scale, bias, axis=axis, epsilon=float(c.get("eps")))


def _rms_norm(c: Call) -> Value:
    """Without an epsilon, torch takes the smallest step of the input's type."""
    x = c.x("input")
    axis = x.type.rank - len(c.raw("normalized_shape"))
    scale = _parameter(c, "weight", x.type.dtype, x.type.shape[axis:], 1)
    epsilon = c.get("eps", torch.finfo(c.node.meta["val"].dtype).eps)
    return c.b.op("rms_norm", x, scale, axis=axis, epsilon=float(epsilon))


def _group_norm(c: Call) -> Value:
    x = c.x("input")
    groups = c.get("num_groups") if c.has("num_groups") else c.get("group")
    parameters = (_parameter(c, n, x.type.dtype, x.type.shape[1:2], d) for n, d in (("weight", 1), ("bias", 0)))
    return c.b.op("group_norm", x, *parameters, groups=int(groups), epsilon=float(c.get("eps")))


def _instance_norm(c: Call) -> Value:
    """By each image's own statistics, as many groups as channels; else by the running ones."""
    x = c.x("input")
    if not c.get("use_input_stats"):
        return _by_statistics(c)
    if c.has("running_mean"):
        raise Refused("training mode isn't supported: call .eval() on the module")
    channels = c.static(x.type.shape[1], "number of channels")
    parameters = (_parameter(c, n, x.type.dtype, x.type.shape[1:2], d) for n, d in (("weight", 1), ("bias", 0)))
    return c.b.op("group_norm", x, *parameters, groups=channels, epsilon=float(c.get("eps")))


def _by_statistics(c: Call) -> Value:
    """Batch normalization by the running statistics."""
    x = c.x("input")
    names = (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1))
    parameters = (_parameter(c, n, x.type.dtype, x.type.shape[1:2], d) for n, d in names)
    return c.b.op("batch_norm", x, *parameters, axis=1, epsilon=float(c.get("eps")))


def _batch_norm(c: Call) -> Value:
    if c.get("training"):
        c.only_in_training()
        return _by_own_statistics(c)[0]
    return _by_statistics(c)


def _by_own_statistics(c: Call) -> tuple[Value, Value, Value]:
    """Batch normalization by the batch's statistics: the result, means and variances."""
    x = c.x("input")
    parameters = [_parameter(c, n, x.type.dtype, x.type.shape[1:2], d) for n, d in (("weight", 1), ("bias", 0))]
    y, mean, variance = c.b.ops("batch_norm_training", x, *parameters, axis=1, epsilon=float(c.get("eps")))
    return y, mean, variance


def _with_running_statistics(c: Call) -> list[Value | None]:
    """Batch normalization by the batch's statistics; the running ones move towards them by `momentum`.

    What is kept of the variance is the sample's: n / (n - 1) of that which normalizes.
    """
    c.only_in_training()
    y, mean, variance = _by_own_statistics(c)
    x = c.x("input")
    count = c.dim_value(product(d for i, d in enumerate(x.type.shape) if i != 1), variance.type.dtype)
    one_less = c.scaled("sub", count, 1)
    corrected = c.b.op("mul", variance, c.b.broadcast(c.b.op("div", count, one_less), variance.type.shape, ()))
    kept = [_moved(c, name, new) for name, new in (("running_mean", mean), ("running_var", corrected))]
    return [y, None, None, *kept]


def _moved(c: Call, name: str, towards: Value) -> Value:
    """(1 - momentum) * running + momentum * towards; no gradient passes."""
    running, momentum = c.x(name), float(c.get("momentum"))
    towards = c.b.cast(c.b.op("stop_gradient", towards), running.type.dtype)
    return c.b.op("add", c.scaled("mul", running, 1 - momentum), c.scaled("mul", towards, momentum))


def _softmax(op: str) -> Converter:
    def convert(c: Call) -> Value:
        x = c.b.cast(c.x(), c.type().dtype)
        return _along_axis(c, op, x)

    return convert


def _along_axis(c: Call, op: str, x: Value) -> Value:
    if x.type.rank == 0:
        return c.b.reshape(c.b.op(op, c.b.reshape(x, (1,)), axis=0), ())
    return c.b.op(op, x, axis=c.axis(c.get("dim"), x.type.rank))


def _safe_softmax(c: Call) -> Value:
    """Zeros where all elements are minus infinity."""
    x = c.b.cast(c.x(), c.type().dtype)
    axis = c.axis(c.get("dim"), x.type.rank)
    hidden = c.b.op("eq", x, c.b.full_like(float("-inf"), x))
    rows = c.b.reduce("reduce_min", hidden, (axis,), keep=True)
    return c.b.op("select", rows, c.b.full_like(0, x), c.b.op("softmax", x, axis=axis))


CONVERTERS: Mapping[str, Converter] = {
    "layer_norm": _layer_norm,
    "native_layer_norm": lambda c: [_layer_norm(c), None, None],
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "native_group_norm": lambda c: [_group_norm(c), None, None],
    "instance_norm": _instance_norm,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda c: [_by_statistics(c), None, None],
    "_native_batch_norm_legit.no_stats": lambda c: [_by_own_statistics(c)[0], None, None],
    "_native_batch_norm_legit_functional": _with_running_statistics,
    "softmax": _softmax("softmax"),
    "_softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "_log_softmax": _softmax("log_softmax"),
    "_safe_softmax": _safe_softmax,
}
