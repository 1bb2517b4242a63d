"""Losses of probabilities of yes: binary cross-entropy, of probabilities or logits, and the Kullback-Leibler divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ops.arithmetic import add, count, div, mul, one_minus, sub
from graphc.training.hyperparameters import NOT_NEGATIVE, REDUCTION, Each, OneOf, check
from graphc.training.losses.loss import Reduction, check_same, operands, reduced

LOG_FLOOR = -100.0
"""What the logarithm of a probability is at least, as in torch's binary_cross_entropy."""


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """The mean (or sum) of -(t log x + (1 - t) log(1 - x)), of floats of one shape, x in [0, 1].

    Logarithms are at least -100; where that bound holds, the gradient is 0 (torch's is up to 1e12 there).
    torch: binary_cross_entropy.
    """

    reduction: Reduction = "mean"
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, t = operands(b, "binary cross entropy", outputs, targets)
        check_same("binary cross entropy", x, t)
        yes, no = (mul(b, share, _log(b, p)) for share, p in ((t, x), (one_minus(b, t), one_minus(b, x))))
        return reduced(b, b.op("neg", add(b, yes, no)), self.reduction)


@dataclass(frozen=True)
class BinaryCrossEntropyWithLogits:
    """`BinaryCrossEntropy` of sigmoid(x), without overflow; t log x is weighted by `pos_weight`, one for all or for each
    element of the last axis. torch: binary_cross_entropy_with_logits.
    """

    pos_weight: float | tuple[float, ...] = 1.0
    reduction: Reduction = "mean"
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        one = not isinstance(self.pos_weight, tuple | list)
        check(self, pos_weight=NOT_NEGATIVE if one else Each(NOT_NEGATIVE), reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, t = operands(b, "binary cross entropy", outputs, targets)
        check_same("binary cross entropy", x, t)
        if self.pos_weight == 1.0:  # softplus(x) - t x
            return reduced(b, sub(b, b.op("softplus", x), mul(b, t, x)), self.reduction)
        weight = b.constant(np.asarray(self.pos_weight, x.type.dtype.numpy), "pos_weight")
        weight = b.broadcast(weight, x.type.shape, () if weight.type.rank == 0 else (x.type.rank - 1,))
        yes = mul(b, mul(b, weight, t), b.op("softplus", b.op("neg", x)))
        return reduced(b, add(b, yes, mul(b, one_minus(b, t), b.op("softplus", x))), self.reduction)


@dataclass(frozen=True)
class KL:
    """The divergence t (log t - x) of probabilities t from those whose logarithms x are; 0 where t is 0.

    log_target: targets are logarithms too. "batchmean", the sum divided by the first dim, is the divergence itself;
    "mean" divides by the number of elements. Source: Kullback and Leibler, 1951. torch: kl_div.
    """

    reduction: Reduction | Literal["batchmean"] = "batchmean"
    log_target: bool = False
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, reduction=OneOf(("mean", "sum", "batchmean")))

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, t = operands(b, "KL", outputs, targets)
        check_same("KL", x, t)
        if self.log_target:
            each = mul(b, b.op("exp", t), sub(b, t, x))
        else:
            zero = b.full_like(0, t)
            none = b.op("eq", t, zero)
            log = b.op("log", b.op("select", none, b.full_like(1, t), t))
            each = b.op("select", none, zero, mul(b, t, sub(b, log, x)))
        if self.reduction != "batchmean":
            return reduced(b, each, self.reduction)
        return div(b, reduced(b, each, "sum"), count(b, x.type.shape[:1], x.type.dtype))


def _log(b: Builder, p: Value) -> Value:
    """max(log(p), -100), with gradient 0 below the bound instead of 0 times infinity."""
    low = b.op("le", p, b.full_like(math.exp(LOG_FLOOR), p))
    log = b.op("log", b.op("select", low, b.full_like(1, p), p))
    return b.op("select", low, b.full_like(LOG_FLOOR, p), log)
