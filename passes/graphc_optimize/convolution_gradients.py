"""The gradients of convolutions as convolutions and products that backends have fast kernels for.

    conv_input_grad(dy, w)   =  conv(dy, w turned around)                           where the stride is 1
                             =  one such convolution for each phase of the stride, interleaved
    conv_weight_grad(x, dy)  =  conv_weight_grad(x padded with zeros, dy)           whose sums have no borders

A transposed convolution is a `conv_input_grad`, so it gains as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ops.convolution import ConvSpec
from graphc.pipeline import REASSOCIATES, Claim, PassContext, PassResult


@dataclass(frozen=True)
class ConvolutionGradients:
    """Rewrites `conv_input_grad` and padded `conv_weight_grad` with channels last and windows of known size."""

    name: ClassVar[str] = "convolution-gradients"
    claim: ClassVar[Claim] = REASSOCIATES

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        inputs = weights = 0
        for node in graph.nodes:
            if node.op.name not in ("conv_input_grad", "conv_weight_grad") or node["layout"] != "channels_last":
                continue
            b = Builder(graph, before=node, origin=node.origin)
            new = (_input_grad if node.op.name == "conv_input_grad" else _weight_grad)(b, node)
            if new is not None:
                context.replace(graph, node.result, new)
                graph.erase(node)
                inputs += node.op.name == "conv_input_grad"
                weights += node.op.name == "conv_weight_grad"
        return PassResult(bool(inputs or weights), {"inputs": inputs, "weights": weights})


@dataclass(frozen=True)
class _Phase:
    """Along one axis, the results at phase + stride * q, as a convolution of stride 1 with a part of the window.

    first: the window's first position that meets them; low: the padding before dy, negative where some of it isn't read.
    """

    first: int
    count: int
    low: int


def _phases(window: int, stride: int, dilation: int, low: int) -> list[_Phase] | None:
    """For each phase of the stride; None where window positions are apart by dilation and by stride."""
    if stride == 1:
        return [_Phase(0, window, dilation * (window - 1) - low)]
    if dilation > 1:
        return None
    found = []
    for phase in range(stride):
        first = (phase + low) % stride
        count = max(0, -(-(window - first) // stride))
        found.append(_Phase(first, count, count - 1 - (phase + low - first) // stride))
    return found


def _input_grad(b: Builder, node: Node) -> Value | None:
    """The node as convolutions of dy; None where a size isn't known."""
    spec = ConvSpec.from_attributes(node.attributes)
    dy, w = node.operands
    n = spec.spatial
    _, _, axes = spec.kernel_axes
    window, size, rows = [w.type.shape[i] for i in axes], node["input_size"], dy.type.shape[1 : n + 1]
    if not all(isinstance(d, int) for d in (*window, *w.type.shape)):
        return None
    by_axis = [_phases(k, spec.strides[i], spec.dilation[i], spec.padding[2 * i]) for i, k in enumerate(window)]  # type: ignore[arg-type]
    strided = any(s > 1 for s in spec.strides)
    if any(p is None for p in by_axis) or (strided and not all(isinstance(d, int) for d in (*size, *rows))):
        return None
    turned = _turned(b, w, spec)
    counts = [-(-s // stride) if stride > 1 else s for s, stride in zip(size, spec.strides, strict=True)]
    pieces: dict[tuple[int, ...], Value] = {}
    for phases in itertools.product(*(enumerate(p) for p in by_axis if p is not None)):
        chosen = [p for _, p in phases]
        key = tuple(i for i, _ in phases)
        piece = _phase(b, node, spec, dy, turned, chosen, counts)
        if piece is None:
            return None
        pieces[key] = piece
    if not strided:
        return pieces[(0,) * n]
    return _interleaved(b, pieces, spec, counts, size)


def _turned(b: Builder, w: Value, spec: ConvSpec) -> Value:
    """(*window, O/groups, I): the weights from output to input channels, each window as it stands."""
    out, per_group, window = spec.kernel_axes
    ordered = b.transpose(w, (*window, per_group, out))
    *sizes, inputs, outputs = ordered.type.shape
    n = len(sizes)
    cut = b.reshape(ordered, (*sizes, inputs, spec.groups, outputs // spec.groups))
    swapped = b.transpose(cut, (*range(n), n + 2, n + 1, n))
    return b.reshape(swapped, (*sizes, outputs // spec.groups, spec.groups * inputs))


def _phase(
    b: Builder, node: Node, spec: ConvSpec, dy: Value, turned: Value, phases: Sequence[_Phase], counts: Sequence[Any]
) -> Value | None:
    """The results of one phase along each axis; None where dy would have to be cut at a size that isn't known."""
    n = spec.spatial
    channels = turned.type.shape[-1]
    if any(p.count == 0 for p in phases):
        return b.full(0, node.result.type.with_shape((dy.type.shape[0], *counts, channels)))
    rows = dy.type.shape[1 : n + 1]
    padding: list[int] = []
    starts, limits = [0] * (n + 2), list(dy.type.shape)
    for i, p in enumerate(phases):
        high = counts[i] - rows[i] + spec.dilation[i] * (p.count - 1) - p.low
        if not isinstance(high, int) or (min(p.low, high) < 0 and not isinstance(rows[i], int)):
            return None
        starts[i + 1] = max(0, -p.low)
        limits[i + 1] = rows[i] + min(0, high) if high < 0 else rows[i]
        padding += [max(0, p.low), max(0, high)]
    if any(isinstance(a, int) and isinstance(z, int) and a >= z for a, z in zip(starts, limits, strict=True)):
        return None
    ones = (1,) * (n + 2)
    if tuple(limits) != dy.type.shape or any(starts):
        dy = b.op("slice", dy, starts=tuple(starts), limits=tuple(limits), strides=ones)
    part = turned
    if any(s > 1 for s in spec.strides):
        steps = (*spec.strides, 1, 1)
        first = (*(p.first for p in phases), 0, 0)
        part = b.op("slice", turned, starts=first, limits=turned.type.shape, strides=steps)
    part = b.op("reverse", part, axes=tuple(range(n))) if any(p.count > 1 for p in phases) else part
    return b.op(
        "conv", dy, part, strides=(1,) * n, padding=tuple(padding), dilation=spec.dilation, groups=spec.groups,
        layout="channels_last", kernel_layout="io", wide=node["wide"],
    )  # fmt: skip


def _interleaved(
    b: Builder, pieces: dict[tuple[int, ...], Value], spec: ConvSpec, counts: Sequence[int], size: Sequence[int]
) -> Value:
    """The phases' results, (N, *counts, C) each, put back in order: (N, *size, C)."""
    n = spec.spatial
    batch, channels = next(iter(pieces.values())).type.shape[0], next(iter(pieces.values())).type.shape[-1]
    spread = (batch, *(d for c in counts for d in (c, 1)), channels)
    merged = {key: b.reshape(v, spread) for key, v in pieces.items()}
    for axis in reversed(range(n)):
        joined: dict[tuple[int, ...], list[Value]] = {}
        for key, v in merged.items():
            joined.setdefault(key[:axis], []).append(v)
        merged = {k: vs[0] if len(vs) == 1 else b.op("concat", *vs, axis=2 * axis + 2) for k, vs in joined.items()}
    whole = b.reshape(merged[()], (batch, *(c * s for c, s in zip(counts, spec.strides, strict=True)), channels))
    limits = (batch, *size, channels)
    if whole.type.shape == limits:
        return whole
    return b.op("slice", whole, starts=(0,) * (n + 2), limits=limits, strides=(1,) * (n + 2))


def _weight_grad(b: Builder, node: Node) -> Value | None:
    """The node on an input that is padded in memory; None where it isn't padded."""
    padding = node["padding"]
    if not any(padding) or node["groups"] > 1:
        return None
    x, dy = node.operands
    low, high = (0, *padding[::2], 0), (0, *padding[1::2], 0)
    padded = b.op("materialize", b.op("pad", x, b.scalar(0, x.type.dtype), low=low, high=high))
    return b.op("conv_weight_grad", padded, dy, **{**node.attributes, "padding": (0,) * len(padding)})
