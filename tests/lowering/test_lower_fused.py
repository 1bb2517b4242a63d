"""Bodies of fused graphs: what they compute, and how they read."""

import numpy as np

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32, i64
from graphc.lowering.loop_body import Body
from graphc.lowering.lower import lower
from graphc.lowering.tile import SCRATCH_ELEMENTS
from graphc.testing.bodies import assert_close, run_body

N, S = symbol("n"), symbol("s")


def check(graph: Graph, *shapes: tuple[int, ...], kind: str = "loop") -> Body:
    """The body of a graph, after its results were compared with the interpreter's on random inputs."""
    rng = np.random.default_rng(0)
    inputs = [
        rng.normal(size=s).astype(np.float32) if v.type.dtype == f32 else rng.integers(0, 3, s)
        for v, s in zip(graph.inputs, shapes, strict=True)
    ]
    body = lower(graph, kind)
    for y, want in zip(run_body(body, graph, inputs), interpret(graph, inputs), strict=True):
        assert_close(y, want)
    return body


def conv(b: Builder, x, w, **given):
    n = x.type.rank - 2
    a = {"strides": (1,) * n, "padding": (1,) * 2 * n, "dilation": (1,) * n, "groups": 1,
         "layout": "channels_last", "kernel_layout": "io"}  # fmt: skip
    return b.op("conv", x, w, **(a | given))


def softmax(b: Builder, x, axis):
    top = b.reduce("reduce_max", x, [axis], keep=True)
    e = b.op("exp", b.op("sub", x, top))
    return b.op("div", e, b.reduce("reduce_sum", e, [axis], keep=True))


def layer_norm(b: Builder, x, scale, bias):
    size = x.type.shape[-1]
    axis = x.type.rank - 1
    mean = b.op("mul", b.reduce("reduce_sum", x, [axis]), b.full(1 / size, x.type.with_shape(x.type.shape[:-1])))
    d = b.op("sub", x, b.broadcast(mean, x.type.shape, range(axis)))
    square = b.reduce("reduce_sum", b.op("mul", d, d), [axis])
    variance = b.op("mul", square, b.full(1 / size, square.type))
    r = b.op("rsqrt", b.op("add", variance, b.full(1e-5, square.type)))
    y = b.op("mul", d, b.broadcast(r, x.type.shape, range(axis)))
    y = b.op("mul", y, b.broadcast(scale, x.type.shape, [axis]))
    return b.op("add", y, b.broadcast(bias, x.type.shape, [axis]))


def test_convolution_with_bias_residual_and_relu():
    b = Builder()
    x, w = b.input("x", f32, (N, 8, 8, 4)), b.input("w", f32, (3, 3, 4, 6))
    bias, r = b.input("b", f32, (6,)), b.input("r", f32, (N, 8, 8, 6))
    y = conv(b, x, w)
    y = b.op("add", b.op("add", y, b.broadcast(bias, y.type.shape, [3])), r)
    body = check(b.returns(b.op("max", y, b.full_like(0, y))), (2, 8, 8, 4), (3, 3, 4, 6), (6,), (2, 8, 8, 6))
    assert str(body) == """\
body kernel(%0: f32[n,8,8,4] in, %1: f32[3,3,4,6] in, %2: f32[6] in, %3: f32[n,8,8,6] in, %4: f32[n,8,8,6] out) {
  for i0 in n parallel, i1 in 8 parallel, i2 in 8 parallel, i3 in 6 parallel, i4 in 3 reduction, i5 in 3 reduction, i6 in 4 reduction {
    v0: f32 = load %0[i0, i1 + i4 - 1, i2 + i5 - 1, i6] if 0 <= i1 + i4 - 1 < 8 and 0 <= i2 + i5 - 1 < 8 else 0.0
    v1: f32 = load %1[i4, i5, i6, i3]
    v2: f32 = mul.f32 v0, v1
    v3: f32 = reduce sum v2
    v4: f32 = load %2[i3]
    v5: f32 = add.f32 v3, v4
    v6: f32 = load %3[i0, i1, i2, i3]
    v7: f32 = add.f32 v5, v6
    v8: f32 = max.f32 v7, 0.0
    store %4[i0, i1, i2, i3] = v8
  }
}
"""  # noqa: E501


def test_softmax():
    b = Builder()
    x = b.input("x", f32, (N, 5, S))
    body = check(b.returns(softmax(b, x, 2)), (2, 5, 7), kind="tile")
    assert str(body) == """\
tile kernel(%0: f32[5*n,s] in, %1: f32[5*n,s] out, %2: f32[] scratch, %3: f32[s] scratch, %4: f32[] scratch) {
  for i0 in 5*n parallel {
    for i1 in s reduction {
      v0: f32 = load %0[i0, i1]
      v1: f32 = reduce max v0
      store %2[] = v1
    }
    for i1 in s reduction {
      v0: f32 = load %0[i0, i1]
      v1: f32 = load %2[]
      v2: f32 = sub.f32 v0, v1
      v3: f32 = exp.f32 v2
      store %3[i1] = v3
      v4: f32 = reduce sum v3
      store %4[] = v4
    }
    for i1 in s parallel {
      v0: f32 = load %3[i1]
      v1: f32 = load %4[]
      v2: f32 = div.f32 v0, v1
      store %1[i0, i1] = v2
    }
  }
}
"""


def test_a_long_row_is_computed_again_instead_of_kept():
    b = Builder()
    x = b.input("x", f32, (2, SCRATCH_ELEMENTS + 1))
    body = check(b.returns(softmax(b, x, 1)), (2, SCRATCH_ELEMENTS + 1), kind="tile")
    assert [x.type.size for x in body.buffers if x.access == "scratch"] == [1, 1]
    assert str(body).count("exp.f32") == 2


def test_layer_norm():
    b = Builder()
    x, scale, bias = b.input("x", f32, (N, S, 64)), b.input("scale", f32, (64,)), b.input("bias", f32, (64,))
    body = check(b.returns(layer_norm(b, x, scale, bias)), (2, 3, 64), (64,), (64,), kind="tile")
    assert str(body) == """\
tile kernel(%0: f32[n*s,64] in, %1: f32[64] in, %2: f32[64] in, %3: f32[n*s,64] out, %4: f32[] scratch, %5: f32[] scratch) {
  for i0 in n*s parallel {
    for i1 in 64 reduction {
      v0: f32 = load %0[i0, i1]
      v1: f32 = reduce sum v0
      v2: f32 = mul.f32 v1, 0.015625
      store %4[] = v2
    }
    for i1 in 64 reduction {
      v0: f32 = load %0[i0, i1]
      v1: f32 = load %4[]
      v2: f32 = sub.f32 v0, v1
      v3: f32 = mul.f32 v2, v2
      v4: f32 = reduce sum v3
      v5: f32 = mul.f32 v4, 0.015625
      v6: f32 = add.f32 v5, 9.999999747378752e-06
      v7: f32 = rsqrt.f32 v6
      store %5[] = v7
    }
    for i1 in 64 parallel {
      v0: f32 = load %0[i0, i1]
      v1: f32 = load %4[]
      v2: f32 = sub.f32 v0, v1
      v3: f32 = load %5[]
      v4: f32 = mul.f32 v2, v3
      v5: f32 = load %1[i1]
      v6: f32 = mul.f32 v4, v5
      v7: f32 = load %2[i1]
      v8: f32 = add.f32 v6, v7
      store %3[i0, i1] = v8
    }
  }
}
"""


def test_heads_of_attention():
    b = Builder()
    x, w, bias = b.input("x", f32, (N, S, 24)), b.input("w", f32, (24, 24)), b.input("b", f32, (24,))
    y = b.op("dot", b.reshape(x, (N * S, 24)), w, lhs_contract=(1,), rhs_contract=(0,))
    y = b.op("add", y, b.broadcast(bias, y.type.shape, [1]))
    y = b.transpose(b.reshape(y, (N, S, 4, 6)), (0, 2, 1, 3))
    body = check(b.returns(y), (2, 5, 24), (24, 24), (24,))
    assert str(body) == """\
body kernel(%0: f32[n,s,24] in, %1: f32[24,24] in, %2: f32[24] in, %3: f32[n,4,s,6] out) {
  for i0 in n parallel, i1 in s parallel, i2 in 4 parallel, i3 in 6 parallel, i4 in 24 reduction {
    v0: f32 = load %0[i0, i1, i4]
    v1: f32 = load %1[i4, 6*i2 + i3]
    v2: f32 = mul.f32 v0, v1
    v3: f32 = reduce sum v2
    v4: f32 = load %2[6*i2 + i3]
    v5: f32 = add.f32 v3, v4
    store %3[i0, i2, i1, i3] = v5
  }
}
"""


def test_group_norm():
    b = Builder()
    x, scale = b.input("x", f32, (N, 6, 4, 5)), b.input("scale", f32, (6,))
    g = b.reshape(x, (N, 2, 60))
    top = b.reduce("reduce_max", g, [2], keep=True)
    y = b.reshape(b.op("sub", g, top), x.type.shape)
    y = b.op("mul", y, b.broadcast(scale, x.type.shape, [1]))
    body = check(b.returns(y), (2, 6, 4, 5), (6,), kind="tile")
    assert str(body) == """\
tile kernel(%0: f32[n,120] in, %1: f32[6] in, %2: f32[n,6,20] out, %3: f32[] scratch) {
  for i0 in n parallel, i1 in 2 parallel {
    for i2 in 60 reduction {
      v0: f32 = load %0[i0, 60*i1 + i2]
      v1: f32 = reduce max v0
      store %3[] = v1
    }
    for i2 in 3 parallel, i3 in 20 parallel {
      v0: f32 = load %0[i0, 60*i1 + 20*i2 + i3]
      v1: f32 = load %3[]
      v2: f32 = sub.f32 v0, v1
      v3: f32 = load %1[3*i1 + i2]
      v4: f32 = mul.f32 v2, v3
      store %2[i0, 3*i1 + i2, i3] = v4
    }
  }
}
"""


def test_gather_with_epilogue():
    b = Builder()
    t, i, p = b.input("t", f32, (11, 8)), b.input("i", i64, (N, S)), b.input("p", f32, (S, 8))
    y = b.op("gather", t, i, axis=0)
    y = b.op("add", y, b.broadcast(p, y.type.shape, [1, 2]))
    body = check(b.returns(y), (11, 8), (2, 3), (3, 8))
    assert str(body) == """\
body kernel(%0: f32[11,8] in, %1: i64[n,s] in, %2: f32[s,8] in, %3: f32[n,s,8] out) {
  for i0 in n parallel, i1 in s parallel, i2 in 8 parallel {
    v0: i64 = load %1[i0, i1]
    v1: f32 = load %0[v0, i2] checked [0]
    v2: f32 = load %2[i1, i2]
    v3: f32 = add.f32 v1, v2
    store %3[i0, i1, i2] = v3
  }
}
"""


def test_packed_weights():
    b = Builder()
    x, w = b.input("x", f32, (N, 24)), b.input("w", f32, (2, 24, 16))
    unpacked = b.op("slice", b.reshape(b.transpose(w, (1, 0, 2)), (24, 32)), starts=(0, 0), limits=(24, 20), strides=(1, 1))
    y = b.op("dot", x, unpacked, lhs_contract=(1,), rhs_contract=(0,))
    body = check(b.returns(y), (5, 24), (2, 24, 16))
    assert str(body) == """\
body kernel(%0: f32[n,24] in, %1: f32[2,24,16] in, %2: f32[n,20] out) {
  for i0 in n parallel, i1 in 20 parallel, i2 in 24 reduction {
    v0: f32 = load %0[i0, i2]
    v1: f32 = load %1[((i1)//16), i2, ((i1)%16)]
    v2: f32 = mul.f32 v0, v1
    v3: f32 = reduce sum v2
    store %2[i0, i1] = v3
  }
}
"""


def test_depthwise_convolution():
    b = Builder()
    x, w = b.input("x", f32, (N, 6, 8, 8)), b.input("w", f32, (12, 3, 3, 3))
    y = conv(b, x, w, groups=2, layout="channels_first", kernel_layout="oi", strides=(2, 2))
    body = check(b.returns(y), (2, 6, 8, 8), (12, 3, 3, 3))
    assert str(body) == """\
body kernel(%0: f32[n,6,8,8] in, %1: f32[12,3,3,3] in, %2: f32[n,12,4,4] out) {
  for i0 in n parallel, i1 in 2 parallel, i2 in 6 parallel, i3 in 4 parallel, i4 in 4 parallel, i5 in 3 reduction, i6 in 3 reduction, i7 in 3 reduction {
    v0: f32 = load %0[i0, 3*i1 + i5, 2*i3 + i6 - 1, 2*i4 + i7 - 1] if 0 <= 2*i3 + i6 - 1 < 8 and 0 <= 2*i4 + i7 - 1 < 8 else 0.0
    v1: f32 = load %1[6*i1 + i2, i5, i6, i7]
    v2: f32 = mul.f32 v0, v1
    v3: f32 = reduce sum v2
    store %2[i0, 6*i1 + i2, i3, i4] = v3
  }
}
"""  # noqa: E501
