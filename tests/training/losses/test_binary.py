"""Losses of probabilities, in value and gradient, against torch's, at extremes too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from graphc.training.losses import KL, BinaryCrossEntropy, BinaryCrossEntropyWithLogits

Check = Callable[..., None]
RNG = np.random.default_rng(4)
X = RNG.normal(size=(4, 3)) * 3
P, T = RNG.uniform(0.01, 0.99, (2, 4, 3))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_binary_cross_entropy(check_loss: Check, reduction: str) -> None:
    loss = BinaryCrossEntropy(reduction)
    check_loss(loss, lambda x, t: F.binary_cross_entropy(x, t, reduction=reduction), [P], [T])


def test_logarithms_of_zero_are_bounded(run_loss: Callable[..., list[np.ndarray]]) -> None:
    p, t = np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])
    value, gradient = run_loss(BinaryCrossEntropy(), [p], [t])
    assert value == F.binary_cross_entropy(torch.from_numpy(p), torch.from_numpy(t)).item() == 50
    np.testing.assert_array_equal(gradient, [0, 0, 0.25, -0.25])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [1.0, 3.0, (0.5, 1.0, 4.0)], ids=str)
def test_binary_cross_entropy_with_logits(
    check_loss: Check, weight: float | tuple[float, ...], reduction: str
) -> None:
    def expected(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        w = torch.tensor(weight, dtype=torch.float64)
        return F.binary_cross_entropy_with_logits(x, t, pos_weight=w, reduction=reduction)

    check_loss(BinaryCrossEntropyWithLogits(weight, reduction), expected, [X], [T])


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_extreme_logits(check_loss: Check, weight: float) -> None:
    x = np.array([1e4, -1e4, 1e4, -1e4, 0.0, 1e300, -1e300])
    t = np.array([1.0, 0.0, 0.0, 1.0, 0.5, 1.0, 0.0])

    def expected(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(x, t, pos_weight=torch.tensor(weight, dtype=torch.float64))

    check_loss(BinaryCrossEntropyWithLogits(weight), expected, [x], [t])


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
def test_kl(check_loss: Check, reduction: str) -> None:
    t = T / T.sum(1, keepdims=True)
    t[0, 1] = t[2, 0] = 0
    check_loss(KL(reduction), lambda x, t: F.kl_div(x, t, reduction=reduction), [np.log(P)], [t])


def test_kl_of_logarithms(check_loss: Check) -> None:
    loss = KL(log_target=True)
    check_loss(loss, lambda x, t: F.kl_div(x, t, reduction="batchmean", log_target=True), [np.log(P)], [np.log(T)])
