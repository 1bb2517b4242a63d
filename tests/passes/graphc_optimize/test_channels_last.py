"""Layout: what changes, what doesn't, and that transposes end up at the borders."""

# ruff: noqa: E501  (lines of IR)

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32
from graphc_optimize.canonicalize import Canonicalize
from graphc_optimize.channels_last import ChannelsLast

N = symbol("n")
LAST = ChannelsLast()


def _weight(b: Builder, *shape: int) -> Value:
    return b.constant(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32))


def _conv(b: Builder, x: Value, out: int, *, groups: int = 1, stride: int = 1, size: int = 3, op: str = "conv", **more: object) -> Value:
    spatial, c = x.type.rank - 2, x.type.shape[1]
    assert isinstance(c, int)
    w = _weight(b, out, c // groups, *(size,) * spatial) if op == "conv" else _weight(b, c, out // groups, *(size,) * spatial)
    return b.op(
        op, x, w, strides=(stride,) * spatial, padding=(size // 2,) * 2 * spatial, dilation=(1,) * spatial, groups=groups, **more
    )


def _bias(b: Builder, y: Value) -> Value:
    return b.op("add", y, b.broadcast(_weight(b, y.type.shape[1]), y.type.shape, (1,)))  # type: ignore[arg-type]


def _transposes(graph: Graph) -> list[str]:
    """What each transpose of something that isn't constant moves."""
    from graphc.rewrite.constants import depends_on_constants_alone

    return [str(n.result.type) for n in graph.nodes if n.op.name == "transpose" and not depends_on_constants_alone(n.result)]


def _ops(graph: Graph) -> Counter[str]:
    return Counter(n.op.name for n in graph.nodes)


def test_text_before_and_after(check_text) -> None:
    check_text(
        """
        graph @g(%x: f32[n,3,8,8], %w: f32[4,3,3,3], %b: f32[4]) {
          %c: f32[n,4,8,8] = conv(%x, %w) {strides=[1, 1], padding=[1, 1, 1, 1], dilation=[1, 1]}
          %bb: f32[n,4,8,8] = broadcast(%b) {shape=[n, 4, 8, 8], axes=[1]}
          %y: f32[n,4,8,8] = add(%c, %bb)
          %z: f32[n,4,8,8] = tanh(%y)
          return %z
        }
        """,
        """
        graph @g(%x: f32[n,3,8,8], %w: f32[4,3,3,3], %b: f32[4]) {
          %transpose: f32[n,8,8,3] = transpose(%x) {permutation=[0, 2, 3, 1]}
          %transpose_1: f32[3,3,3,4] = transpose(%w) {permutation=[2, 3, 1, 0]}
          %conv: f32[n,8,8,4] = conv(%transpose, %transpose_1) {strides=[1, 1], padding=[1, 1, 1, 1], dilation=[1, 1], layout="channels_last", kernel_layout="io"}
          %broadcast: f32[n,8,8,4] = broadcast(%b) {shape=[n, 8, 8, 4], axes=[3]}
          %add: f32[n,8,8,4] = add(%conv, %broadcast)
          %tanh: f32[n,8,8,4] = tanh(%add)
          %z: f32[n,4,8,8] = transpose(%tanh) {permutation=[0, 3, 1, 2]}
          return %z
        }
        """,
        LAST,
    )


def test_residual_network_has_one_transpose(run_passes) -> None:
    """Input in, features out of a mean over space: nothing in between moves."""
    b = Builder(Graph())
    x = b.input("x", f32, (N, 3, 16, 16))
    y = b.op("relu", _bias(b, _conv(b, x, 8, stride=2)))
    y, _ = b.ops("window_max", y, axes=(2, 3), window=(3, 3), strides=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1))
    for _ in range(2):
        y = b.op("relu", b.op("add", _bias(b, _conv(b, b.op("relu", _conv(b, y, 8)), 8)), y))
    mean = b.op("mul", s := b.op("reduce_sum", y, axes=(2, 3)), b.full_like(1 / 16, s))
    graph, _ = run_passes(b.returns(b.op("matmul", mean, _weight(b, 8, 5))), LAST)
    assert _transposes(graph) == ["f32[n,16,16,3]"]
    assert all(n["layout"] == "channels_last" and n["kernel_layout"] == "io" for n in graph.nodes if n.op.name == "conv")


def test_average_over_kept_dims_and_squeeze_excite(run_passes) -> None:
    b = Builder(Graph())
    y = _conv(b, b.input("x", f32, (N, 3, 8, 8)), 8)
    pooled = b.op("average_pool", y, axes=(2, 3), window=(8, 8), strides=(1, 1), padding=(0,) * 4, dilation=(1, 1))
    gate = b.op("sigmoid", _bias(b, _conv(b, pooled, 8, size=1)))
    y = b.op("mul", y, b.broadcast(gate, y.type.shape, (0, 1, 2, 3)))
    graph, _ = run_passes(b.returns(b.op("reduce_max", y, axes=(2, 3))), LAST, Canonicalize())
    assert _transposes(graph) == ["f32[n,8,8,3]"]


REGIONS: dict[str, Callable[[Builder, Value], Value]] = {
    "concat": lambda b, y: b.op("concat", y, b.op("exp", y), axis=1),
    "pad": lambda b, y: b.op("pad", y, b.scalar(1.5, f32), low=(0, 1, 2, 0), high=(0, 0, 1, 3)),
    "slice": lambda b, y: b.op("slice", y, starts=(0, 1, 2, 0), limits=(N, 4, 8, 8), strides=(1, 2, 1, 3)),
    "reverse": lambda b, y: b.op("reverse", y, axes=(1, 3)),
    "reverse of space": lambda b, y: b.op("reverse", y, axes=(2, 3)),
    "select": lambda b, y: b.op("select", b.op("gt", y, b.full_like(0, y)), y, b.op("exp", y)),
    "cast": lambda b, y: b.cast(b.cast(y, f32), f32),
    "softmax over channels": lambda b, y: b.op("softmax", y, axis=1),
    "batch_norm": lambda b, y: b.op("batch_norm", y, *(_weight(b, 4) for _ in range(3)), b.full(2, _weight(b, 4).type)),
    "broadcast of [N, C]": lambda b, y: b.op("add", y, b.broadcast(b.op("reduce_sum", y, axes=(2, 3)), y.type.shape, (0, 1))),
    "broadcast of rows": lambda b, y: b.op("add", y, b.broadcast(_weight(b, 4, 8), y.type.shape, (1, 3))),
    "broadcast of kept dims": lambda b, y: b.op("add", y, b.broadcast(_weight(b, 1, 4, 1, 8), y.type.shape, (0, 1, 2, 3))),
    "average_pool": lambda b, y: b.op(
        "average_pool", y, axes=(2, 3), window=(2, 2), strides=(2, 2), padding=(0,) * 4, dilation=(1, 1)
    ),
    "window_sum over channels": lambda b, y: b.op(
        "window_sum", y, axes=(1,), window=(3,), strides=(1,), padding=(1, 1), dilation=(1,)
    ),
    "resize": lambda b, y: b.op("resize", y, axes=(2, 3), sizes=(16, 16), mode="nearest"),
    "gather of rows": lambda b, y: b.op("gather", y, b.constant(np.array([3, 1, 0])), axis=2),
    "transposed convolution": lambda b, y: _conv(b, y, 6, op="conv_input_grad", input_size=(8, 8)),
    "depthwise": lambda b, y: _conv(b, y, 4, groups=4),
    "grouped": lambda b, y: _conv(b, y, 6, groups=2),
    "cumsum": lambda b, y: b.op("cumsum", y, axis=2),
    "constant": lambda b, y: b.op("mul", y, b.broadcast(_weight(b, 4, 8, 8), y.type.shape, (1, 2, 3))),
    "gelu": lambda b, y: b.op("gelu", y),
}


@pytest.mark.parametrize("name", REGIONS)
def test_stays_between_convolutions(name: str, run_passes) -> None:
    """Convolution, the operator, convolution: only the input and the output move."""
    b = Builder(Graph())
    y = REGIONS[name](b, _conv(b, b.input("x", f32, (N, 3, 8, 8)), 4))
    graph, _ = run_passes(b.returns(_conv(b, y, 2)), LAST, Canonicalize())
    assert len(_transposes(graph)) == 2, _transposes(graph)


@pytest.mark.parametrize("spatial", [1, 3])
def test_other_ranks(spatial: int, run_passes) -> None:
    b = Builder(Graph())
    y = b.op("relu", _bias(b, _conv(b, b.input("x", f32, (N, 3, *(6,) * spatial)), 4)))
    graph, _ = run_passes(b.returns(_conv(b, y, 5)), LAST)
    assert len(_transposes(graph)) == 2


def test_transposes_of_the_model_cancel(run_passes) -> None:
    """As in ConvNeXt: convolution, transpose, layer norm over channels, transpose back, residual."""
    b = Builder(Graph())
    x = _conv(b, b.input("x", f32, (N, 3, 8, 8)), 4)
    y = b.transpose(_conv(b, x, 4, groups=4), (0, 2, 3, 1))
    y = b.op("layer_norm", y, _weight(b, 4), _weight(b, 4), axis=3)
    y = b.op("gelu", b.op("matmul", y, _weight(b, 4, 4)))
    y = b.op("add", x, b.transpose(y, (0, 3, 1, 2)))
    graph, _ = run_passes(b.returns(b.op("reduce_sum", y, axes=(2, 3))), LAST, Canonicalize())
    assert _transposes(graph) == ["f32[n,8,8,3]"]


def test_patches_need_no_transpose(run_passes) -> None:
    """As in vision transformers: convolution, space flattened, channels moved last by the model."""
    b = Builder(Graph())
    y = _conv(b, b.input("x", f32, (N, 3, 8, 8)), 6, stride=4, size=4)
    y = b.transpose(b.reshape(y, (N, 6, 9)), (0, 2, 1))
    graph, _ = run_passes(b.returns(y), LAST)
    assert _transposes(graph) == ["f32[n,8,8,3]"]


def test_sequence_model_transposes_cancel(run_passes) -> None:
    """As in speech models: rank 3, where to and from channels last are one permutation."""
    b = Builder(Graph())
    x = b.input("x", f32, (N, 10, 4))
    y = _conv(b, b.transpose(x, (0, 2, 1)), 6)
    y = b.op("layer_norm", b.transpose(y, (0, 2, 1)), _weight(b, 6), _weight(b, 6), axis=2)
    graph, _ = run_passes(b.returns(y), LAST, Canonicalize())
    assert _transposes(graph) == []


def test_cheapest_cut_wins(run_passes) -> None:
    """The mean over channels is an eighth of what it is made of: the transpose comes after it, or not at all."""
    b = Builder(Graph())
    y = b.op("exp", _conv(b, b.input("x", f32, (N, 3, 8, 8)), 8))
    wide = b.op("concat", y, y, y, axis=1)
    mixed = b.op("cumsum", b.op("reduce_sum", wide, axes=(1,)), axis=1)
    graph, _ = run_passes(b.returns(mixed), LAST)
    assert _transposes(graph) == ["f32[n,8,8,3]"]


def test_operators_without_a_rule_get_the_first_layout(run_passes) -> None:
    b = Builder(Graph())
    y = _conv(b, b.input("x", f32, (N, 3, 8, 8)), 4)
    y = b.op("group_norm", y, _weight(b, 4), _weight(b, 4), groups=2)
    graph, _ = run_passes(b.returns(_conv(b, y, 4)), LAST)
    assert len(_transposes(graph)) == 4
    (norm,) = (n for n in graph.nodes if n.op.name == "group_norm")
    assert str(norm.result.type) == "f32[n,4,8,8]"


def test_flattening_needs_the_first_layout(run_passes) -> None:
    b = Builder(Graph())
    y = _conv(b, b.input("x", f32, (N, 3, 4, 4)), 4)
    graph, _ = run_passes(b.returns(b.op("matmul", b.reshape(y, (N, 64)), _weight(b, 64, 5))), LAST)
    assert _transposes(graph) == ["f32[n,4,4,3]", "f32[n,4,4,4]"]


def test_one_channel_is_reshaped(run_passes) -> None:
    b = Builder(Graph())
    graph, _ = run_passes(b.returns(_conv(b, b.input("x", f32, (N, 1, 8, 8)), 4)), LAST)
    assert _ops(graph)["reshape"] == 1
    assert _transposes(graph) == ["f32[n,4,8,8]"]


def test_value_in_both_layouts_moves_once(run_passes) -> None:
    b = Builder(Graph())
    y = _conv(b, b.input("x", f32, (N, 3, 8, 8)), 4)
    outputs = [b.reshape(f, (N, 256)) for f in (y, y, b.op("exp", y))]
    graph, _ = run_passes(b.returns(*outputs, _conv(b, y, 4)), LAST)
    assert len(_transposes(graph)) <= 4


def test_graph_without_convolutions_is_left_alone(run_passes) -> None:
    text = """graph @g(%x: f32[n,3,8,8]) {
  %y: f32[n,8,8,3] = transpose(%x) {permutation=[0, 2, 3, 1]}
  return %y
}
"""
    graph, context = run_passes(text, LAST)
    assert not LAST.run(graph, context).changed


def test_second_run_changes_nothing(run_passes) -> None:
    b = Builder(Graph())
    graph, context = run_passes(b.returns(_conv(b, b.input("x", f32, (N, 3, 8, 8)), 4)), LAST)
    assert not LAST.run(graph, context).changed
