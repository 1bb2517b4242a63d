"""Convolution and its two gradients, which are each other's gradients too, over one `ConvSpec`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample, Vjp
from graphc.ir.symbolic import Dim, floordiv
from graphc.ir.types import DType, TensorType
from graphc.ops.by_decomposition import wide
from graphc.ops.common import check_dtype, check_same_dtype, widened
from graphc.ops.sampling import uniform
from graphc.ops.windows import check_sliding, concrete, sliding_size


@dataclass(frozen=True)
class ConvSpec:
    """How a kernel slides over an input, and where both keep their axes.

    strides, dilation: one entry for each spatial axis; padding: (low, high) pairs.
    layout of input and output: "channels_first" (N, C, *spatial) or "channels_last" (N, *spatial, C).
    kernel_layout: "oi" (O, I/groups, *window) or "io" (*window, I/groups, O).
    """

    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    layout: str
    kernel_layout: str

    @staticmethod
    def from_attributes(a: Mapping[str, Any]) -> ConvSpec:
        """The spec in a node's attributes."""
        return ConvSpec(a["strides"], a["padding"], a["dilation"], a["groups"], a["layout"], a["kernel_layout"])

    @property
    def spatial(self) -> int:
        """The number of spatial axes."""
        return len(self.strides)

    @property
    def channel_axis(self) -> int:
        """The axis of channels in input and output."""
        return 1 if self.layout == "channels_first" else self.spatial + 1

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """The spatial axes of input and output."""
        first = 2 if self.layout == "channels_first" else 1
        return tuple(range(first, first + self.spatial))

    @property
    def kernel_axes(self) -> tuple[int, int, tuple[int, ...]]:
        """The kernel's axes of output channels, of input channels, and of the window."""
        n = self.spatial
        if self.kernel_layout == "oi":
            return 0, 1, tuple(range(2, n + 2))
        return n + 1, n, tuple(range(n))

    def check(self) -> None:
        """Raises ShapeError where an attribute has a wrong length or value."""
        if not 1 <= self.spatial <= 3:
            raise ShapeError("a convolution has 1 to 3 spatial axes", seen=self.spatial)
        check_sliding(self.spatial, self.strides, self.padding, self.dilation)
        if self.layout not in ("channels_first", "channels_last"):
            raise ShapeError("unknown layout", seen=self.layout, expected="channels_first or channels_last")
        if self.kernel_layout not in ("oi", "io"):
            raise ShapeError("unknown kernel layout", seen=self.kernel_layout, expected="oi or io")
        if self.groups < 1:
            raise ShapeError("groups must be positive", seen=self.groups)

    def output_size(self, inference: Inference, size: Sequence[Dim], window: Sequence[Dim]) -> tuple[Dim, ...]:
        """The output's spatial dims for an input's and a kernel's; assumes that the kernel fits."""
        return tuple(
            sliding_size(inference, s, k, stride, self.padding[2 * i], self.padding[2 * i + 1], dilation)
            for i, (s, k, stride, dilation) in enumerate(zip(size, window, self.strides, self.dilation, strict=True))
        )

    def shape(self, batch: Dim, channels: Dim, size: Sequence[Dim]) -> tuple[Dim, ...]:
        """The shape of an input or output."""
        return (batch, channels, *size) if self.layout == "channels_first" else (batch, *size, channels)

    def kernel_shape(self, out: Dim, per_group: Dim, window: Sequence[Dim]) -> tuple[Dim, ...]:
        """The shape of a kernel."""
        return (out, per_group, *window) if self.kernel_layout == "oi" else (*window, per_group, out)


# Inference

_DTYPES = ("f32", "f64", "f16", "bf16", "i32")


def _dtype(types: Sequence[TensorType], a: Mapping[str, Any]) -> DType:
    """The result's element type."""
    check_same_dtype(types, "operands of a convolution")
    dtype = check_dtype(types[0], _DTYPES, "operands of a convolution").dtype
    return wide(dtype) if a["wide"] else dtype


def _sizes(spec: ConvSpec, t: TensorType, what: str) -> tuple[Dim, Dim, tuple[Dim, ...]]:
    """(batch, channels, spatial dims) of an input or output."""
    if t.rank != spec.spatial + 2:
        raise ShapeError(f"{what} of a convolution over {spec.spatial} axes must have rank {spec.spatial + 2}", seen=t)
    return t.shape[0], t.shape[spec.channel_axis], tuple(t.shape[i] for i in spec.spatial_axes)


def _kernel_sizes(spec: ConvSpec, t: TensorType) -> tuple[Dim, Dim, tuple[Dim, ...]]:
    """(output channels, input channels of a group, window) of a kernel."""
    if t.rank != spec.spatial + 2:
        raise ShapeError(f"kernel of a convolution over {spec.spatial} axes must have rank {spec.spatial + 2}", seen=t)
    out, per_group, window = spec.kernel_axes
    _check_groups(spec, t.shape[out], "output")
    return t.shape[out], t.shape[per_group], tuple(t.shape[i] for i in window)


def _check_groups(spec: ConvSpec, channels: Dim, what: str) -> None:
    if spec.groups > 1 and channels % spec.groups != 0:
        raise ShapeError(f"{what} channels must be a multiple of groups", seen=f"{channels} in {spec.groups} groups")


def _conv_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    spec = ConvSpec.from_attributes(a)
    spec.check()
    dtype = _dtype(types, a)
    batch, channels, size = _sizes(spec, types[0], "input")
    out, per_group, window = _kernel_sizes(spec, types[1])
    inference.equal(channels, per_group * spec.groups, f"input channels of {types[0]} and kernel {types[1]}")
    return (TensorType(dtype, spec.shape(batch, out, spec.output_size(inference, size, window))),)


def _input_grad_infer(
    inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]
) -> tuple[TensorType, ...]:
    spec = ConvSpec.from_attributes(a)
    spec.check()
    dtype = _dtype(types, a)
    batch, channels, size = _sizes(spec, types[0], "output gradient")
    out, per_group, window = _kernel_sizes(spec, types[1])
    inference.equal(channels, out, f"output channels of {types[0]} and kernel {types[1]}")
    if len(a["input_size"]) != spec.spatial:
        raise ShapeError("input_size needs an entry for each spatial axis", seen=a["input_size"])
    for have, want in zip(size, spec.output_size(inference, a["input_size"], window), strict=True):
        inference.equal(have, want, f"spatial dims of {types[0]} and those for input size {list(a['input_size'])}")
    return (TensorType(dtype, spec.shape(batch, per_group * spec.groups, a["input_size"])),)


def _weight_grad_infer(
    inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]
) -> tuple[TensorType, ...]:
    spec = ConvSpec.from_attributes(a)
    spec.check()
    dtype = _dtype(types, a)
    x, g = types
    batch, channels, size = _sizes(spec, x, "input")
    g_batch, out, g_size = _sizes(spec, g, "output gradient")
    inference.equal(batch, g_batch, f"batch of {x} and {g}")
    _check_groups(spec, channels, "input")
    _check_groups(spec, out, "output")
    if len(a["kernel_size"]) != spec.spatial:
        raise ShapeError("kernel_size needs an entry for each spatial axis", seen=a["kernel_size"])
    for have, want in zip(g_size, spec.output_size(inference, size, a["kernel_size"]), strict=True):
        inference.equal(have, want, f"spatial dims of {g} and those for kernel size {list(a['kernel_size'])}")
    return (TensorType(dtype, spec.kernel_shape(out, floordiv(channels, spec.groups), a["kernel_size"])),)


# References: one matrix product for each position in the window


def _channels_first(x: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """An input or output as [N, C, *spatial]."""
    return x.transpose(0, spec.channel_axis, *spec.spatial_axes)


def _to_layout(x: np.ndarray, spec: ConvSpec) -> np.ndarray:
    return x if spec.layout == "channels_first" else x.transpose(0, *range(2, x.ndim), 1)


def _kernel_first(w: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """A kernel as [O, I/groups, *window]."""
    out, per_group, window = spec.kernel_axes
    return w.transpose(out, per_group, *window)


def _padded_shape(size: Sequence[int], spec: ConvSpec) -> list[int]:
    return [s + spec.padding[2 * i] + spec.padding[2 * i + 1] for i, s in enumerate(size)]


def _inside(spec: ConvSpec, size: Sequence[int]) -> tuple[slice, ...]:
    """Where the input lies in the padded one."""
    low = spec.padding[::2]
    return (slice(None), slice(None), *(slice(p, p + s) for p, s in zip(low, size, strict=True)))


def _tap_slices(spec: ConvSpec, window: Sequence[int], out: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """(t, index) for each window position: index takes from a padded [N, C, *spatial] what meets it."""
    for t in np.ndindex(*window):
        starts = [i * d for i, d in zip(t, spec.dilation, strict=True)]
        steps = zip(starts, spec.strides, out, strict=True)
        yield t, (..., *(slice(s, s + stride * (n - 1) + 1 if n else s, stride) for s, stride, n in steps))


def _grouped(x: np.ndarray, groups: int) -> np.ndarray:
    """[N, C, *spatial] as [N, groups, C/groups, positions]."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, int(np.prod(x.shape[2:])))


def _pad(x: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """A padded copy of the input as [N, C, *spatial]."""
    first = _channels_first(x, spec)
    padded = np.zeros((*first.shape[:2], *_padded_shape(first.shape[2:], spec)), first.dtype)
    padded[_inside(spec, first.shape[2:])] = first
    return padded


def _tap(kernel: np.ndarray, t: Any) -> np.ndarray:
    return np.ascontiguousarray(kernel[:, :, *t])


def _conv_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, w = operands
    spec, g = ConvSpec.from_attributes(a), a["groups"]
    padded, kernel = _pad(x, spec), _kernel_first(w, spec)
    o, per_group = kernel.shape[:2]
    size = [x.shape[i] for i in spec.spatial_axes]
    out = concrete(spec.output_size(Inference(), size, kernel.shape[2:]))
    n = x.shape[0]
    total = np.zeros((n, g, o // g, int(np.prod(out))), padded.dtype)
    for t, index in _tap_slices(spec, kernel.shape[2:], out):
        tap = _tap(kernel, t).reshape(g, o // g, per_group)
        total += tap @ _grouped(padded[index], g)
    return (_to_layout(total.reshape(n, o, *out), spec),)


def _input_grad_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    dy, w = operands
    spec, g = ConvSpec.from_attributes(a), a["groups"]
    grad, kernel = _channels_first(dy, spec), _kernel_first(w, spec)
    o, per_group = kernel.shape[:2]
    size = a["input_size"]
    n, out = grad.shape[0], grad.shape[2:]
    padded = np.zeros((n, per_group * g, *_padded_shape(size, spec)), grad.dtype)
    columns = _grouped(grad, g)
    for t, index in _tap_slices(spec, kernel.shape[2:], out):
        tap = _tap(kernel, t).reshape(g, o // g, per_group)
        padded[index] += (tap.transpose(0, 2, 1) @ columns).reshape(n, per_group * g, *out)
    return (_to_layout(padded[_inside(spec, size)], spec),)


def _weight_grad_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, dy = operands
    spec, g = ConvSpec.from_attributes(a), a["groups"]
    padded, grad = _pad(x, spec), _channels_first(dy, spec)
    o, per_group, out = grad.shape[1], padded.shape[1] // g, grad.shape[2:]
    columns = _grouped(grad, g)
    kernel = np.zeros((o, per_group, *a["kernel_size"]), padded.dtype)
    for t, index in _tap_slices(spec, a["kernel_size"], out):
        products = columns @ _grouped(padded[index], g).transpose(0, 1, 3, 2)
        kernel[:, :, *t] = products.sum(0, dtype=kernel.dtype).reshape(o, per_group)
    return (kernel if spec.kernel_layout == "oi" else kernel.transpose(*range(2, kernel.ndim), 1, 0),)


# Gradients: each of the three is linear in both operands, and the other two are its transposes


def _slide(node: Node) -> dict[str, Any]:
    return {k: node[k] for k in ("strides", "padding", "dilation", "groups", "layout", "kernel_layout")}


def _input_size(node: Node, x: Value) -> tuple[Dim, ...]:
    return tuple(x.type.shape[i] for i in ConvSpec.from_attributes(node.attributes).spatial_axes)


def _kernel_size(node: Node, w: Value) -> tuple[Dim, ...]:
    return tuple(w.type.shape[i] for i in ConvSpec.from_attributes(node.attributes).kernel_axes[2])


def _vjp(vjp: Callable[[Builder, Node, Value, Value, Value], tuple[Value, Value]]) -> Vjp:
    """A VJP(b, node, first operand, second, cotangent) in the result's element type."""

    def computed(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value]:
        (g,) = cotangents
        first, second = (b.cast(v, g.type.dtype) for v in node.operands)
        return [b.cast(d, v.type.dtype) for d, v in zip(vjp(b, node, first, second, g), node.operands, strict=True)]

    return computed


def _conv_vjp(b: Builder, node: Node, x: Value, w: Value, g: Value) -> tuple[Value, Value]:
    slide = _slide(node)
    return (
        b.op("conv_input_grad", g, w, input_size=_input_size(node, x), **slide),
        b.op("conv_weight_grad", x, g, kernel_size=_kernel_size(node, w), **slide),
    )


def _input_grad_vjp(b: Builder, node: Node, dy: Value, w: Value, g: Value) -> tuple[Value, Value]:
    slide = _slide(node)
    return (
        b.op("conv", g, w, **slide),
        b.op("conv_weight_grad", g, dy, kernel_size=_kernel_size(node, w), **slide),
    )


def _weight_grad_vjp(b: Builder, node: Node, x: Value, dy: Value, g: Value) -> tuple[Value, Value]:
    slide = _slide(node)
    return (
        b.op("conv_input_grad", dy, g, input_size=_input_size(node, x), **slide),
        b.op("conv", x, g, **slide),
    )


# Samples: (batch, in, out, size, window, other attributes), from which each of the three makes its operands

_CASES: tuple[tuple[int, int, int, tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    (2, 3, 4, (6, 5), (3, 3), {}),
    (1, 3, 5, (9, 8), (3, 2), {"strides": (2, 2), "padding": (1, 1, 1, 0)}),
    (1, 4, 6, (7, 7), (3, 3), {"dilation": (2, 2), "padding": (2, 2, 2, 2), "groups": 2}),
    (2, 4, 4, (6, 6), (3, 3), {"padding": (1, 1, 1, 1), "groups": 4}),
    (1, 3, 6, (5, 4), (1, 1), {"groups": 3, "strides": (2, 1)}),
    (2, 3, 4, (11,), (4,), {"strides": (3,), "padding": (2, 1)}),
    (1, 2, 3, (4, 5, 4), (2, 3, 2), {"strides": (1, 2, 1), "padding": (0, 0, 1, 1, 1, 0)}),
    (2, 4, 3, (6, 5), (3, 3), {"layout": "channels_last", "kernel_layout": "io", "padding": (1, 1, 1, 1)}),
    (1, 4, 8, (7, 6), (3, 3), {"layout": "channels_last", "groups": 4, "strides": (2, 2), "padding": (0, 1, 0, 1)}),
    (1, 32, 20, (5, 6), (3, 3), {"layout": "channels_last", "kernel_layout": "io", "padding": (1,) * 4, "wide": True}),
    (0, 2, 3, (5, 5), (3, 3), {}),
)


def _cases() -> Iterator[tuple[ConvSpec, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]]:
    for batch, channels, out, size, window, given in _CASES:
        n = len(size)
        a: dict[str, Any] = {
            "strides": (1,) * n, "padding": (0,) * 2 * n, "dilation": (1,) * n, "groups": 1,
            "layout": "channels_first", "kernel_layout": "oi", "wide": False,
        } | given  # fmt: skip
        spec = ConvSpec.from_attributes(a)
        x = uniform(*concrete(spec.shape(batch, channels, size)))
        w = uniform(*concrete(spec.kernel_shape(out, channels // spec.groups, window)), seed=1)
        dy = uniform(*concrete(spec.shape(batch, out, spec.output_size(Inference(), size, window))), seed=2)
        yield spec, x, w, dy, a


def _conv_samples() -> Iterable[Sample]:
    return (Sample((x, w), a) for _, x, w, _, a in _cases())


def _input_grad_samples() -> Iterable[Sample]:
    for spec, x, w, dy, a in _cases():
        yield Sample((dy, w), {**a, "input_size": tuple(x.shape[i] for i in spec.spatial_axes)})


def _weight_grad_samples() -> Iterable[Sample]:
    for spec, x, w, dy, a in _cases():
        yield Sample((x, dy), {**a, "kernel_size": tuple(w.shape[i] for i in spec.kernel_axes[2])})


_ATTRIBUTES = {
    "strides": Attribute("ints"), "padding": Attribute("ints"), "dilation": Attribute("ints"),
    "groups": Attribute("int", 1),
    "layout": Attribute("str", "channels_first"), "kernel_layout": Attribute("str", "oi"),
    "wide": Attribute("bool", False),
}  # fmt: skip

CONV = OpDef(
    name="conv",
    operands=("x", "w"),
    attributes=_ATTRIBUTES,
    infer=_conv_infer,
    reference=widened(_conv_reference),
    vjp=_vjp(_conv_vjp),
    samples=_conv_samples,
    dtypes=_DTYPES,
    doc="""Cross-correlation, as networks call convolution, over 1 to 3 spatial axes.

    result[n, o, p] = sum over c, t of x[n, c + first channel of o's group, p*stride + t*dilation - low] * w[o, c, t],
    with x zero outside of its bounds. `padding` holds (low, high) for each spatial axis; `groups` divides both channel
    dims. Layouts: x and result (N, C, *spatial) "channels_first" or (N, *spatial, C) "channels_last"; w (O, I/groups,
    *window) "oi" or (*window, I/groups, O) "io". Result's spatial dims: floor((size + low + high -
    dilation*(window-1) - 1) / stride) + 1. f16 and bf16 accumulate in f32 and
    round once; with `wide` the result is that f32 sum. Integers wrap. ONNX: Conv without bias.""",
)

CONV_INPUT_GRAD = OpDef(
    name="conv_input_grad",
    operands=("dy", "w"),
    attributes={**_ATTRIBUTES, "input_size": Attribute("dims")},
    infer=_input_grad_infer,
    reference=widened(_input_grad_reference),
    vjp=_vjp(_input_grad_vjp),
    samples=_input_grad_samples,
    dtypes=_DTYPES,
    doc="""The transpose of `conv` in x: what is backpropagated to an input of spatial dims `input_size`.

    result[n, c, q] = sum over o, t, p with p*stride + t*dilation - low == q of dy[n, o, p] * w[o, c, t]. Attributes and
    layouts are those of the convolution whose gradient this is; dy has its output's shape. A transposed convolution
    (ONNX: ConvTranspose) is this operator, with its input as dy.""",
)

CONV_WEIGHT_GRAD = OpDef(
    name="conv_weight_grad",
    operands=("x", "dy"),
    attributes={**_ATTRIBUTES, "kernel_size": Attribute("dims")},
    infer=_weight_grad_infer,
    reference=widened(_weight_grad_reference),
    vjp=_vjp(_weight_grad_vjp),
    samples=_weight_grad_samples,
    dtypes=_DTYPES,
    doc="""The transpose of `conv` in w: what is backpropagated to a kernel of window `kernel_size`.

    result[o, c, t] = sum over n, p of x[n, c + first channel of o's group, p*stride + t*dilation - low] * dy[n, o, p].
    Attributes and layouts are those of the convolution whose gradient this is.""",
)

OPERATORS = (CONV, CONV_INPUT_GRAD, CONV_WEIGHT_GRAD)
