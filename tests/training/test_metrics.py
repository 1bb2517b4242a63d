"""Metrics against scikit-learn's, over several batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from graphc.errors import GraphcError, ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.types import dtype_of
from graphc.training.losses import CrossEntropy
from graphc.training.metrics import F1, Accuracy, Mean, Metric, TopK, metrics_of

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(90, 5)).astype(np.float32)
TRUTH = RNG.integers(0, 4, 90)  # the last class never occurs
SAID = SCORES.argmax(1)


def _value(metric: Metric, x: np.ndarray, t: np.ndarray, parts: int = 3) -> float:
    total: Any = 0
    for xs, ts in zip(np.split(x, parts), np.split(t, parts), strict=True):
        b = Builder()
        values = [b.input(n, dtype_of(a), a.shape) for n, a in (("x", xs), ("t", ts))]
        total = total + interpret(b.returns(metric.sums(b, values[:1], values[1:])), [xs, ts])[0].astype(np.float64)
    return metric.value(total)


def test_accuracy() -> None:
    assert _value(Accuracy(), SCORES, TRUTH) == pytest.approx(sk.accuracy_score(TRUTH, SAID), rel=1e-12)
    kept = TRUTH != 2
    expected = sk.accuracy_score(TRUTH[kept], SAID[kept])
    assert _value(Accuracy(ignore_index=2), SCORES, TRUTH) == pytest.approx(expected, rel=1e-12)


def test_accuracy_of_two_sides() -> None:
    t = (TRUTH > 1).astype(np.float32)
    assert _value(Accuracy(), SCORES[:, 0].copy(), t) == pytest.approx(((SCORES[:, 0] > 0) == t).mean())


def test_accuracy_of_nothing_is_nan() -> None:
    assert np.isnan(_value(Accuracy(ignore_index=1), SCORES, np.ones_like(TRUTH)))


def test_accuracy_of_pixels() -> None:
    x, t = SCORES.reshape(6, 5, 15), RNG.integers(0, 5, (6, 15))
    assert _value(Accuracy(), x, t) == pytest.approx((x.argmax(1) == t).mean())


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k(k: int) -> None:
    expected = sk.top_k_accuracy_score(TRUTH, SCORES, k=k, labels=range(5))
    assert _value(TopK(k), SCORES, TRUTH) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_f1(average: Any) -> None:
    expected = sk.f1_score(TRUTH, SAID, average=average, labels=range(5), zero_division=0)
    assert _value(F1(average), SCORES, TRUTH) == pytest.approx(expected, rel=1e-6)


def test_losses_as_metrics() -> None:
    (mae, mse) = metrics_of(["mae", "mse"])
    target = RNG.normal(size=SCORES.shape).astype(np.float32)
    assert _value(mae, SCORES, target) == pytest.approx(sk.mean_absolute_error(target, SCORES), rel=1e-5)
    assert _value(mse, SCORES, target) == pytest.approx(sk.mean_squared_error(target, SCORES), rel=1e-5)
    p = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)
    own = Mean(CrossEntropy(), "log_loss")
    assert _value(own, SCORES, TRUTH) == pytest.approx(sk.log_loss(TRUTH, p, labels=range(5)), rel=1e-5)


def test_refusals() -> None:
    with pytest.raises(GraphcError, match="no such metric"):
        metrics_of(["acuracy"])
    with pytest.raises(GraphcError, match="names of their own"):
        metrics_of(["accuracy", Accuracy()])
    with pytest.raises(ShapeError, match="an output and a target"):
        b = Builder()
        Accuracy().sums(b, [], [])
