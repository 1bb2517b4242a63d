"""Products of matrices and convolutions in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.ir.symbolic import Dim, product
from graphc.ops.contraction import free_axes
from graphc.ops.convolution import ConvSpec
from graphc_onnx.export_scope import Name
from graphc_onnx.exported_node import ExportedNode, Exporter
from graphc_onnx.imported import Refused


def _dot(c: ExportedNode) -> Name:
    """MatMul of [batch, rows, contracted] by [batch, contracted, columns], or of any rows by one matrix."""
    s = c.scope
    lhs, rhs = (s.cast(x, c.type.dtype) for x in c.xs())
    lhs_free = free_axes(lhs.rank, c["lhs_batch"], c["lhs_contract"])
    rhs_free = free_axes(rhs.rank, c["rhs_batch"], c["rhs_contract"])
    lhs = s.transpose(lhs, (*c["lhs_batch"], *lhs_free, *c["lhs_contract"]))
    rhs = s.transpose(rhs, (*c["rhs_batch"], *c["rhs_contract"], *rhs_free))
    batch, contracted = len(c["lhs_batch"]), len(c["lhs_contract"])
    if not batch and contracted == 1 and len(rhs_free) == 1 and lhs_free:
        return c.op("MatMul", [lhs, rhs])
    rows = lhs.shape[batch : lhs.rank - contracted]
    columns = rhs.shape[batch + contracted :]
    inner = product(lhs.shape[lhs.rank - contracted :])
    front = lhs.shape[:batch]
    lhs = s.reshape(lhs, (*front, product(rows), inner))
    rhs = s.reshape(rhs, (*front, inner, product(columns)))
    y = s.op("MatMul", [lhs, rhs], c.type.dtype, (*front, product(rows), product(columns)))
    return s.reshape(y, c.type.shape)


def _matmul(c: ExportedNode) -> Name:
    return c.op("MatMul", [c.scope.cast(x, c.type.dtype) for x in c.xs()])


# Convolutions


def _to_first(c: ExportedNode, x: Name, spec: ConvSpec) -> Name:
    """A tensor with its channels second."""
    if spec.layout == "channels_first":
        return x
    return c.scope.transpose(x, (0, x.rank - 1, *range(1, x.rank - 1)))


def _from_first(c: ExportedNode, y: Name, spec: ConvSpec) -> Name:
    """A result with its channels where the node has them."""
    if spec.layout == "channels_first":
        return y
    return c.scope.transpose(y, (0, *range(2, y.rank), 1))


def _kernel(c: ExportedNode, w: Name, spec: ConvSpec) -> Name:
    """[outputs, inputs / groups, *window]."""
    outputs, inputs, window = spec.kernel_axes
    return c.scope.transpose(w, (outputs, inputs, *window))


def _sliding(spec: ConvSpec) -> dict[str, object]:
    pads = [*spec.padding[::2], *spec.padding[1::2]]
    return {"strides": spec.strides, "pads": pads, "dilations": spec.dilation, "group": spec.groups}


def _first_shape(shape: Sequence[Dim], spec: ConvSpec) -> tuple[Dim, ...]:
    """A shape with its channels second."""
    return (shape[0], shape[spec.channel_axis], *(shape[i] for i in spec.spatial_axes))


def _spatial(c: ExportedNode) -> ConvSpec:
    spec = ConvSpec.from_attributes(c.node.attributes)
    if spec.spatial == 0:
        raise Refused("ONNX convolves over one axis at least")
    return spec


def _conv(c: ExportedNode) -> Name:
    spec = _spatial(c)
    x, w = (c.scope.cast(v, c.type.dtype) for v in c.xs())
    x, w = _to_first(c, x, spec), _kernel(c, w, spec)
    y = c.scope.op("Conv", [x, w], c.type.dtype, _first_shape(c.type.shape, spec), **_sliding(spec))
    return _from_first(c, y, spec)


def _conv_input_grad(c: ExportedNode) -> Name:
    """ConvTranspose; what it lacks of the input's size is output padding."""
    spec = _spatial(c)
    dy, w = (c.scope.cast(v, c.type.dtype) for v in c.xs())
    dy, w = _to_first(c, dy, spec), _kernel(c, w, spec)
    missing: list[int] = []
    for i, size in enumerate(c["input_size"]):
        window = w.shape[2 + i]
        low, high = spec.padding[2 * i : 2 * i + 2]
        least = spec.strides[i] * (dy.shape[2 + i] - 1) + (window - 1) * spec.dilation[i] + 1 - low - high
        more = size - least
        if not isinstance(more, int) or not 0 <= more < max(spec.strides[i], spec.dilation[i]):
            raise Refused("ONNX's transposed convolution gives no such size")
        missing.append(more)
    y = c.scope.op(
        "ConvTranspose", [dy, w], c.type.dtype, _first_shape(c.type.shape, spec), output_padding=missing,
        **_sliding(spec),
    )  # fmt: skip
    return _from_first(c, y, spec)


EXPORTERS: Mapping[str, Exporter] = {
    "dot": _dot,
    "matmul": _matmul,
    "conv": _conv,
    "conv_input_grad": _conv_input_grad,
}
