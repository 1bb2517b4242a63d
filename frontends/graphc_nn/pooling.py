"""Pooling over the spatial axes of (N, C, *spatial)."""

from __future__ import annotations

from graphc.errors import GraphcError, ShapeError
from graphc_nn.convolution import Sizes, sizes
from graphc_nn.module import Module
from graphc_nn.tensor import Tensor, concat


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

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(x, "max_pool")


class MinPool2d(_Pool):
    """The least element of each window; padding never counts."""

    def forward(self, x: Tensor) -> Tensor:
        return -self.pooled(-x, "max_pool")


class AveragePool2d(_Pool):
    """The mean of each window, with its padding where `count_padding`."""

    count_padding = True

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(x, "average_pool", count_include_pad=self.count_padding)


class LpPool2d(_Pool):
    """(sum of |x|^p)^(1/p) of each window; the gradient of one that is 0 is 0."""

    def __init__(self, p: float, window: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        super().__init__(window, stride, padding)
        if not p > 0:
            raise GraphcError("the norm of LpPool must be above 0", seen=p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        total = self.pooled(x.op("abs") ** self.p, "window_sum")
        some = total.op("gt", total.full(0))
        root = some.op("select", total, total.full(1)) ** (1 / self.p)  # whose gradient at 0 is infinite
        return some.op("select", root, total)


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


class MinPool1d(MinPool2d):
    """`MinPool2d` over one axis."""

    axes = 1


class MinPool3d(MinPool2d):
    """`MinPool2d` over three axes."""

    axes = 3


class LpPool1d(LpPool2d):
    """`LpPool2d` over one axis."""

    axes = 1


class LpPool3d(LpPool2d):
    """`LpPool2d` over three axes."""

    axes = 3


class GlobalAveragePool(Module):
    """The mean over all spatial axes: (N, C, *spatial) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(*range(2, x.rank))


class GlobalMaxPool(Module):
    """The greatest over all spatial axes: (N, C, *spatial) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reduce("max", *range(2, x.rank))


class _Adaptive(Module):
    """Windows that cut each spatial axis of n in `size` parts: part i is [floor(i n / size), ceil((i + 1) n / size))."""

    axes = 2

    def __init__(self, size: Sizes) -> None:
        self.size = sizes(size, self.axes, "size")
        if any(n < 1 for n in self.size):
            raise GraphcError("the sizes of adaptive pooling are 1 or more", seen=self.size)

    def over(self, x: Tensor, axis: int) -> Tensor:
        """What a window over one axis gives, which goes."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if x.rank != self.axes + 2 or not all(isinstance(d, int) for d in x.shape[2:]):
            raise ShapeError(f"{type(self).__name__} takes (N, C, *spatial) of known spatial sizes", seen=x.value.type)
        for axis, parts in enumerate(self.size, 2):
            n = int(x.shape[axis])  # type: ignore[arg-type]
            before, after = x.shape[:axis], x.shape[axis + 1 :]
            if n % parts == 0:
                x = self.over(x.reshape(*before, parts, n // parts, *after), axis + 1)
            else:
                windows = [x.part(axis, i * n // parts, -(-(i + 1) * n // parts)) for i in range(parts)]
                x = concat([self.over(w, axis).reshape(*before, 1, *after) for w in windows], axis)
        return x


class AdaptiveAveragePool2d(_Adaptive):
    """Means of as many windows as asked for, whatever the size of the image: (N, C, H, W) to (N, C, *size)."""

    def over(self, x: Tensor, axis: int) -> Tensor:
        return x.mean(axis)


class AdaptiveMaxPool2d(_Adaptive):
    """Greatest elements of as many windows as asked for: (N, C, H, W) to (N, C, *size)."""

    def over(self, x: Tensor, axis: int) -> Tensor:
        return x.reduce("max", axis)


class AdaptiveAveragePool1d(AdaptiveAveragePool2d):
    """`AdaptiveAveragePool2d` over one axis."""

    axes = 1


class AdaptiveAveragePool3d(AdaptiveAveragePool2d):
    """`AdaptiveAveragePool2d` over three axes."""

    axes = 3


class AdaptiveMaxPool1d(AdaptiveMaxPool2d):
    """`AdaptiveMaxPool2d` over one axis."""

    axes = 1


class AdaptiveMaxPool3d(AdaptiveMaxPool2d):
    """`AdaptiveMaxPool2d` over three axes."""

    axes = 3
