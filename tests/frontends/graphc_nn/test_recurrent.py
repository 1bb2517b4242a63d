"""Recurrent layers against torch's with the same weights; their states, in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphc
import graphc_nn as gn
from graphc.errors import GraphcError, ShapeError
from graphc.interpreter import interpret

RNG = np.random.default_rng(7)


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


HIDDEN = 5


def recurrent_pair(kind: str, bidirectional: bool, **options: Any) -> tuple[gn.Module, nn.Module]:
    """Two layers of ours and torch's with the same weights."""
    ours = getattr(gn, kind)(4, HIDDEN, 2, bidirectional=bidirectional, **options).initialize(1)
    theirs = getattr(nn, kind)(4, HIDDEN, 2, bidirectional=bidirectional, batch_first=True)
    order = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}[kind]  # torch's gates among ours: i f g o of i o f g; r z n

    def reordered(a: np.ndarray) -> torch.Tensor:
        gates = a.reshape(len(order), HIDDEN, -1)
        return torch.tensor(np.ascontiguousarray(gates[order]).reshape(a.shape))

    p = ours.parameters
    with torch.no_grad():
        for i, suffix in enumerate(_suffixes(2, bidirectional)):
            getattr(theirs, f"weight_ih_{suffix}").copy_(reordered(p[f"layers.{i}.weight_input"]))
            getattr(theirs, f"weight_hh_{suffix}").copy_(reordered(p[f"layers.{i}.weight_hidden"]))
            getattr(theirs, f"bias_ih_{suffix}").copy_(reordered(p[f"layers.{i}.bias"]))
            second = p.get(f"layers.{i}.bias_hidden")
            recurrent = reordered(second) if second is not None else torch.zeros(len(order) * HIDDEN)
            getattr(theirs, f"bias_hh_{suffix}").copy_(recurrent)
    return ours, theirs


def _suffixes(layers: int, bidirectional: bool) -> list[str]:
    return [f"l{i}{way}" for i in range(layers) for way in (["", "_reverse"] if bidirectional else [""])]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_follow_torch(kind, bidirectional):
    ours, theirs = recurrent_pair(kind, bidirectional)
    x = array(3, 7, 4)
    graph = graphc.import_model(ours, example_inputs=(x,))
    expected = theirs(torch.tensor(x))[0].detach().numpy()
    np.testing.assert_allclose(interpret(graph, [x])[0], expected, rtol=1e-4, atol=1e-5)


class FromState(gn.Module):
    """A recurrent layer whose first state is an input, and whose last one is an output."""

    def __init__(self, inner: gn.Module, pair: bool) -> None:
        self.inner, self.pair = inner, pair

    def forward(self, x, h, c=None):
        y, last = self.inner(x, (h, c) if self.pair else h)
        return (y, *last) if self.pair else (y, last)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_of_recurrent_layers_follow_torch(kind, bidirectional):
    """In and out, and the gradient of everything by the input and the first state."""
    inner, theirs = recurrent_pair(kind, bidirectional, return_state=True)
    states = [array(4 if bidirectional else 2, 3, HIDDEN) for _ in range(2 if kind == "LSTM" else 1)]
    arrays = [array(3, 7, 4), *states]
    graph = graphc.import_model(FromState(inner, kind == "LSTM"), example_inputs=tuple(arrays))
    x, *given = (torch.tensor(a, requires_grad=True) for a in arrays)
    y, last = theirs(x, tuple(given) if kind == "LSTM" else given[0])
    expected = [y, *(last if kind == "LSTM" else [last])]
    gradients = torch.autograd.grad(sum(e.sum() for e in expected), [x, *given])
    for seen, wanted in zip(interpret(graphc.value_and_grad(graph), arrays), (*expected, *gradients), strict=True):
        np.testing.assert_allclose(seen, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_last_state_of_zeros_first():
    inner, theirs = recurrent_pair("LSTM", True, return_state=True)

    class Last(gn.Module):
        def __init__(self) -> None:
            self.inner = inner

        def forward(self, x):
            return self.inner(x)[1]

    x = array(3, 7, 4)
    expected = theirs(torch.tensor(x))[1]
    for seen, wanted in zip(interpret(graphc.import_model(Last(), example_inputs=(x,)), [x]), expected, strict=True):
        np.testing.assert_allclose(seen, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, HIDDEN), (2, 3, HIDDEN + 1), (2, HIDDEN)])
def test_a_state_that_does_not_fit(shape):
    inner = gn.GRU(4, HIDDEN, 2, return_state=True)
    with pytest.raises(ShapeError, match="the first state doesn't fit") as raised:
        graphc.import_model(FromState(inner, False), example_inputs=(array(3, 7, 4), array(*shape)))
    assert raised.value.layer == "inner" and raised.value.expected == f"1 of f32[2, 3, {HIDDEN}]"


@pytest.mark.parametrize("make", [
    lambda: gn.LSTM(4, 0), lambda: gn.GRU(4, 5, layers=0), lambda: gn.RNN("4", 5), lambda: gn.Dropout("a"),
    lambda: gn.Dropout(1.5),
    lambda: gn.Linear(3, 2).initialize(seed=2**70), lambda: gn.Linear(3, 2).initialize(seed="a"),
])  # fmt: skip
def test_what_layers_cannot_be_made_of(make):
    with pytest.raises(GraphcError, match="has no such value"):
        make()
