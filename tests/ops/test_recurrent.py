"""Recurrent layers against onnxruntime's and PyTorch's, and their gradients through time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphc.errors import ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.opdef import Inference
from graphc.ir.symbolic import symbol
from graphc.ir.types import dtype_of, f32, tensor
from graphc.ops import find_operator

S, B, K, H = 5, 2, 3, 4


def layer(gates: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {"x": (S, B, K), "w": (gates * H, K), "r": (gates * H, H), "wb": (gates * H,), "rb": (gates * H,),
              "h0": (B, H), "c0": (B, H)}  # fmt: skip
    return {k: rng.normal(size=s).astype(dtype) for k, s in shapes.items()}


def onnx_inputs(v: dict[str, np.ndarray], *states: str) -> list:
    bias = np.concatenate((v["wb"], v["rb"]))
    return [v["x"], v["w"][None], v["r"][None], bias[None], None, *(v[s][None] for s in states)]


def close(seen, expected, tolerance: float) -> None:
    for s, e in zip(seen, expected, strict=True):
        np.testing.assert_allclose(s, np.asarray(e).reshape(s.shape), atol=tolerance)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_lstm_equals_onnxruntime(run_onnx, direction: str) -> None:
    v = layer(4)
    expected = run_onnx("LSTM", onnx_inputs(v, "h0", "c0"), results=3, hidden_size=H, direction=direction)
    operands = (v["x"], v["w"], v["r"], v["wb"] + v["rb"], v["h0"], v["c0"])
    close(find_operator("lstm").reference(operands, {"reverse": direction == "reverse"}), expected, 2e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("linear", [0, 1])
def test_gru_equals_onnxruntime(run_onnx, linear: int, direction: str) -> None:
    v = layer(3)
    expected = run_onnx(
        "GRU", onnx_inputs(v, "h0"), results=2, hidden_size=H, direction=direction, linear_before_reset=linear
    )
    operands = [v[k] for k in ("x", "w", "r", "wb", "rb", "h0")]
    a = {"reverse": direction == "reverse", "linear_before_reset": bool(linear)}
    close(find_operator("gru").reference(operands, a), expected, 2e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("activation", ["Tanh", "Relu"])
def test_rnn_equals_onnxruntime(run_onnx, activation: str, direction: str) -> None:
    v = layer(1)
    expected = run_onnx(
        "RNN", onnx_inputs(v, "h0"), results=2, hidden_size=H, direction=direction, activations=[activation]
    )
    operands = (v["x"], v["w"], v["r"], v["wb"] + v["rb"], v["h0"])
    a = {"reverse": direction == "reverse", "activation": activation.lower()}
    close(find_operator("rnn").reference(operands, a), expected, 1e-5)


def test_lstm_gradients_equal_torch_in_f64() -> None:
    v = layer(4, np.float64)
    operands = [v["x"], v["w"], v["r"], v["wb"], v["h0"], v["c0"]]
    cotangents = [np.random.default_rng(i).normal(size=s) for i, s in enumerate(((S, B, H), (B, H), (B, H)))]
    b = Builder()
    values = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate(operands)]
    node = b.emit("lstm", values)
    given = [b.input(f"g{i}", dtype_of(g), g.shape) for i, g in enumerate(cotangents)]
    graph = b.returns(*node.results, *find_operator("lstm").vjp(b, node, given))
    seen = interpret(graph, [*operands, *cotangents])

    tensors = [torch.from_numpy(x).requires_grad_() for x in operands]
    x, w, r, bias, h0, c0 = tensors

    def torch_order(t: torch.Tensor) -> torch.Tensor:
        """Gates i, o, f, c as PyTorch's i, f, c, o."""
        i, o, f, c = t.chunk(4)
        return torch.cat((i, f, c, o))

    weights = [torch_order(w), torch_order(r), torch_order(bias), torch.zeros(4 * H, dtype=torch.float64)]
    y, h, c = torch.lstm(x, (h0[None], c0[None]), weights, True, 1, 0.0, True, False, False)
    results = (y, h[0], c[0])
    gradients = torch.autograd.grad(results, tensors, [torch.from_numpy(g) for g in cotangents])
    close(seen, [t.detach().numpy() for t in (*results, *gradients)], 1e-12)


def test_symbolic_length_and_batch() -> None:
    s, n = symbol("s"), symbol("n")
    b = Builder()
    v = layer(4)
    shapes = {"x": (s, n, K), "w": (4 * H, K), "r": (4 * H, H), "wb": (4 * H,), "h0": (n, H), "c0": (n, H)}
    operands = [b.input(k, f32, shape) for k, shape in shapes.items()]
    node = b.emit("lstm", operands)
    assert [r.type for r in node.results] == [tensor(f32, s, n, H), tensor(f32, n, H), tensor(f32, n, H)]
    assert not b.graph.guards
    b.graph.set_outputs(node.op.decompose(b, node))
    b.graph.erase(node)
    arrays = [v[k] for k in shapes]
    close(interpret(b.graph, arrays), find_operator("lstm").reference(arrays, {"reverse": False}), 2e-6)


def test_refuses_other_gates() -> None:
    types = [tensor(f32, *s) for s in ((S, B, K), (3 * H, K), (4 * H, H), (4 * H,), (B, H), (B, H))]
    with pytest.raises(ShapeError, match="4 gates"):
        find_operator("lstm").infer(Inference(), types, {})
