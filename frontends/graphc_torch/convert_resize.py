"""Resizing images."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.graph import Value
from graphc_torch.call import Call, Converter


def _resize(mode: str) -> Converter:
    """The size is torch's; given scales count for the coordinates, as in torch."""

    def convert(c: Call) -> Value:
        x = c.x("input")
        sizes = c.type().shape[2:]
        axes = tuple(range(2, x.type.rank))
        if mode == "nearest":
            transform = "asymmetric"
        else:
            transform = "align_corners" if c.get("align_corners") else "half_pixel"
        scales = tuple(float(s) for s in c.get("scale_factors", ())) if transform != "align_corners" else ()
        if all(have == want for have, want in zip(x.type.shape[2:], sizes, strict=True)) and set(scales) <= {1.0}:
            return x
        return c.b.op(
            "resize", x, axes=axes, sizes=sizes, scales=scales, mode=mode, coordinate_transform=transform,
            nearest_rounding="floor", cubic_a=-0.75, exclude_outside=False,
        )  # fmt: skip

    return convert


CONVERTERS: Mapping[str, Converter] = {
    **{f"upsample_nearest{n}d.vec": _resize("nearest") for n in (1, 2, 3)},
    "upsample_linear1d.vec": _resize("linear"),
    "upsample_bilinear2d.vec": _resize("linear"),
    "upsample_trilinear3d.vec": _resize("linear"),
    "upsample_bicubic2d.vec": _resize("cubic"),
}
