"""Convolutions over 1 to 3 spatial axes, channels first: (N, C, *spatial)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from graphc.errors import GraphcError, ShapeError
from graphc_nn.initializers import Initializer
from graphc_nn.linear import TORCH_LIKE
from graphc_nn.module import Module, Parameter, Sequential
from graphc_nn.tensor import Tensor

Sizes = int | Sequence[int]


def sizes(given: Sizes, count: int, what: str) -> tuple[int, ...]:
    """One integer for each axis. Raises GraphcError for another number of them."""
    found = (given,) * count if isinstance(given, int) else tuple(given)
    if len(found) != count:
        raise GraphcError(f"{what} needs one number, or one for each of {count} axes", seen=given)
    return found


class _Convolution(Module):
    axes: int

    def __init__(
        self,
        inputs: int,
        outputs: int,
        window: Sizes,
        stride: Sizes = 1,
        padding: Sizes | Literal["same"] = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        weight: Initializer = TORCH_LIKE,
    ) -> None:
        if groups < 1 or inputs % groups or outputs % groups:
            raise GraphcError("groups must divide the channels", seen=f"{groups} of {inputs} and {outputs}")
        self.channels = inputs
        window = sizes(window, self.axes, "window")
        self.strides, self.dilation = sizes(stride, self.axes, "stride"), sizes(dilation, self.axes, "dilation")
        if isinstance(padding, str):
            if padding != "same":
                raise GraphcError("there is no such padding", seen=padding, expected='numbers or "same"')
            if any(s != 1 for s in self.strides):
                raise GraphcError('padding "same" is for a stride of 1', seen=self.strides)
            reach = [d * (k - 1) for k, d in zip(window, self.dilation, strict=True)]
            self.padding = tuple(p for r in reach for p in (r // 2, r - r // 2))
        else:
            self.padding = tuple(p for q in sizes(padding, self.axes, "padding") for p in (q, q))
        self.groups = groups
        self.weight = Parameter(self.kernel(inputs, outputs, window), weight)
        self.bias = Parameter((outputs,)) if bias else None

    def kernel(self, inputs: int, outputs: int, window: tuple[int, ...]) -> tuple[int, ...]:
        return (outputs, inputs // self.groups, *window)

    def check(self, x: Tensor) -> None:
        if x.rank != self.axes + 2 or x.shape[1] != self.channels:
            expected = f"rank {self.axes + 2} with {self.channels} channels"
            raise ShapeError(f"{type(self).__name__} takes (N, C, *spatial)", seen=x.value.type, expected=expected)

    def biased(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + y.of(self.bias).along(1, y.shape)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return self.biased(
            x.op("conv", x.of(self.weight), strides=self.strides, padding=self.padding, dilation=self.dilation,
                 groups=self.groups)
        )  # fmt: skip


class Conv1d(_Convolution):
    """Convolution over one axis; weight (outputs, inputs / groups, window). Arguments as torch's."""

    axes = 1


class Conv2d(_Convolution):
    """Convolution over two axes; weight (outputs, inputs / groups, *window). Arguments as torch's."""

    axes = 2


class Conv3d(_Convolution):
    """Convolution over three axes; weight (outputs, inputs / groups, *window). Arguments as torch's."""

    axes = 3


class _Transposed(_Convolution):
    """The transpose of a convolution; weight (inputs, outputs / groups, *window)."""

    def __init__(
        self, inputs: int, outputs: int, window: Sizes, stride: Sizes = 1, padding: Sizes = 0, output_padding: Sizes = 0,
        groups: int = 1, bias: bool = True, dilation: Sizes = 1, *, weight: Initializer = TORCH_LIKE,
    ) -> None:  # fmt: skip
        super().__init__(inputs, outputs, window, stride, padding, dilation, groups, bias, weight=weight)
        self.extra = sizes(output_padding, self.axes, "output_padding")
        if any(e >= max(s, d) for e, s, d in zip(self.extra, self.strides, self.dilation, strict=True)):
            raise GraphcError("output_padding must be below stride or dilation", seen=self.extra)

    def kernel(self, inputs: int, outputs: int, window: tuple[int, ...]) -> tuple[int, ...]:
        return (inputs, outputs // self.groups, *window)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        window = self.weight.shape[2:]
        size = tuple(
            (n - 1) * s - self.padding[2 * i] - self.padding[2 * i + 1] + d * (k - 1) + 1 + e
            for i, (n, s, d, k, e) in enumerate(
                zip(x.shape[2:], self.strides, self.dilation, window, self.extra, strict=True)
            )
        )
        return self.biased(
            x.op("conv_input_grad", x.of(self.weight), input_size=size, strides=self.strides, padding=self.padding,
                 dilation=self.dilation, groups=self.groups)
        )  # fmt: skip


class ConvTranspose1d(_Transposed):
    """Transposed convolution over one axis. Arguments as torch's."""

    axes = 1


class ConvTranspose2d(_Transposed):
    """Transposed convolution over two axes. Arguments as torch's."""

    axes = 2


class ConvTranspose3d(_Transposed):
    """Transposed convolution over three axes. Arguments as torch's."""

    axes = 3


def depthwise(channels: int, window: Sizes, stride: Sizes = 1, padding: Sizes = 0, bias: bool = True) -> Conv2d:
    """A two-dimensional convolution of each channel by itself."""
    return Conv2d(channels, channels, window, stride, padding, groups=channels, bias=bias)


def separable(inputs: int, outputs: int, window: Sizes, stride: Sizes = 1, padding: Sizes = 0) -> Sequential:
    """Depthwise, then over channels alone. Source: Chollet, 2016."""
    return Sequential(depthwise(inputs, window, stride, padding, bias=False), Conv2d(inputs, outputs, 1))
