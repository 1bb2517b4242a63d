"""Pooling over the spatial axes of (N, C, *spatial)."""

from __future__ import annotations

import math

from graphc.errors import GraphcError, ShapeError
from graphc_nn.convolution import Sizes, sizes
from graphc_nn.module import Module
from graphc_nn.tensor import Tensor


class _Pool(Module):
    axes = 2

    def __init__(self, window: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1) -> None:
        self.window = sizes(window, self.axes, "window")
        self.strides = sizes(window if stride is None else stride, self.axes, "stride")
        self.padding = tuple(p for q in sizes(padding, self.axes, "padding") for p in (q, q))
        self.dilation = sizes(dilation, self.axes, "dilation")

    def pooled(self, x: Tensor, operator: str, **attributes: object) -> Tensor:
        if x.rank != self.axes + 2:
            raise ShapeError(f"{type(self).__name__} takes (N, C, *spatial)", seen=x.value.type)
        return x.op(
            operator, axes=tuple(range(2, x.rank)), window=self.window, strides=self.strides, padding=self.padding,
            dilation=self.dilation, **attributes,
        )  # fmt: skip


class MaxPool2d(_Pool):
    """The greatest element of each window; padding never counts."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.pooled(x, "max_pool")


class MinPool2d(_Pool):
    """The least element of each window; padding never counts."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return -self.pooled(-x, "max_pool")


class AveragePool2d(_Pool):
    """The mean of each window, with its padding where `count_padding`."""

    count_padding = True

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.pooled(x, "average_pool", count_include_pad=self.count_padding)


class LpPool2d(_Pool):
    """(sum of |x|^p)^(1/p) of each window."""

    def __init__(self, p: float, window: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        super().__init__(window, stride, padding)
        if not p > 0:
            raise GraphcError("the norm of LpPool must be above 0", seen=p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.pooled(x.op("abs") ** self.p, "window_sum") ** (1 / self.p)


class MaxPool1d(MaxPool2d):
    """`MaxPool2d` over one axis."""

    axes = 1


class MaxPool3d(MaxPool2d):
    """`MaxPool2d` over three axes."""

    axes = 3


class AveragePool1d(AveragePool2d):
    """`AveragePool2d` over one axis."""

    axes = 1


class AveragePool3d(AveragePool2d):
    """`AveragePool2d` over three axes."""

    axes = 3


class GlobalAveragePool(Module):
    """The mean over all spatial axes: (N, C, *spatial) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.mean(*range(2, x.rank))


class GlobalMaxPool(Module):
    """The greatest over all spatial axes: (N, C, *spatial) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.reduce("max", *range(2, x.rank))


class AdaptiveAveragePool2d(Module):
    """Means of windows that cut each spatial axis in a given number of parts, which must divide its size."""

    def __init__(self, size: Sizes) -> None:
        self.size = sizes(size, 2, "size")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        spatial = x.shape[2:]
        if x.rank != 4 or any(not isinstance(d, int) or d % n for d, n in zip(spatial, self.size, strict=True)):
            raise ShapeError("the sizes of adaptive pooling must divide the spatial dims", seen=x.value.type, expected=self.size)
        window = tuple(int(d) // n for d, n in zip(spatial, self.size, strict=True))  # type: ignore[arg-type]
        total = x.op("window_sum", axes=(2, 3), window=window, strides=window, padding=(0,) * 4, dilation=(1, 1))
        return total / math.prod(window)
