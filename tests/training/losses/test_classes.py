"""Losses of classes, in value and gradient, against torch's, at extremes too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from graphc.errors import NumericError, ShapeError
from graphc.training.losses import NLL, CrossEntropy, Focal, Hinge

Check = Callable[..., None]
RunLoss = Callable[..., list[np.ndarray]]
RNG = np.random.default_rng(1)
X = RNG.normal(size=(6, 5)) * 3
T = np.array([0, 4, 2, 2, 1, 3])
WEIGHT = (0.5, 2.0, 1.0, 0.0, 3.0)
IMAGES, LABELS = RNG.normal(size=(2, 5, 3, 4)), RNG.integers(0, 5, (2, 3, 4))
EXTREME = np.array([[1e4, -1e4, 0, 0, 0], [-1e300, 1e300, 0, 0, 0], [-np.inf, 0, 1, 2, 3], [700.0, 700, 700, 700, 700]])


def _probabilities(shape: tuple[int, ...]) -> np.ndarray:
    p = np.exp(np.random.default_rng(2).normal(size=shape))
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["even", "weighted"])
@pytest.mark.parametrize("ignore", [None, 2])
def test_cross_entropy(check_loss: Check, weight: tuple[float, ...] | None, smoothing: float, ignore: int | None,
                       reduction: str) -> None:  # fmt: skip
    def expected(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        return F.cross_entropy(x, t, w, ignore_index=-100 if ignore is None else ignore, label_smoothing=smoothing,
                               reduction=reduction)  # fmt: skip

    loss = CrossEntropy(weight, smoothing, ignore, reduction)
    check_loss(loss, expected, [X], [T])
    check_loss(loss, expected, [IMAGES], [LABELS])
    check_loss(loss, expected, [X[0]], [np.array(T[1])])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["even", "weighted"])
def test_cross_entropy_with_probabilities(check_loss: Check, weight: tuple[float, ...] | None, smoothing: float) -> None:
    def expected(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        return F.cross_entropy(x, t, w, label_smoothing=smoothing)

    for x in (X, IMAGES):
        check_loss(CrossEntropy(weight, smoothing), expected, [x], [_probabilities(x.shape)])


def test_ignore_index_that_is_no_class(check_loss: Check) -> None:
    t = np.where(T == 2, -100, T)
    check_loss(CrossEntropy(ignore_index=-100), F.cross_entropy, [X], [t])


def test_mean_over_nothing_is_nan(check_loss: Check, run_loss: RunLoss) -> None:
    nothing = np.full(6, -100)
    value, _ = run_loss(CrossEntropy(ignore_index=-100), [X], [nothing])
    assert np.isnan(value)
    check_loss(CrossEntropy(ignore_index=-100, reduction="sum"), lambda x, t: F.cross_entropy(x, t, reduction="sum"),
               [X], [nothing])  # fmt: skip


@pytest.mark.parametrize("t", [[0, 1, 4, 2], [1, 0, 1, 3]])
def test_extreme_logits(check_loss: Check, t: list[int]) -> None:
    check_loss(CrossEntropy(), F.cross_entropy, [EXTREME], [np.array(t)])


def test_infinite_loss(run_loss: RunLoss) -> None:
    value, _ = run_loss(CrossEntropy(), [EXTREME], [np.array([0, 1, 0, 0])])
    assert value == np.inf


def test_int32_targets(run_loss: RunLoss) -> None:
    for s, e in zip(run_loss(CrossEntropy(), [X], [T.astype(np.int32)]), run_loss(CrossEntropy(), [X], [T]), strict=True):
        np.testing.assert_array_equal(s, e)


@pytest.mark.parametrize("loss", [CrossEntropy(), NLL(), Focal(), Hinge()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("bad", [-1, 5])
def test_a_number_that_is_no_class_raises(run_loss: RunLoss, loss: CrossEntropy, bad: int) -> None:
    with pytest.raises(NumericError, match="out of range"):
        run_loss(loss, [X], [np.where(T == 2, bad, T)])


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["even", "weighted"])
@pytest.mark.parametrize("ignore", [None, 2])
def test_nll(check_loss: Check, weight: tuple[float, ...] | None, ignore: int | None) -> None:
    def expected(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        return F.nll_loss(x, t, w, ignore_index=-100 if ignore is None else ignore)

    check_loss(NLL(weight, ignore), expected, [X], [T])
    check_loss(NLL(weight, ignore), expected, [IMAGES], [LABELS])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(check_loss: Check, gamma: float) -> None:
    def expected(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        log_p = F.log_softmax(x, 1).gather(1, t[:, None])[:, 0]
        return (-((1 - log_p.exp()) ** gamma) * log_p * torch.tensor(WEIGHT, dtype=torch.float64)[t]).mean()

    check_loss(Focal(gamma, WEIGHT), expected, [X], [T])


def test_binary_focal(check_loss: Check) -> None:
    def expected(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        ce = F.binary_cross_entropy_with_logits(x, t, reduction="none")
        p = torch.sigmoid(x) * t + torch.sigmoid(-x) * (1 - t)
        return (torch.where(t > 0, 0.25, 0.75) * ce * (1 - p) ** 2).mean()

    t = (np.random.default_rng(3).random(X.shape) > 0.5).astype(float)
    check_loss(Focal(2.0, (0.75, 0.25)), expected, [X], [t])


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("margin", [1.0, 0.3])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["even", "weighted"])
def test_hinge(check_loss: Check, weight: tuple[float, ...] | None, margin: float, p: int) -> None:
    def expected(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        return F.multi_margin_loss(x, t, p=p, margin=margin, weight=w)

    check_loss(Hinge(margin, p, weight), expected, [X], [T])


def test_binary_hinge(check_loss: Check) -> None:
    t = np.where(np.random.default_rng(3).random(X.shape) > 0.5, 1.0, -1.0)
    check_loss(Hinge(), lambda x, t: (1 - t * x).clamp(min=0).mean(), [X], [t])


def test_refusals(run_loss: RunLoss) -> None:
    with pytest.raises(ShapeError, match="weights of classes"):
        run_loss(CrossEntropy(weight=(1.0, 2.0)), [X], [T])
    with pytest.raises(ShapeError, match="class numbers"):
        run_loss(CrossEntropy(), [X], [T[:, None]])
    with pytest.raises(ShapeError, match="ignore_index"):
        run_loss(CrossEntropy(ignore_index=1), [X], [_probabilities(X.shape)])
    with pytest.raises(ShapeError, match="scores must be floats"):
        run_loss(CrossEntropy(), [np.array(1.0)], [np.array(0)])
