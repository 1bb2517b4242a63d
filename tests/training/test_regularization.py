"""Penalties: values and gradients by NumPy, and L2 as the decay that optimizers couple."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.errors import GraphcError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.types import f64
from graphc.ops.by_decomposition import backpropagate
from graphc.training.recipe import Penalty
from graphc.training.regularization import L1, L2, ElasticNet

W, B = np.array([[1.0, -2.0], [0.0, 3.0]]), np.array([-4.0, 0.5])


def _run(penalty: Penalty) -> list[np.ndarray]:
    """The penalty, then its gradient with respect to w and b."""
    b = Builder()
    parameters = {"layer.w": b.input("w", f64, W.shape), "layer.b": b.input("b", f64, B.shape)}
    value = penalty(b, parameters)
    found = backpropagate(b, b.graph.nodes, {value: b.full_like(1, value)}, parameters.values())
    gradients = [found[v] if v in found else b.full_like(0, v) for v in parameters.values()]
    return interpret(b.returns(value, *gradients), [W, B])


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (L1(0.5), (0.5 * 10.5, 0.5 * np.sign(W), 0.5 * np.sign(B))),
        (L2(0.5), (0.25 * 30.25, 0.5 * W, 0.5 * B)),
        (L2(0.5, ("*.w",)), (0.25 * 14, 0.5 * W, 0 * B)),
        (ElasticNet(0.5, 0.1, ("*.b",)), (0.5 * 4.5 + 0.05 * 16.25, 0 * W, 0.5 * np.sign(B) + 0.1 * B)),
    ],
    ids=["l1", "l2", "some", "elastic net"],
)
def test_values_and_gradients(penalty: Penalty, expected: tuple[np.ndarray, ...]) -> None:
    for seen, e in zip(_run(penalty), expected, strict=True):
        np.testing.assert_allclose(seen, e, rtol=1e-14)


def test_a_pattern_that_names_nothing_is_refused() -> None:
    with pytest.raises(GraphcError, match="no trained parameter"):
        _run(L1(1.0, ("head.*",)))


def test_patterns_are_no_string() -> None:
    with pytest.raises(GraphcError, match="tuple of patterns"):
        _run(L2(1.0, "*.w"))
