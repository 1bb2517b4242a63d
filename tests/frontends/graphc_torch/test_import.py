"""What becomes of a module besides its operators: names, dims, parameters, state, outputs, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphc
from graphc.errors import ModelError, ShapeError, UnsupportedOpError
from graphc.ir.graph import Graph


class Tied(nn.Module):
    """Two linear layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def constants(graph: Graph) -> list[np.ndarray]:
    return [n["value"].array for n in graph.nodes if n.op.name == "constant"]


def imported(function: Any, *shape: int, dynamic: Any = None) -> Graph:
    return graphc.import_model(Function(function), example_inputs=(torch.randn(*shape),), dynamic=dynamic)


# Parameters and buffers


def test_tied_parameters_are_one_constant_over_the_same_memory() -> None:
    module = Tied()
    (weight,) = constants(graphc.import_model(module, example_inputs=(torch.randn(2, 4),)))
    assert weight.ctypes.data == module.first.weight.data_ptr()
    assert module.first.weight.requires_grad and module.first.weight.detach().numpy().flags.writeable


def test_parameters_of_bfloat16_are_not_copied() -> None:
    module = nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    (weight,) = constants(graphc.import_model(module, example_inputs=(torch.randn(2, 4).to(torch.bfloat16),)))
    assert weight.dtype.name == "bfloat16" and weight.ctypes.data == module.weight.data_ptr()


def test_buffers_and_lifted_tensors_are_constants() -> None:
    module = nn.BatchNorm1d(4).eval()
    table = torch.arange(4.0)
    graph = graphc.import_model(
        nn.Sequential(module, Function(lambda x: x + table)), example_inputs=(torch.randn(2, 4),)
    )
    assert [v.name for v in graph.inputs] == ["input"]
    assert any(np.array_equal(c, table.numpy()) for c in constants(graph))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x + self.count


def test_a_written_buffer_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="count"):
        graphc.import_model(Counter(), example_inputs=(torch.randn(2),))


def test_a_written_input_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="input 'x'"):
        imported(lambda x: x.add_(1), 2)


def test_training_mode_is_refused_with_the_layer() -> None:
    with pytest.raises((UnsupportedOpError, ModelError), match="eval"):
        graphc.import_model(
            nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train(), example_inputs=(torch.randn(2, 4),)
        )


# Names


def test_origins_are_paths_of_modules() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    graph = graphc.import_model(module, example_inputs=(torch.randn(2, 4),))
    assert {n.origin for n in graph.nodes if n.op.name in ("dot", "relu")} == {("0",), ("1.0",), ("1.1",)}


def test_outputs_are_named_by_what_forward_returns() -> None:
    graph = imported(lambda x: {"logits": x + 1, "states": (x * 2, None, x - 1)}, 2)
    assert [v.name for v in graph.outputs] == ["logits", "states_0", "states_2"]
    assert [v.name for v in imported(lambda x: (x + 1, x), 2).outputs] == ["output_0", "output_1"]
    assert [v.name for v in imported(lambda x: x + 1, 2).outputs] == ["output"]


def test_inputs_by_name() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, scale: torch.Tensor | None = None) -> Any:
            return x if scale is None else x * scale

    module, x, scale = Two(), torch.randn(2), torch.randn(2)
    executable = graphc.compile(module, "reference", example_inputs={"x": x, "scale": scale}, cache=False)
    assert executable.input_names == ["x", "scale"]
    torch.testing.assert_close(executable(x, scale), x * scale)


# Dims

BATCH = graphc.Dim("batch", 1, 64)


def test_dims_of_graphc_and_of_torch() -> None:
    for dim in (BATCH, torch.export.Dim("batch", min=1, max=64)):
        graph = imported(lambda x: x.reshape(-1, 2), 3, 4, dynamic={"x": {0: dim}})
        (symbol,) = graph.symbols().values()
        assert (symbol.name, symbol.low, symbol.high) == ("batch", 1, 64)
        assert graph.outputs[0].type.shape == (2 * BATCH, 2)


def test_an_example_of_size_one_stands_for_any() -> None:
    graph = imported(lambda x: x.flatten(), 1, 4, dynamic={"x": {0: BATCH}})
    assert graph.outputs[0].type.shape == (4 * BATCH,)


def test_arithmetic_of_sizes() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        return x[n // 2 :].sum() * n + torch.arange(n - n // 2)

    executable = graphc.compile(
        Function(function), "reference", example_inputs=(torch.randn(6),), dynamic={"x": {0: graphc.Dim("n", 2, 50)}},
        cache=False,
    )  # fmt: skip
    for n in (4, 5, 6, 50):
        x = torch.arange(float(n))
        torch.testing.assert_close(executable(x), function(x))


def test_conditions_on_sizes_become_guards() -> None:
    executable = graphc.compile(
        Function(lambda x: x.view(4, -1)), "reference", example_inputs=(torch.randn(8),),
        dynamic={"x": {0: graphc.Dim("n", 2, 50)}}, cache=False,
    )  # fmt: skip
    assert executable(torch.arange(12.0)).tolist() == torch.arange(12.0).view(4, 3).tolist()
    with pytest.raises(ShapeError):
        executable(torch.arange(9.0))
    executable = graphc.compile(
        Function(lambda x: x + 1 if x.shape[0] != 7 else x), "reference", example_inputs=(torch.randn(8),),
        dynamic={"x": {0: graphc.Dim("n", 2, 50)}}, cache=False,
    )  # fmt: skip
    assert executable(torch.zeros(6)).tolist() == [1.0] * 6
    with pytest.raises(ShapeError):
        executable(torch.zeros(7))


def test_one_dim_of_two_inputs() -> None:
    class Add(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    graph = graphc.import_model(
        Add(), example_inputs=(torch.randn(1, 4), torch.randn(1, 4)), dynamic={"x": {0: BATCH}, "y": {0: BATCH}}
    )
    assert graph.inputs[0].type == graph.inputs[1].type
    assert graph.outputs[0].type.shape == (BATCH, 4)


def test_an_exported_program_and_names_for_its_dims() -> None:
    dim = torch.export.Dim("n", min=2, max=32)
    program = torch.export.export(Function(lambda x: x * 2), (torch.randn(3, 4),), dynamic_shapes=({0: dim},))
    graph = graphc.import_model(program, dynamic={"x": {0: graphc.Dim("batch", 2, 16)}})
    assert str(graph.inputs[0].type) == "f32[batch,4]"
    (symbol,) = graphc.import_model(program).symbols().values()
    assert (symbol.low, symbol.high) == (2, 32)
    with pytest.raises(ModelError, match="wider range"):
        graphc.import_model(program, dynamic={"x": {0: BATCH}})
    with pytest.raises(ModelError, match="can't be named"):
        graphc.import_model(program, dynamic={"x": {1: BATCH}})


def test_conditions_of_an_exported_program_become_guards() -> None:
    module = Function(lambda x: x + 1 if x.shape[0] != 7 else x)
    program = torch.export.export(module, (torch.randn(8),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    executable = graphc.compile(program, "reference", cache=False)
    assert executable(torch.zeros(6)).tolist() == [1.0] * 6
    with pytest.raises(ShapeError):
        executable(torch.zeros(7))


def test_what_is_wrong_with_dynamic_is_told() -> None:
    with pytest.raises(ModelError, match="names no input"):
        imported(lambda x: x + 1, 2, dynamic={"y": {0: BATCH}})
    with pytest.raises(ModelError, match="names no axis"):
        imported(lambda x: x + 1, 2, dynamic={"x": {3: BATCH}})
    with pytest.raises(ModelError, match="gives no dim"):
        imported(lambda x: x + 1, 2, dynamic={"x": {0: 1.5}})
    with pytest.raises(ModelError, match="can't take the model"):
        imported(lambda x: x.view(2, 2), 4, dynamic={"x": {0: BATCH}})


# What can't be taken


def test_all_unsupported_operators_at_once_with_layer_and_reason() -> None:
    module = nn.Sequential(Function(lambda x: torch.nonzero(x).sum(0)), Function(lambda x: x + torch.rand(2)))
    with pytest.raises(UnsupportedOpError) as caught:
        graphc.import_model(module, example_inputs=(torch.randn(2, 2),))
    found = {(u.op, u.layer) for u in caught.value.unsupported}
    assert {("nonzero.default", "0"), ("rand.default", "1")} <= found
    assert "depends on the data of a run" in str(caught.value) and "random" in str(caught.value)


def test_a_module_needs_examples_that_fit() -> None:
    with pytest.raises(ModelError, match="example_inputs"):
        graphc.import_model(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="don't fit forward"):
        graphc.import_model(nn.Linear(2, 2), example_inputs=(torch.randn(2), torch.randn(2)))
    with pytest.raises(ModelError, match="no model of PyTorch"):
        graphc.import_model(torch.randn(2))


def test_a_branch_on_data_is_refused() -> None:
    with pytest.raises(ModelError, match=r"torch\.export can't take the model"):
        imported(lambda x: x + 1 if x.sum() > 0 else x, 2)


def test_other_element_types_are_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="complex64"):
        graphc.import_model(Function(lambda x: x + 1), example_inputs=(torch.zeros(2, dtype=torch.complex64),))


# Tensors in and out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_tensors_in_and_out(dtype: torch.dtype) -> None:
    x = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    executable = graphc.compile(Function(lambda x: (x, x[:, 0])), "reference", example_inputs=(x,), cache=False)
    whole, column = executable(x)
    assert whole.dtype == dtype and torch.equal(whole, x) and torch.equal(column, x[:, 0])


def test_tensors_that_are_not_contiguous() -> None:
    executable = graphc.compile(Function(lambda x: x + 1), "llvm", example_inputs=(torch.randn(3, 2),), cache=False)
    x = torch.randn(2, 3).t()
    torch.testing.assert_close(executable(x), x + 1)
    torch.testing.assert_close(executable(torch.ones(1, 2).expand(3, 2)), torch.full((3, 2), 2.0))


def test_an_input_that_requires_a_gradient_is_refused_with_what_to_do() -> None:
    executable = graphc.compile(Function(lambda x: x + 1), "reference", example_inputs=(torch.randn(2),), cache=False)
    with pytest.raises(graphc.GraphcError, match="detach"):
        executable(torch.randn(2, requires_grad=True))


def test_results_hold_their_memory_without_a_copy() -> None:
    executable = graphc.compile(Function(lambda x: x + 1), "llvm", example_inputs=(torch.randn(2),), cache=False)
    first, second = executable(torch.zeros(2)), executable(torch.ones(2))
    assert first.data_ptr() != second.data_ptr() and first.tolist() == [1, 1]


def test_the_core_and_other_plugins_leave_torch_alone() -> None:
    code = (
        "import sys, graphc, graphc_onnx, graphc_optimize, graphc_llvm.backend, graphc_reference;"
        "from graphc import plugins; plugins.listing(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
