"""Norms: statistics of a tensor taken out of it, then a learned scale and bias."""

from __future__ import annotations

import math

from graphc.errors import GraphcError, ShapeError
from graphc.ops.arithmetic import count
from graphc_nn.initializers import Ones
from graphc_nn.module import Module, Parameter, State
from graphc_nn.tensor import Tensor


class BatchNorm(Module):
    """Normalizes each channel (axis 1) by the batch's statistics in training, by running ones else.

    The running variance is Bessel's; both follow as (1 - momentum) * old + momentum * new. For any number of spatial
    axes. Source: Ioffe and Szegedy, 2015. torch: BatchNorm1d, 2d, 3d.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5, momentum: float = 0.1) -> None:
        self.epsilon, self.momentum = epsilon, momentum
        self.weight, self.bias = Parameter((channels,), Ones), Parameter((channels,))
        self.running_mean, self.running_var = State((channels,)), State((channels,), Ones)

    def forward(self, x: Tensor) -> Tensor:
        channels = self.weight.shape[0]
        if x.rank < 2 or x.shape[1] != channels:
            raise ShapeError("BatchNorm takes (N, C, ...)", seen=x.value.type, expected=f"{channels} channels")
        weight, bias = x.of(self.weight), x.of(self.bias)
        mean, variance = x.of(self.running_mean), x.of(self.running_var)
        if not x.trace.training:
            return x.op("batch_norm", weight, bias, mean, variance, axis=1, epsilon=self.epsilon)
        y, now, spread = x.ops("batch_norm_training", weight, bias, axis=1, epsilon=self.epsilon)
        others = [d for i, d in enumerate(x.shape) if i != 1]
        if all(d == 1 for d in others):
            raise ShapeError("BatchNorm in training needs more than one value a channel", seen=x.value.type)
        size = Tensor(x.trace, count(x.trace.builder, others, x.dtype))
        unbiased = spread * (size / (size - 1))
        m = self.momentum
        x.trace.write(self.running_mean, (mean * (1 - m) + now * m).value)
        x.trace.write(self.running_var, (variance * (1 - m) + unbiased * m).value)
        return y


class LayerNorm(Module):
    """Normalizes the last axes, of shape `shape`. Source: Ba et al., 2016."""

    def __init__(self, shape: int | tuple[int, ...], epsilon: float = 1e-5) -> None:
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.epsilon = epsilon
        self.weight, self.bias = Parameter(self.shape, Ones), Parameter(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        n = len(self.shape)
        if x.shape[-n:] != self.shape:
            raise ShapeError("LayerNorm takes tensors that end in its shape", seen=x.value.type, expected=self.shape)
        flat = x.reshape(*x.shape[:-n], math.prod(self.shape))
        scale, bias = (x.of(p).reshape(math.prod(self.shape)) for p in (self.weight, self.bias))
        y = flat.op("layer_norm", scale, bias, axis=flat.rank - 1, epsilon=self.epsilon)
        return y.reshape(*x.shape)


class RMSNorm(Module):
    """x / sqrt(mean of x^2 + epsilon) * weight over the last axis. Source: Zhang and Sennrich, 2019."""

    def __init__(self, size: int, epsilon: float = 1e-6) -> None:
        self.epsilon = epsilon
        self.weight = Parameter((size,), Ones)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != self.weight.shape:
            raise ShapeError(
                "RMSNorm takes tensors that end in its size", seen=x.value.type, expected=self.weight.shape
            )
        return x.op("rms_norm", x.of(self.weight), axis=x.rank - 1, epsilon=self.epsilon)


class GroupNorm(Module):
    """Normalizes each sample's groups of neighbouring channels (axis 1). Source: Wu and He, 2018."""

    def __init__(self, groups: int, channels: int, epsilon: float = 1e-5) -> None:
        if groups < 1 or channels % groups:
            raise GraphcError("groups must divide the channels", seen=f"{groups} of {channels}")
        self.groups, self.epsilon = groups, epsilon
        self.weight, self.bias = Parameter((channels,), Ones), Parameter((channels,))

    def forward(self, x: Tensor) -> Tensor:
        if x.rank < 3 or x.shape[1:2] != self.weight.shape:
            raise ShapeError(
                f"{type(self).__name__} takes (N, C, *spatial)", seen=x.value.type, expected=self.weight.shape
            )
        return x.op("group_norm", x.of(self.weight), x.of(self.bias), groups=self.groups, epsilon=self.epsilon)


class InstanceNorm(GroupNorm):
    """Normalizes each channel of each sample. Source: Ulyanov et al., 2016."""

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__(channels, channels, epsilon)
