"""`exe.explain()`: everything that compilation did, in the user's own names."""

import json

import numpy as np
import pytest

import graphc
from graphc.explain import describe
from graphc.ir.types import f32

TEXT = """
graph @net(%x: f32[batch,6], %z: f32[rows,6], %u: f32[6,5], %v: f32[5,4]) where batch <= 8, batch == rows {
  %s: f32[rows,6] = add(%x, %z) from "sum"
  %a: f32[rows,5] = matmul(%s, %u) from "fc1"
  %b: f32[rows,5] = relu(%a) from "act1"
  %c: f32[rows,4] = matmul(%b, %v) from "fc2"
  %d: f32[rows,4] = relu(%c) from "act2"
  return %d
}
"""


@pytest.fixture(scope="module")
def net() -> graphc.Executable:
    return graphc.compile(graphc.parse_graph(TEXT), cache=False)


def test_every_part_is_told(net: graphc.Executable) -> None:
    text = net.explain()
    assert text.startswith("net on llvm, fast numerics\n")
    assert "x: f32[batch,6]" in text
    for record in net.report.passes:
        assert f"  {record['name']}" in text
    for kernel in net.kernels:
        assert kernel.name in text
    assert f"{net.memory.peak:,} bytes" in text
    assert "dynamic dims at their smallest" in text
    assert "batch == rows" in text


def test_a_kernel_names_its_own_layers_alone(net: graphc.Executable) -> None:
    """Both activations compare with one and the same zero, after merging."""
    assert [o for k in net.kernels for o in k.origin if o.startswith("act")] == ["act1", "act2"]
    (fc1,) = (k for k in net.kernels if "fc1" in k.origin)
    assert "act2" not in fc1.origin
    assert "fc2" not in fc1.origin


def test_refusals_come_with_reasons() -> None:
    b = graphc.Builder(graphc.Graph("shared"))
    rng = np.random.default_rng(0)
    b.origin = ("conv",)
    x = b.input("x", f32, (1, 3, 8, 8))
    w = b.constant(rng.standard_normal((4, 3, 3, 3)).astype(np.float32))
    y = b.op("conv", x, w, strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), layout="channels_first", kernel_layout="oi")
    b.origin = ("norm",)
    parameters = [b.constant(np.full(4, v, np.float32)) for v in (1.5, 0.5, 0.25, 2.0)]
    z = b.op("batch_norm", y, *parameters, axis=1, epsilon=1e-5)
    graph = b.returns(z, y)  # the convolution's own result is used too: the norm can't be folded into it
    executable = graphc.compile(graph, cache=False)
    told = [r for r in describe(executable)["refusals"] if r.startswith("fold-batch-norm")]
    assert told
    assert "used elsewhere" in told[0]
    assert "norm" in told[0]
    assert told[0] in executable.explain()


def test_it_is_json(net: graphc.Executable) -> None:
    assert json.loads(json.dumps(describe(net)))["graph"] == "net"


def test_a_program_from_the_cache_says_so(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    first = graphc.compile(graphc.parse_graph(TEXT))
    second = graphc.compile(graphc.parse_graph(TEXT))
    assert not first.report.cached
    assert second.report.cached
    assert "from the cache" in second.explain()
    assert [k.name for k in second.kernels] == [k.name for k in first.kernels]


def test_layers_with_equal_weights_keep_their_kernels_apart() -> None:
    """Biases of an untrained model are all zero: one constant, once merged."""
    b = graphc.Builder(graphc.Graph("untrained"))
    rng = np.random.default_rng(0)
    x = b.input("x", f32, (4, 16))
    for layer in ("fc1", "fc2", "fc3"):
        b.origin = (layer,)
        product = b.op("matmul", x, b.constant(rng.standard_normal((16, 16)).astype(np.float32)))
        bias = b.broadcast(b.constant(np.zeros(16, np.float32)), (4, 16), (1,))
        x = b.op("tanh", b.op("add", product, bias))
    executable = graphc.compile(b.returns(x), cache=False)
    assert [k.origin for k in executable.kernels] == [("fc1",), ("fc2",), ("fc3",)]
