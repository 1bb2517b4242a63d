"""Folding of batch normalization into the convolution or linear layer around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim
from graphc.ops.convolution import ConvSpec
from graphc.pipeline import REASSOCIATES, Claim, PassContext, PassResult
from graphc.rewrite.constants import depends_on_constants_alone
from graphc.rewrite.engine import apply_rules
from graphc.rewrite.matcher import Match
from graphc.rewrite.patterns import Capture, either, op
from graphc.rewrite.rules import Rule

LINEAR = ("conv", "conv_input_grad", "dot", "matmul")
STATISTICS = tuple(Capture(n) for n in ("scale", "bias", "mean", "variance"))


@dataclass(frozen=True)
class FoldBatchNorm:
    """Batch normalization with constant statistics is affine per channel, so a neighbouring layer's weights absorb it.

    Three rules, in this order: into the layer before, into the layer after, and, left alone, as one multiplication and
    one addition. The weights' arithmetic is emitted as nodes on constants, for `prepare`.
    """

    name: ClassVar[str] = "fold-batch-norm"
    claim: ClassVar[Claim] = REASSOCIATES

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        counts = apply_rules(graph, (AFTER_LAYER, BEFORE_LAYER), context)
        counts |= apply_rules(graph, (ALONE,), context)
        return PassResult(bool(counts), counts)


def _affine(b: Builder, match: Match) -> tuple[Value, Value]:
    """(gain, shift), both [C]: batch_norm(x) == x * gain + shift."""
    norm = match.node("norm")
    variance = match["variance"]
    gain = b.op("div", match["scale"], b.op("sqrt", b.op("add", variance, b.full_like(norm["epsilon"], variance))))
    return gain, b.op("sub", match["bias"], b.op("mul", match["mean"], gain))


def _statistics_refusal(match: Match) -> str | None:
    for name in ("scale", "bias", "mean", "variance"):
        if not depends_on_constants_alone(match[name]):
            return f"the {name} of the batch normalization isn't constant (training mode)"
    return None


def _weight_refusal(layer: Node, weight: Value) -> str | None:
    if not depends_on_constants_alone(weight):
        return f"the weight %{weight.name} isn't constant"
    if weight.type.dtype != layer.result.type.dtype:
        return f"the weight %{weight.name} is of another type than the layer's sums"
    if weight.is_output or any(user is not layer for user in weight.users):
        return f"the weight %{weight.name} is shared"
    return None


# Into the layer before: norm(layer(x, w) + b)


def _check_after(match: Match) -> str | None:
    layer, norm = match.node("layer"), match.node("norm")
    if "before" in match.values and not _is_per_channel(match["before"], norm):
        return f"the bias %{match['before'].name} differs within a channel"
    if _output_axis(layer) != norm["axis"]:
        return f"the normalized axis {norm['axis']} isn't that of the layer's output channels"
    return _statistics_refusal(match) or _weight_refusal(layer, layer.operands[1])


def _is_per_channel(bias: Value, norm: Node) -> bool:
    """Whether a bias was broadcast along all axes but the channels'."""
    producer = bias.producer
    if producer is None or producer.op.name != "broadcast":
        return False
    x = producer.operands[0]
    return all(axis == norm["axis"] or x.type.shape[i] == 1 for i, axis in enumerate(producer["axes"]))


def _output_axis(layer: Node) -> int | None:
    """The axis of the result that stands for the weight's output channels, None where there isn't exactly one."""
    rank = layer.result.type.rank
    if layer.op.name in ("conv", "conv_input_grad"):
        return ConvSpec.from_attributes(layer.attributes).channel_axis
    if layer.op.name == "dot":
        weight = layer.operands[1].type
        free = weight.rank - len(layer["rhs_contract"]) - len(layer["rhs_batch"])
        return rank - 1 if free == 1 and not layer["rhs_batch"] else None
    return rank - 1 if layer.operands[1].type.rank == 2 else None


def _fold_after(b: Builder, match: Match) -> Value:
    layer, norm = match.node("layer"), match.node("norm")
    gain, shift = _affine(b, match)
    weight = _scaled_outputs(b, layer, gain)
    y = b.op(layer.op, layer.operands[0], weight, **layer.attributes)
    if "before" in match.values:
        before = match["before"].producer
        assert before is not None
        channels = b.reshape(before.operands[0], _squeezed(before, norm["axis"]))
        shift = b.op("add", b.op("mul", b.broadcast(channels, gain.type.shape, range(channels.type.rank)), gain), shift)
    return b.op("add", y, b.broadcast(shift, y.type.shape, (norm["axis"],)))


def _squeezed(broadcast: Node, axis: int) -> tuple[Dim, ...]:
    """[C], [1] or [] for the operand of a per-channel broadcast."""
    x = broadcast.operands[0]
    return tuple(d for i, d in enumerate(x.type.shape) if broadcast["axes"][i] == axis)


def _scaled_outputs(b: Builder, layer: Node, gain: Value) -> Value:
    """The weight, each output channel times its gain."""
    weight = layer.operands[1]
    if layer.op.name == "conv":
        axis = ConvSpec.from_attributes(layer.attributes).kernel_axes[0]
    elif layer.op.name == "conv_input_grad":  # outputs are the kernel's input channels, within each group
        return _scaled_per_group(b, layer, gain)
    elif layer.op.name == "dot":
        (axis,) = set(range(weight.type.rank)) - set(layer["rhs_contract"])
    else:
        axis = weight.type.rank - 1
    return b.op("mul", weight, b.broadcast(gain, weight.type.shape, (axis,)))


def _scaled_per_group(b: Builder, layer: Node, gain: Value) -> Value:
    """The kernel times `gain` [groups * I/groups]: element (o, i) by that of input channel i of the group of o."""
    return b.op("mul", layer.operands[1], _per_group(b, layer, gain))


def _per_group(b: Builder, layer: Node, per_input: Value) -> Value:
    """`per_input` [groups * I/groups] spread to the kernel's shape."""
    spec = ConvSpec.from_attributes(layer.attributes)
    shape = layer.operands[1].type.shape
    out, inner, _ = spec.kernel_axes
    if spec.groups == 1:
        return b.broadcast(per_input, shape, (inner,))
    table = b.reshape(per_input, (spec.groups, shape[inner]))
    repeated = (spec.groups, shape[out] // spec.groups, shape[inner])
    table = b.reshape(b.broadcast(table, repeated, (0, 2)), (shape[out], shape[inner]))
    if inner < out:
        table = b.transpose(table, (1, 0))
    return b.broadcast(table, shape, sorted((out, inner)))


AFTER_LAYER = Rule(
    "fold-batch-norm-after",
    "norm(layer(x, w) + b) = layer(x, w * gain) + (b * gain + shift)",
    op(
        "batch_norm",
        either(
            op(LINEAR, Capture("x"), Capture("w"), keep="layer"),
            op("add", op(LINEAR, Capture("x"), Capture("w"), keep="layer"), Capture("before")),
        ),
        *STATISTICS,
        keep="norm",
    ),
    _fold_after,
    _check_after,
)


# Into the layer after: layer(norm(x), w)


def _check_before(match: Match) -> str | None:
    layer, norm = match.node("layer"), match.node("norm")
    if layer.op.name == "conv":
        spec = ConvSpec.from_attributes(layer.attributes)
        if norm["axis"] != spec.channel_axis:
            return f"the normalized axis {norm['axis']} isn't that of the layer's input channels"
        if any(spec.padding):
            return "the convolution pads with zeros, which the normalization would have shifted"
    elif _contracted_axis(layer) != norm["axis"]:
        return f"the normalized axis {norm['axis']} isn't the one that the layer contracts"
    return _statistics_refusal(match) or _weight_refusal(layer, layer.operands[1])


def _contracted_axis(layer: Node) -> int | None:
    """The only axis of the left operand that is contracted with a weight without batch axes."""
    if layer.op.name == "dot":
        return layer["lhs_contract"][0] if len(layer["lhs_contract"]) == 1 and not layer["lhs_batch"] else None
    return layer.operands[0].type.rank - 1 if layer.operands[1].type.rank == 2 else None


def _fold_before(b: Builder, match: Match) -> Value:
    layer = match.node("layer")
    gain, shift = _affine(b, match)
    weight = layer.operands[1]
    kept: Sequence[int]
    if layer.op.name == "conv":
        spec = ConvSpec.from_attributes(layer.attributes)
        spread_gain, spread_shift = _per_group(b, layer, gain), _per_group(b, layer, shift)
        kept, axis = (spec.kernel_axes[0],), spec.channel_axis
        axes: tuple[int, ...] = (axis,)
    else:
        (contracted,) = layer["rhs_contract"] if layer.op.name == "dot" else (0,)
        spread_gain = b.broadcast(gain, weight.type.shape, (contracted,))
        spread_shift = b.broadcast(shift, weight.type.shape, (contracted,))
        kept = [i for i in range(weight.type.rank) if i != contracted]
        rank = layer.result.type.rank
        axes = tuple(range(rank - len(kept), rank))
    y = b.op(layer.op, match["x"], b.op("mul", weight, spread_gain), **layer.attributes)
    summed = tuple(i for i in range(weight.type.rank) if i not in kept)
    bias = b.op("reduce_sum", b.op("mul", weight, spread_shift), axes=summed)
    return b.op("add", y, b.broadcast(bias, y.type.shape, axes))


BEFORE_LAYER = Rule(
    "fold-batch-norm-before",
    "layer(norm(x), w) = layer(x, w * gain) + sum(w * shift), where the layer doesn't pad",
    op(
        ("conv", "dot", "matmul"),
        op("batch_norm", Capture("x"), *STATISTICS, keep="norm"),
        Capture("w"),
        keep="layer",
    ),
    _fold_before,
    _check_before,
)


# Left alone


def _alone(b: Builder, match: Match) -> Value:
    norm, x = match.node("norm"), match["x"]
    gain, shift = (b.broadcast(v, x.type.shape, (norm["axis"],)) for v in _affine(b, match))
    return b.op("add", b.op("mul", x, gain), shift)


ALONE = Rule(
    "batch-norm-affine",
    "norm(x) = x * gain + shift",
    op("batch_norm", Capture("x"), *STATISTICS, keep="norm"),
    _alone,
    _statistics_refusal,
)
