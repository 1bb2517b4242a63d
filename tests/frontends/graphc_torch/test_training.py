"""Modules to train: outputs, gradients of all parameters, and what forward writes, against torch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import graphc
from graphc.autodiff import value_and_grad
from graphc.errors import GraphcError, ModelError
from graphc.interpreter import interpret
from graphc.ir.graph import Graph
from graphc.ir.verifier import verify
from graphc.training.trainable import Trainable
from graphc_torch import import_training

KEY = np.array([3, 1], np.int64)


def summed(trainable: Trainable, seed: int = 0) -> Graph:
    """The trainable's graph with the sum of its float outputs, weighted at random, in their place."""
    graph, _ = trainable.graph.clone()
    b = graphc.Builder(graph)
    outputs = graph.outputs[: len(graph.outputs) - len(trainable.state)]
    total = None
    for i, y in enumerate(v for v in outputs if v.type.dtype.is_float):
        weights = np.random.default_rng(seed + i).normal(size=y.type.shape)
        weighted = b.op("mul", y, b.constant(np.asarray(weights, y.type.dtype.numpy)))
        part = b.op("reduce_sum", weighted, axes=tuple(range(y.type.rank)))
        total = part if total is None else b.op("add", total, part)
    assert total is not None
    graph.set_outputs([total, *(b.op("stop_gradient", v) for v in graph.outputs[len(outputs) :])])
    return graph


def torch_sum(outputs: Any, seed: int = 0) -> torch.Tensor:
    tensors = [t for t in pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    weights = [np.asarray(np.random.default_rng(seed + i).normal(size=t.shape)) for i, t in enumerate(tensors)]
    return sum((t * torch.from_numpy(w).to(t.dtype)).sum() for t, w in zip(tensors, weights, strict=True))  # type: ignore[return-value]


def step(trainable: Trainable, inputs: Sequence[Any], key: np.ndarray = KEY) -> tuple[float, dict, dict]:
    """The weighted sum of the outputs, the gradients of parameters, the state afterwards."""
    graph = summed(trainable)
    names = [v.name for v in graph.inputs[trainable.data : trainable.data + len(trainable.parameters)]]
    joint = value_and_grad(graph, names)
    arrays = [np.asarray(x) for x in inputs]
    arrays += [*trainable.parameters.values(), *trainable.state.values(), *([key] if trainable.random else [])]
    value, *rest = interpret(joint, arrays)
    n = len(trainable.state)
    return (
        float(value),
        dict(zip(trainable.parameters, rest[n:], strict=True)),
        dict(zip(trainable.state, rest[:n], strict=True)),
    )


def agrees(module: nn.Module, inputs: Any, bound: float = 1e-9) -> Trainable:
    """Compares one step of a module that draws no random numbers with torch's."""
    trainable = import_training(module, example_inputs=inputs)
    verify(trainable.graph)
    assert not trainable.random
    twin = copy.deepcopy(module)
    expected = torch_sum(twin(**inputs) if isinstance(inputs, dict) else twin(*inputs))
    expected.backward()
    value, gradients, state = step(trainable, list(inputs.values()) if isinstance(inputs, dict) else inputs)
    assert abs(value - float(expected.detach())) <= bound * max(1, abs(value))
    wanted = {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}
    assert gradients.keys() == wanted.keys()
    scale = max(float(np.abs(g).max()) for g in wanted.values())
    for name, g in gradients.items():
        np.testing.assert_allclose(g, wanted[name], rtol=0, atol=bound * scale, err_msg=name)
    written = {name: s for name, s in twin.named_buffers() if name in state}
    for name, s in state.items():
        np.testing.assert_allclose(s, written[name].numpy(), rtol=bound, atol=bound, err_msg=name)
    return trainable


class Net(nn.Module):
    """Modules by name, and what forward makes of them."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.BatchNorm2d(8, momentum=0.3, affine=False), nn.SiLU(),
        nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.LayerNorm(5), nn.LogSoftmax(1),
    )  # fmt: skip


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), lambda: (torch.randn(4, 6),)),
    "convolutions": (convolutions, lambda: (torch.randn(3, 3, 8, 8),)),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), lambda: (torch.randn(3, 4, 5, 6),)),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)), lambda: (torch.randn(4, 6),)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(4), lambda: (torch.randn(5, 4) * 3 + 1,)),
    "lstm": (lambda: Net(lambda m, x: m.o(m.l(x)[0][:, -1]), l=nn.LSTM(4, 5, batch_first=True), o=nn.Linear(5, 3)),
             lambda: (torch.randn(2, 3, 4),)),
    "gru": (lambda: nn.GRU(4, 3, 2, bidirectional=True), lambda: (torch.randn(3, 2, 4),)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True),
                lambda: (torch.randn(2, 3, 8),)),
    "attention": (lambda: Net(lambda m, x: m.a(x, x, x), a=nn.MultiheadAttention(8, 2, batch_first=True)),
                  lambda: (torch.randn(2, 3, 8),)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_gradients_and_statistics_are_torchs(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = CASES[name]
    agrees(make().double(), tuple(x.double() for x in inputs()))


def test_gradients_in_f32() -> None:
    torch.manual_seed(0)
    agrees(convolutions(), (torch.randn(3, 3, 8, 8),), 1e-4)


def test_a_module_in_evaluation_mode_is_trained_as_it_is() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).double()
    module[1].running_mean.uniform_()  # type: ignore[union-attr, operator]
    trainable = agrees(module.eval(), (torch.randn(4, 4).double(),))
    assert not trainable.state and not trainable.random
    encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).double().eval()
    agrees(encoder, (torch.randn(2, 3, 8).double(),))


def test_a_model_that_returns_its_loss() -> None:
    import transformers as T

    torch.manual_seed(0)
    module = T.BertForSequenceClassification(T.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, num_labels=3,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).double().train()  # fmt: skip
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0]])  # 0 pads: its row learns nothing
    agrees(module, {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([1, 2])})


# Parameters, buffers


def test_tied_parameters_are_one_under_its_first_name() -> None:
    net = Net(lambda m, x: m.o(torch.tanh(m.e(x))), e=nn.Embedding(7, 4, padding_idx=2), o=nn.Linear(4, 7, bias=False))
    net.o.weight = net.e.weight  # type: ignore[union-attr, assignment]
    trainable = agrees(net.double(), (torch.tensor([[1, 2], [6, 2]]),))
    assert list(trainable.parameters) == ["e.weight"]


def test_frozen_parameters_are_constants_and_unread_ones_left_out() -> None:
    net = Net(lambda m, x: m.b(m.a(x)), a=nn.Linear(3, 3), b=nn.Linear(3, 2), unread=nn.Linear(3, 3)).double()
    net.a.requires_grad_(False)  # type: ignore[union-attr, operator]
    trainable = agrees(net, (torch.randn(2, 3).double(),))
    assert list(trainable.parameters) == ["b.weight", "b.bias"]


def test_what_is_computed_without_gradients_passes_none() -> None:
    def forward(m: Any, x: torch.Tensor) -> Any:
        with torch.no_grad():
            teacher = m.t(x)
            m.mean.mul_(0.9).add_(teacher.mean(0), alpha=0.1)
        student = m.s(x)
        return student * teacher, teacher, m.t(x).detach() + m.s(x) + m.mean

    net = Net(forward, s=nn.Linear(3, 3), t=nn.Linear(3, 3))
    net.register_buffer("mean", torch.ones(3))
    trainable = import_training(net.double(), example_inputs=(torch.randn(2, 3).double(),))
    assert list(trainable.state) == ["mean"]
    _, gradients, state = step(trainable, (x := torch.randn(2, 3).double(),))
    twin = copy.deepcopy(net)
    torch_sum(twin(x)).backward()
    assert twin.t.weight.grad is None  # type: ignore[union-attr]
    assert not gradients["t.weight"].any()
    np.testing.assert_allclose(gradients["s.weight"], twin.s.weight.grad, rtol=1e-12)  # type: ignore[union-attr]
    np.testing.assert_allclose(state["mean"], twin.mean, rtol=1e-12)  # type: ignore[arg-type]


def test_inputs_come_first_then_parameters_state_and_the_key() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    trainable = import_training(net, example_inputs=(np.zeros((2, 3), np.float32),), dynamic={"input": {0: "batch"}})
    assert [v.name for v in trainable.graph.inputs] == [
        "input", "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
        "random_key",
    ]  # fmt: skip
    assert trainable.data == 1 and trainable.random
    assert [str(v.type) for v in trainable.graph.outputs] == ["f32[batch,3]", "f32[3]", "f32[3]", "i64[]"]
    assert list(trainable.state) == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]


# Inference and writing back


def test_inference_is_the_module_in_evaluation_mode_with_the_trained_values() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 2))
    net[4].eval()
    x = torch.randn(2, 2, 4, 4)
    trainable = import_training(net, example_inputs=(x,))
    values = {k: v + v.dtype.type(1) for k, v in (trainable.parameters | trainable.state).items()}
    before = {k: v.clone() for k, v in net.state_dict().items()}
    graph = trainable.inference(values)
    assert net.training and net[1].training and not net[4].training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    trainable.write_back(values)
    assert all(np.array_equal(v.numpy(), values[k]) for k, v in net.state_dict().items())
    with torch.no_grad():
        expected = net.eval()(x).numpy()
    np.testing.assert_allclose(interpret(graph, [x.numpy()])[0], expected, rtol=1e-4, atol=1e-4)


def test_values_must_fit() -> None:
    trainable = import_training(nn.Linear(3, 2), example_inputs=(torch.zeros(1, 3),))
    with pytest.raises(GraphcError, match="lack"):
        trainable.write_back({"weight": np.zeros((2, 3), np.float32)})
    with pytest.raises(GraphcError, match="another type"):
        trainable.inference({"weight": np.zeros((2, 3)), "bias": np.zeros(2, np.float32)})


def test_small_floats_are_written_back() -> None:
    module = nn.Linear(2, 2).to(torch.bfloat16)
    trainable = import_training(module, example_inputs=(torch.zeros(1, 2, dtype=torch.bfloat16),))
    trainable.write_back({k: v * v.dtype.type(2) for k, v in trainable.parameters.items()})
    assert np.array_equal(module.weight.detach().float().numpy(), 2 * trainable.parameters["weight"].astype(np.float32))


def test_exported_programs() -> None:
    module, x = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double(), torch.randn(4, 3).double()
    trainable = import_training(torch.export.export(module, (x,)))
    torch_sum(module(x)).backward()
    _, gradients, _ = step(trainable, (x,))
    np.testing.assert_allclose(gradients["0.weight"], module[0].weight.grad, rtol=1e-12)
    (y,) = interpret(trainable.inference(trainable.parameters), [x.numpy()])
    np.testing.assert_allclose(y, module(x).detach(), rtol=1e-12)
    dropping = import_training(torch.export.export(nn.Dropout().train(), (x,)))
    with pytest.raises(ModelError, match="no form for inference"):
        dropping.inference({})


def test_what_forward_must_not_write() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            m.a.weight.mul_(0.9)
        return m.a(x)

    with pytest.raises(ModelError, match="writes one of its parameters"):
        import_training(Net(forward, a=nn.Linear(2, 2)), example_inputs=(torch.zeros(1, 2),))


# Random numbers


class Noise(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], *shape: int) -> None:
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.randn(*shape).double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.w * x)


def run(trainable: Trainable, x: Any, key: Sequence[int] = (0, 0)) -> np.ndarray:
    arrays = [np.asarray(x), *trainable.parameters.values(), np.array(key, np.int64)]
    return np.asarray(interpret(trainable.graph, arrays)[0])


def test_dropout_has_one_mask_forward_and_backward() -> None:
    torch.manual_seed(0)
    net = Noise(lambda x: F.dropout(x, 0.3), 100, 50)
    x = torch.ones((), dtype=torch.float64)
    trainable = import_training(net, example_inputs=(x,))
    y = run(trainable, x, KEY)
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.21 / y.size)
    np.testing.assert_allclose(y[kept], net.w.detach().numpy()[kept] / 0.7)
    _, gradients, _ = step(trainable, (x,))
    weights = np.random.default_rng(0).normal(size=y.shape)
    np.testing.assert_allclose(gradients["w"], np.where(kept, weights / 0.7, 0))
    assert np.array_equal(run(trainable, x, KEY), y)
    assert not np.array_equal(run(trainable, x, (3, 2)) != 0, kept)
    assert not np.array_equal(run(trainable, x, (4, 1)) != 0, kept)


def test_each_use_draws_its_own_numbers() -> None:
    net = Noise(lambda x: torch.stack([F.dropout(x), F.dropout(x)]), 1000)
    a, b = run(import_training(net, example_inputs=(torch.ones((), dtype=torch.float64),)), 1.0) != 0
    assert 400 < (a != b).sum() < 600


def test_dropped_attention_and_layers_have_gradients_of_what_they_compute() -> None:
    """Finite differences with the key held: another mask in the backward pass would show."""
    torch.manual_seed(0)
    net = Net(
        lambda m, x: m.r(m.e(x))[0],
        e=nn.TransformerEncoderLayer(4, 2, 6, 0.4, "gelu", batch_first=True), r=nn.LSTM(4, 3, 2, dropout=0.5),
    ).double()  # fmt: skip
    x = torch.randn(2, 5, 4).double()
    trainable = import_training(net, example_inputs=(x,))
    _, gradients, _ = step(trainable, (x,))
    graph, rng = summed(trainable), np.random.default_rng(1)
    directions = {k: rng.normal(size=v.shape) for k, v in trainable.parameters.items()}

    def value(h: float) -> float:
        moved = [v + h * directions[k] for k, v in trainable.parameters.items()]
        return float(interpret(graph, [x.numpy(), *moved, KEY])[0])

    expected = sum(float((gradients[k] * d).sum()) for k, d in directions.items())
    assert abs((value(1e-6) - value(-1e-6)) / 2e-6 - expected) < 1e-5 * max(1, abs(expected))


DISTRIBUTIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float, float]] = {
    "rand": (lambda x: x * 0 + torch.rand_like(x), 0.5, 1 / 12),
    "randn": (lambda x: x * 0 + torch.randn(x.shape, dtype=x.dtype), 0, 1),
    "randint": (lambda x: x * 0 + torch.randint(2, 7, x.shape), 4, 2),
    "bernoulli": (lambda x: x * 0 + torch.bernoulli(torch.full_like(x, 0.2)), 0.2, 0.16),
    "normal_": (lambda x: x * 0 + torch.empty_like(x).normal_(2, 3), 2, 9),
    "rsample": (lambda x: torch.distributions.Normal(x * 0 + 2, x * 0 + 3).rsample(), 2, 9),
    "uniform_": (lambda x: x * 0 + torch.empty_like(x).uniform_(-1, 2), 0.5, 0.75),
    "exponential_": (lambda x: x * 0 + torch.empty_like(x).exponential_(2), 0.5, 0.25),
    "rrelu": (lambda x: F.rrelu(x * 0 - 1, 0.1, 0.3, training=True), -0.2, 0.04 / 12),
    "feature_dropout": (lambda x: F.dropout1d(x * 0 + 1, 0.5), 1, 1),
    "alpha_dropout": (lambda x: F.alpha_dropout(x * 0 + torch.randn_like(x), 0.5), 0, 1),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions(name: str) -> None:
    function, mean, variance = DISTRIBUTIONS[name]
    net = Noise(function, 200, 50, 1)
    y = run(import_training(net, example_inputs=(torch.ones((), dtype=torch.float64),)), 1.0)
    assert abs(y.mean() - mean) < 5 * np.sqrt(variance / y.size)
    assert abs(y.var() - variance) < 0.1 * variance


def test_inference_draws_nothing() -> None:
    with pytest.raises(GraphcError, match="random numbers"):
        graphc.import_model(nn.Dropout(), example_inputs=(torch.zeros(3),))
