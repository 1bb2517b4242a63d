"""Losses of numbers, in value and gradient, against torch's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from graphc.errors import ShapeError
from graphc.training.losses import MAE, MSE, RMSE, Huber, Loss

Check = Callable[..., None]
RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(2, 4, 3, 2)) * 2


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("loss", "function"),
    [(MSE, F.mse_loss), (MAE, F.l1_loss), (Huber, F.huber_loss)],
    ids=["mse", "mae", "huber"],
)
def test_equals_torch(check_loss: Check, loss: Callable[..., Loss], function: Callable[..., torch.Tensor],
                      reduction: str) -> None:  # fmt: skip
    t = T.copy()
    t[0] = X[0]  # the kink
    check_loss(loss(reduction=reduction), lambda x, y: function(x, y, reduction=reduction), [X], [t])


@pytest.mark.parametrize("delta", [0.3, 2.5])
def test_huber_with_delta(check_loss: Check, delta: float) -> None:
    check_loss(Huber(delta), lambda x, t: F.huber_loss(x, t, delta=delta), [X], [T])


def test_rmse(check_loss: Check) -> None:
    check_loss(RMSE(), lambda x, t: F.mse_loss(x, t).sqrt(), [X], [T])
    check_loss(RMSE(1e-6), lambda x, t: (F.mse_loss(x, t) + 1e-6).sqrt(), [X], [X.copy()])


def test_large_values(check_loss: Check) -> None:
    check_loss(Huber(), F.huber_loss, [X * 1e200], [T * 1e200])


def test_small_floats_are_computed_in_f32(run_loss: Callable[..., list[np.ndarray]]) -> None:
    x = np.full(5000, 300, np.float16)  # its square is beyond f16
    value, gradient = run_loss(MSE(), [x], [np.zeros_like(x)])
    assert value.dtype == np.float32 and value == 90000
    assert gradient.dtype == np.float16


def test_refuses_other_shapes_and_counts(run_loss: Callable[..., list[np.ndarray]]) -> None:
    with pytest.raises(ShapeError, match="one shape"):
        run_loss(MSE(), [X], [T[0]])
    with pytest.raises(ShapeError, match="equal"):
        run_loss(MSE(), [X], [T[:2]])
    with pytest.raises(ShapeError, match="outputs of the model and targets"):
        run_loss(MSE(), [X, X], [T])
