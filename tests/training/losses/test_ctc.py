"""CTC against torch's, in value and in the gradient of the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import graphc
from graphc.errors import NumericError, ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.types import f32, i64
from graphc.training.losses import CTC

Check = Callable[..., None]
RunLoss = Callable[..., list[np.ndarray]]
RNG = np.random.default_rng(8)
X = RNG.normal(size=(9, 4, 5)) * 2
LABELS = np.array([[1, 2, 3], [4, 4, 9], [2, 9, 9], [9, 9, 9]])  # 9 is beyond the length: not read
FRAMES, LENGTHS = np.array([9, 7, 5, 4]), np.array([3, 2, 1, 0])


@dataclass(frozen=True)
class OfLogits:
    """CTC after a log_softmax: torch's gradient is right there alone."""

    loss: CTC
    targets: int = 3

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        return self.loss(b, [b.op("log_softmax", outputs[0], axis=2)], targets)


def _torch(**options: Any) -> Callable[..., torch.Tensor]:
    def loss(x: torch.Tensor, labels: torch.Tensor, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return F.ctc_loss(F.log_softmax(x, 2), labels, frames, lengths, **options)

    return loss


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_torch(check_loss: Check, reduction: str) -> None:
    check_loss(OfLogits(CTC(reduction=reduction)), _torch(reduction=reduction), [X], [LABELS, FRAMES, LENGTHS])


def test_another_blank(check_loss: Check) -> None:
    labels = np.array([[1, 0, 3], [2, 2, 0], [2, 9, 9], [9, 9, 9]])
    check_loss(OfLogits(CTC(blank=4)), _torch(blank=4), [X], [labels, FRAMES, LENGTHS])


def test_what_cannot_be_aligned(check_loss: Check, run_loss: RunLoss) -> None:
    frames = np.array([9, 2, 5, 0])  # two equal labels need a blank between them: three frames
    value, _ = run_loss(OfLogits(CTC()), [X], [LABELS, frames, LENGTHS])
    assert value == np.inf
    check_loss(OfLogits(CTC(zero_infinity=True)), _torch(zero_infinity=True), [X], [LABELS, frames, LENGTHS])


def test_probability_zero(run_loss: RunLoss) -> None:
    with np.errstate(divide="ignore"):
        x = np.log(np.array([[[0.5, 0.5, 0.0]], [[0.0, 1.0, 0.0]]]))
    value, gradient = run_loss(CTC(), [x], [np.array([[1]]), np.array([2]), np.array([1])])
    assert value == 0  # blank then label, or label twice: all there is
    assert np.isfinite(gradient).all()


def test_refuses_what_does_not_fit(run_loss: RunLoss) -> None:
    for targets in (
        [np.where(LABELS == 3, 5, LABELS), FRAMES, LENGTHS], [LABELS, FRAMES + 1, LENGTHS], [LABELS, FRAMES, LENGTHS + 1]
    ):  # fmt: skip
        with pytest.raises(NumericError, match="out of range"):
            run_loss(CTC(), [X], targets)
    with pytest.raises(ShapeError, match="outputs and targets"):
        run_loss(CTC(), [X], [LABELS[0], FRAMES, LENGTHS])


def test_compiled_in_f32_with_dynamic_dims() -> None:
    time, batch, size = graphc.Dim("time"), graphc.Dim("batch"), graphc.Dim("size")
    b = Builder()
    x = b.input("x", f32, (time, batch, 5))
    shapes: list[tuple[Any, ...]] = [(batch, size), (batch,), (batch,)]
    targets = [b.input("t", i64, shape) for shape in shapes]
    exe = graphc.compile(b.returns(CTC()(b, [b.op("log_softmax", x, axis=2)], targets)), threads=1)
    expected = _torch()(*map(torch.from_numpy, (X, LABELS, FRAMES, LENGTHS)))
    np.testing.assert_allclose(exe(X.astype(np.float32), LABELS, FRAMES, LENGTHS), expected.numpy(), rtol=1e-5)
