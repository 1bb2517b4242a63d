"""Lowering of convolution and its two gradients: sums of products whose loads are guarded where padding lies."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.graph import Node, Value
from graphc.ir.symbolic import Dim, floordiv, mod
from graphc.lowering.loop_body import Operand, Predicate, Range
from graphc.lowering.nest import Demand, Nest, Rule
from graphc.lowering.rules_reductions import reducing, sum_of_products
from graphc.ops.convolution import ConvSpec


def conv(nest: Nest, v: Value, demand: Demand) -> Operand:
    """y[n, o, p] = sum over channels c of o's group and window positions t of x[n, c, p*stride + t*dilation - low] * w."""
    node, spec = reducing(nest, v, demand), _spec(v)
    x, w = node.operands
    batch, o, at = _image_index(spec, demand.index)
    per_group, window = _kernel_sizes(spec, w)
    c, t = _channel_and_window(nest, node, spec, per_group, window)
    channel = _group(spec, o, w.type.shape[spec.kernel_axes[0]]) * per_group + c
    position, inside = _slide(spec, at, t, [x.type.shape[a] for a in spec.spatial_axes])
    a = nest.value(x, _guarded(demand, _image(spec, batch, channel, position), inside, x))
    b = nest.value(w, demand.inner().at(_kernel(spec, o, c, t)))
    return sum_of_products(nest, v.type.dtype, a, b, (c, *t))


def conv_input_grad(nest: Nest, v: Value, demand: Demand) -> Operand:
    """dx[n, c, q] = sum over outputs o of c's group and t of dy[n, o, (q + low - t*dilation) / stride] * w, where whole."""
    node, spec = reducing(nest, v, demand), _spec(v)
    dy, w = node.operands
    batch, channel, at = _image_index(spec, demand.index)
    out, per_group = (w.type.shape[i] for i in spec.kernel_axes[:2])
    _, window = _kernel_sizes(spec, w)
    out_per_group = floordiv(out, spec.groups)
    o_in_group, t = _channel_and_window(nest, node, spec, out_per_group, window)
    o = _group(spec, channel, per_group * spec.groups) * out_per_group + o_in_group
    position, inside = [], []
    for i, (q, k, axis) in enumerate(zip(at, t, spec.spatial_axes, strict=True)):
        reached = q + spec.padding[2 * i] - k * spec.dilation[i]
        position.append(floordiv(reached, spec.strides[i]))
        inside += [Range(mod(reached, spec.strides[i]), 0, 1), Range(position[-1], 0, dy.type.shape[axis])]
    a = nest.value(dy, _guarded(demand, _image(spec, batch, o, position), tuple(inside), dy))
    in_group = mod(channel, per_group) if spec.groups > 1 else channel
    b = nest.value(w, demand.inner().at(_kernel(spec, o, in_group, t)))
    return sum_of_products(nest, v.type.dtype, a, b, (o_in_group, *t))


def conv_weight_grad(nest: Nest, v: Value, demand: Demand) -> Operand:
    """dw[o, c, t] = sum over the batch and positions p of x[n, c of o's group, p*stride + t*dilation - low] * dy[n, o, p]."""
    node, spec = reducing(nest, v, demand), _spec(v)
    x, dy = node.operands
    out_axis, in_axis, window_axes = spec.kernel_axes
    o, c, t = demand.index[out_axis], demand.index[in_axis], [demand.index[a] for a in window_axes]
    sizes = [dy.type.shape[a] for a in spec.spatial_axes]
    batch, *at = nest.reduction_axes(node, [x.type.shape[0], *sizes])
    per_group, out = v.type.shape[in_axis], v.type.shape[out_axis]
    position, inside = _slide(spec, at, t, [x.type.shape[a] for a in spec.spatial_axes])
    channel = _group(spec, o, out) * per_group + c
    a = nest.value(x, _guarded(demand, _image(spec, batch, channel, position), inside, x))
    b = nest.value(dy, demand.inner().at(_image(spec, batch, o, at)))
    return sum_of_products(nest, v.type.dtype, a, b, (batch, *at))


def _spec(v: Value) -> ConvSpec:
    assert v.producer is not None
    return ConvSpec.from_attributes(v.producer.attributes)


def _kernel_sizes(spec: ConvSpec, w: Value) -> tuple[Dim, list[Dim]]:
    """(input channels of a group, window) of a kernel."""
    _, per_group, window = spec.kernel_axes
    return w.type.shape[per_group], [w.type.shape[a] for a in window]


def _channel_and_window(
    nest: Nest, node: Node, spec: ConvSpec, channels: Dim, window: Sequence[Dim]
) -> tuple[Dim, Sequence[Dim]]:
    """The reduction over channels and window; channels are innermost where they are so in memory."""
    if spec.layout == "channels_first":
        c, *t = nest.reduction_axes(node, [channels, *window])
    else:
        *t, c = nest.reduction_axes(node, [*window, channels])
    return c, t


def _group(spec: ConvSpec, channel: Dim, channels: Dim) -> Dim:
    """The group that a channel is in."""
    return 0 if spec.groups == 1 else floordiv(channel, floordiv(channels, spec.groups))


def _slide(spec: ConvSpec, at: Sequence[Dim], t: Sequence[Dim], size: Sequence[Dim]) -> tuple[list[Dim], Predicate]:
    """The spatial index that window position t of output position `at` meets, and the condition that it isn't padding."""
    position = [
        p * spec.strides[i] - spec.padding[2 * i] + k * spec.dilation[i]
        for i, (p, k) in enumerate(zip(at, t, strict=True))
    ]
    return position, tuple(Range(p, 0, s) for p, s in zip(position, size, strict=True))


def _image_index(spec: ConvSpec, index: Sequence[Dim]) -> tuple[Dim, Dim, list[Dim]]:
    """(batch, channel, spatial indices)."""
    return index[0], index[spec.channel_axis], [index[a] for a in spec.spatial_axes]


def _image(spec: ConvSpec, batch: Dim, channel: Dim, at: Sequence[Dim]) -> tuple[Dim, ...]:
    return spec.shape(batch, channel, at)


def _kernel(spec: ConvSpec, o: Dim, c: Dim, t: Sequence[Dim]) -> tuple[Dim, ...]:
    return spec.kernel_shape(o, c, t)


def _guarded(demand: Demand, index: tuple[Dim, ...], inside: Predicate, x: Value) -> Demand:
    return Demand(index, (*demand.predicate, *inside), 0.0 if x.type.dtype.is_float else 0)


RULES: dict[str, Rule] = {"conv": conv, "conv_input_grad": conv_input_grad, "conv_weight_grad": conv_weight_grad}
