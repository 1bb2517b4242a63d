"""Pools, windows and resizing in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphc.ir.symbolic import Dim, product
from graphc.ir.types import f32, f64, i64
from graphc.ops.windows import WindowSpec
from graphc_onnx.export_scope import Name
from graphc_onnx.exported_node import ExportedNode, Exporter
from graphc_onnx.imported import Refused


class _Framed:
    """An operand as ONNX's pools take it, (N, C, *windowed), and the way back for their results."""

    def __init__(self, c: ExportedNode) -> None:
        self.spec = WindowSpec.from_attributes(c.node.attributes)
        if not self.spec.axes:
            raise Refused("ONNX's pools have one axis at least")
        x = c.x()
        rest = [i for i in range(x.rank) if i not in self.spec.axes]
        self._order = (*rest, *self.spec.axes)
        moved = c.scope.transpose(x, self._order)
        front, self.size = moved.shape[: len(rest)], moved.shape[len(rest) :]
        self._front: tuple[Dim, ...] = front if len(front) == 2 else (1, product(front))
        self.x = c.scope.reshape(moved, (*self._front, *self.size))
        self._c = c
        self._kept = front

    def result(self) -> tuple[Dim, ...]:
        """The shape of a pool's result."""
        return (*self._front, *(self._c.type.shape[i] for i in self.spec.axes))

    def back(self, y: Name) -> Name:
        """A pool's result with its axes where the node has them."""
        moved = self._c.scope.reshape(y, (*self._kept, *y.shape[2:]))
        return self._c.scope.transpose(moved, [self._order.index(i) for i in range(len(self._order))])

    def attributes(self) -> dict[str, Sequence[int]]:
        spec = self.spec
        pads = [*spec.padding[::2], *spec.padding[1::2]]
        return {"kernel_shape": spec.window, "strides": spec.strides, "pads": pads, "dilations": spec.dilation}


def _max_pool(c: ExportedNode) -> Name:
    framed = _Framed(c)
    return framed.back(c.scope.op("MaxPool", [framed.x], c.type.dtype, framed.result(), **framed.attributes()))


def _window_max(c: ExportedNode) -> Sequence[Name]:
    """ONNX counts positions through the whole tensor; those within the windowed axes are the rest by their size."""
    framed = _Framed(c)
    values, index = (v.type.with_shape(framed.result()) for v in c.node.results)
    y, at = c.scope.ops("MaxPool", [framed.x], values, index, **framed.attributes())
    within = c.scope.op("Mod", [at, c.scope.size(product(framed.size))], i64, at.shape)
    return [framed.back(y), framed.back(within)]


def _average_pool(c: ExportedNode) -> Name:
    framed = _Framed(c)
    y = c.scope.op("AveragePool", [framed.x], c.type.dtype, framed.result(),
                   count_include_pad=int(c["count_include_pad"]), **framed.attributes())  # fmt: skip
    return framed.back(y)


def _window_sum(c: ExportedNode) -> Name:
    """The mean, padding counted, times the window's size."""
    framed = _Framed(c)
    y = c.scope.op("AveragePool", [framed.x], c.type.dtype, framed.result(), count_include_pad=1, **framed.attributes())
    size = c.scope.scalar(float(np.prod(framed.spec.window)), y.dtype)
    return framed.back(c.scope.op("Mul", [y, size], y.dtype, y.shape))


def _resize(c: ExportedNode) -> Name:
    x, rank = c.x(), c.type.rank
    options = {
        "mode": c["mode"], "coordinate_transformation_mode": c["coordinate_transform"],
        "nearest_mode": c["nearest_rounding"], "cubic_coeff_a": c["cubic_a"], "exclude_outside": int(c["exclude_outside"]),
    }  # fmt: skip
    if not c["scales"]:
        return c.op("Resize", [x, None, None, c.scope.sizes(c.type.shape)], **options)
    by_axis = dict(zip(c["axes"], c["scales"], strict=True))
    for axis, scale in by_axis.items():
        size, wanted = x.shape[axis], c.type.shape[axis]
        if (
            not isinstance(size, int)
            or not isinstance(wanted, int)
            or int(np.floor(size * np.float32(scale))) != wanted
        ):
            raise Refused("ONNX resizes by scales to the sizes that follow from them alone")
        if x.dtype == f64 and float(np.float32(scale)) != scale:
            raise Refused("ONNX stores scales in single precision")
    scales = np.array([by_axis.get(i, 1.0) for i in range(rank)], f32.numpy)
    return c.op("Resize", [x, None, c.scope.constant(scales)], **options)


EXPORTERS: Mapping[str, Exporter] = {
    "max_pool": _max_pool,
    "window_max": _window_max,
    "average_pool": _average_pool,
    "window_sum": _window_sum,
    "resize": _resize,
}
