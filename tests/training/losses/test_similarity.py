"""Losses of embeddings, in value and gradient, against torch's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from graphc.errors import ShapeError
from graphc.training.losses import CosineEmbedding, Triplet

Check = Callable[..., None]
RNG = np.random.default_rng(6)
A, P, N = RNG.normal(size=(3, 8, 4))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("margin", [1.0, 0.2])
def test_triplet(check_loss: Check, margin: float, swap: bool, reduction: str) -> None:
    loss = Triplet(margin, swap, reduction=reduction)
    check_loss(loss, lambda a, p, n: F.triplet_margin_loss(a, p, n, margin, swap=swap, reduction=reduction), [A, P, N], [])


def test_triplet_of_equals(check_loss: Check) -> None:
    check_loss(Triplet(), F.triplet_margin_loss, [A, A.copy(), A.copy()], [])


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_cosine_embedding(check_loss: Check, margin: float) -> None:
    t = np.array([1, -1, 1, -1, -1, 1, -1, 1])
    check_loss(CosineEmbedding(margin), lambda x, y, t: F.cosine_embedding_loss(x, y, t, margin), [A, P], [t])
    check_loss(CosineEmbedding(margin), lambda x, y, t: F.cosine_embedding_loss(x, y, t, margin), [A, P], [t * 1.0])


def test_cosine_embedding_of_zeros(run_loss: Callable[..., list[np.ndarray]]) -> None:
    x = torch.zeros(8, 4, dtype=torch.float64, requires_grad=True)
    expected = F.cosine_embedding_loss(x, torch.from_numpy(P), torch.ones(8))
    expected.backward()
    value, gradient, _ = run_loss(CosineEmbedding(), [np.zeros((8, 4)), P], [np.ones(8)])
    assert value == expected.item() == 1
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-8)  # torch's eps is the f32 number


def test_refusals(run_loss: Callable[..., list[np.ndarray]]) -> None:
    with pytest.raises(ShapeError, match="outputs of the model and targets"):
        run_loss(Triplet(), [A, P], [])
    with pytest.raises(ShapeError, match="without their last axis"):
        run_loss(CosineEmbedding(), [A, P], [np.ones((8, 1))])
