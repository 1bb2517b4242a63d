"""torch.cond, while_loop and scan: against eager PyTorch, interpreted and compiled; gradients; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

import graphc
from graphc.errors import UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.graph import Graph
from graphc.ir.verifier import verify


def branch(condition: Any, then: Callable[..., Any], otherwise: Callable[..., Any], operands: tuple[Any, ...]) -> Any:
    """torch.cond in Python, which torch compiles anew for each call."""
    return (then if condition else otherwise)(*operands)


def loop(condition: Callable[..., Any], body: Callable[..., Any], carried: tuple[Any, ...]) -> Any:
    while condition(*carried):
        carried = body(*carried)
    return carried


def steps(body: Callable[..., Any], state: Tensor, xs: Tensor) -> Any:
    ys = []
    for x in xs:
        state, y = body(state, x)
        ys.append(y)
    return state, torch.stack(ys)


class Function(nn.Module):
    """A function of the module and tensors as a module with two layers; in Python, or by torch's operators."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self._forward = forward
        self.cond, self.while_loop, self.scan = branch, loop, steps

    def exported(self) -> Function:
        """The same, to be exported."""
        found = Function(self._forward)
        found.cond, found.while_loop, found.scan = torch.cond, while_loop, scan
        return found.train(self.training)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self._forward(self, x, y)


def agree(forward: Callable[..., Any], *feeds: tuple[Tensor, Tensor], dynamic: Any = None) -> Graph:
    module = Function(forward).eval()
    graph = graphc.import_model(module.exported(), example_inputs=feeds[0], dynamic=dynamic)
    verify(graph)
    compiled = graphc.compile(graph, cache=False)
    for feed in feeds:
        with torch.no_grad():
            expected = module(*feed)
        expected = [t.numpy() for t in (expected if isinstance(expected, tuple) else (expected,))]
        arrays = [t.numpy() for t in feed]
        outputs = compiled(*arrays)
        for found in (interpret(graph, arrays), outputs if isinstance(outputs, tuple) else (outputs,)):
            for seen, wanted in zip(found, expected, strict=True):
                assert seen.dtype == wanted.dtype
                np.testing.assert_allclose(seen, wanted, rtol=1e-5, atol=1e-6)
    return graph


def floats(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def operators(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


def gated(m: Function, x: Tensor, y: Tensor) -> Tensor:
    return m.cond(x.sum() > 0, lambda x, y: m.a(x).relu() * y, lambda x, y: m.b(x).sin() + y, (x, y))


def test_a_branch() -> None:
    x = floats(2, 4).abs()
    graph = agree(gated, (x, floats(2, 4)), (-x, floats(2, 4)))
    (gate,) = (n for n in graph.nodes if n.op.name == "if")
    assert gate.origin[0].startswith("cond") and all(o.startswith("cond") for n in gate["then"].nodes for o in n.origin)


def test_a_branch_in_a_branch_for_any_batch() -> None:
    def forward(m: Function, x: Tensor, y: Tensor) -> Tensor:
        def inner(x: Tensor, y: Tensor) -> Tensor:
            return m.cond(y.sum() > 0, lambda x: m.a(x) * x.shape[0], lambda x: x.cos(), (x,))

        return m.cond(x.sum() > 0, inner, lambda x, y: torch.zeros(x.shape[0], 1) + y, (x, y))

    x, y = floats(3, 4).abs(), floats(3, 4).abs()
    batch = {"x": {0: graphc.Dim("n", 2, 9)}, "y": {0: graphc.Dim("n", 2, 9)}}
    feeds = [(s * x, t * y) for s in (1, -1) for t in (1, -1)]
    agree(forward, *feeds, (x[:2], y[:2]), dynamic=batch)


def test_sizes_choose_a_branch() -> None:
    def forward(m: Function, x: Tensor, y: Tensor) -> Tensor:
        return m.cond(x.shape[0] > 4, lambda x, y: x * y, lambda x, y: x - y, (x, y))

    batch = {"x": {0: graphc.Dim("n", 2, 9)}, "y": {0: graphc.Dim("n", 2, 9)}}
    agree(forward, (floats(3, 4), floats(3, 4)), (floats(7, 4), floats(7, 4)), dynamic=batch)


def grown(m: Function, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Layer a until an element is above 5, at most 20 times."""

    def going_on(i: Tensor, h: Tensor) -> Tensor:
        return (h.abs().max() < 5) & (i < 20)

    return m.while_loop(going_on, lambda i, h: (i + 1, m.a(h) * 2 + h + y), (torch.tensor(0), x))


def test_a_loop() -> None:
    graph = agree(
        grown, (floats(2, 4), floats(2, 4)), (floats(2, 4) * 1000, floats(2, 4)), (floats(2, 4), floats(2, 4) * 9)
    )
    assert "while" in operators(graph)


def scanned(m: Function, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    def step(c: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        after = torch.tanh(m.a(c) + v)
        return after, after * 2

    return m.scan(step, y, x)


def test_a_scan_over_any_length() -> None:
    dynamic = {"x": {0: graphc.Dim("time", 2, 50)}}
    graph = agree(scanned, (floats(6, 2, 4), floats(2, 4)), (floats(3, 2, 4), floats(2, 4)), dynamic=dynamic)
    assert "scan" in operators(graph) and str(graph.outputs[1].type) == "f32[time,2,4]"


@pytest.mark.parametrize("forward", [gated, scanned])
def test_a_training_step_goes_through(forward: Callable[..., Any]) -> None:
    """One step of SGD changes the parameters as torch's autograd says."""

    def last(m: Function, x: Tensor, y: Tensor) -> Tensor:
        found = forward(m, x, y)
        return found[0] if isinstance(found, tuple) else found

    module = Function(last).train()
    x = floats(3, 2, 4) if forward is scanned else floats(2, 4).abs()
    y, target = floats(2, 4), floats(2, 4) * 2
    step = graphc.compile_training(
        module.exported(), loss="mse", optimizer=graphc.SGD(0.1), example_inputs=(x.numpy(), y.numpy(), target.numpy())
    )
    expected = torch.nn.functional.mse_loss(module(x, y), target)
    expected.backward()
    assert abs(float(step(x.numpy(), y.numpy(), target.numpy())) - expected.item()) < 1e-6
    for name, parameter in module.named_parameters():
        if name in step.parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            wanted = (parameter - 0.1 * gradient).detach().numpy()
            np.testing.assert_allclose(step.parameters[name], wanted, rtol=1e-5, atol=1e-6)


def test_what_a_region_cannot_do_is_told_with_its_layer() -> None:
    def forward(m: Function, x: Tensor, y: Tensor) -> Tensor:
        return m.cond(x.sum() > 0, lambda x: torch.linalg.det(x), lambda x: x.sum(), (x,))

    with pytest.raises(UnsupportedOpError) as raised:
        graphc.import_model(Function(forward).eval().exported(), example_inputs=(floats(4, 4), floats(4, 4)))
    assert all(u.layer.startswith("cond/") for u in raised.value.unsupported)


def test_a_loop_over_data_has_no_gradient_without_a_bound() -> None:
    graph = graphc.import_model(Function(grown).eval().exported(), example_inputs=(floats(2, 4), floats(2, 4)))
    with pytest.raises(UnsupportedOpError, match="no static bound"):
        graphc.grad(graph)
