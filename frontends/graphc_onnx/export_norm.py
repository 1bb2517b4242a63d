"""Normalization, softmax and attention in ONNX."""

from __future__ import annotations

from collections.abc import Mapping

from graphc_onnx.export_scope import ELEM_TYPES, Name
from graphc_onnx.exported_node import ExportedNode, Exporter
from graphc_onnx.imported import Refused


def _stash(c: ExportedNode) -> int:
    """The element type that statistics are computed in: f32 for those of 16 bits."""
    return ELEM_TYPES["f64" if c.type.dtype.name == "f64" else "f32"]


def _layer_norm(c: ExportedNode) -> Name:
    return c.op("LayerNormalization", c.xs(), axis=c["axis"], epsilon=c["epsilon"], stash_type=_stash(c))


def _rms_norm(c: ExportedNode) -> Name:
    return c.op("RMSNormalization", c.xs(), axis=c["axis"], epsilon=c["epsilon"], stash_type=_stash(c))


def _group_norm(c: ExportedNode) -> Name:
    """With as many groups as channels, instance normalization."""
    if c["groups"] == c.type.shape[1] and c.type.rank > 2:
        return c.op("InstanceNormalization", c.xs(), epsilon=c["epsilon"])
    return c.op("GroupNormalization", c.xs(), num_groups=c["groups"], epsilon=c["epsilon"], stash_type=_stash(c))


def _batch_norm(c: ExportedNode) -> Name:
    if c["axis"] != 1:
        raise Refused("ONNX has channels second")
    return c.op("BatchNormalization", c.xs(), epsilon=c["epsilon"])


def _attention(c: ExportedNode) -> Name:
    return c.op("Attention", c.xs(), scale=c["scale"], is_causal=int(c["causal"]))


def _lrn(c: ExportedNode) -> Name:
    return c.op("LRN", c.xs(), **{name: c[name] for name in ("size", "alpha", "beta", "bias")})


def _along_axis(op: str) -> Exporter:
    return lambda c: c.op(op, c.xs(), axis=c["axis"])


EXPORTERS: Mapping[str, Exporter] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "attention": _attention,
    "lrn": _lrn,
    "softmax": _along_axis("Softmax"),
    "log_softmax": _along_axis("LogSoftmax"),
}
