"""Resizing images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr, floordiv
from graphc.ir.types import DType, f64
from graphc_onnx.call import Call, Converter
from graphc_onnx.imported import Refused

_TRANSFORMS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")


def _resize(c: Call) -> Value:
    x = c.x()
    rank = x.type.rank
    if c.opset < 11:
        return _emit(c, x, tuple(range(rank)), None, _scales(c, 1, rank), "asymmetric", "floor")
    given = c.get("axes")
    axes = tuple(range(rank)) if given is None else c.axes(given, rank)
    if c.get("antialias", 0):
        raise Refused("antialiasing isn't supported")
    transform = c.get("coordinate_transformation_mode")
    if transform not in _TRANSFORMS:
        raise Refused(f"the coordinate transformation {transform} isn't supported")
    sizes = c.sizes(3, "sizes") if c.has(3) and c.tensor(3).type.shape != (0,) else None
    scales: Sequence[float] | None = None
    if sizes is None:
        scales = _scales(c, 2, len(axes))
    elif len(sizes) != len(axes):
        raise c.wrong("there must be a size for each axis", sizes, f"{len(axes)} sizes")
    elif c.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        sizes, scales = _in_proportion(c, [x.type.shape[i] for i in axes], sizes)
    return _emit(c, x, axes, sizes, scales, transform, c.get("nearest_mode"))


def _upsample(c: Call) -> Value:
    x = c.x()
    scales = c.get("scales") if c.opset < 9 else _scales(c, 1, x.type.rank)
    return _emit(c, x, tuple(range(x.type.rank)), None, scales, "asymmetric", "floor")


def _scales(c: Call, index: int, count: int) -> tuple[float, ...]:
    if not c.has(index):
        raise c.wrong("neither sizes nor scales are given")
    scales = tuple(float(s) for s in c.numbers(index, "scales").reshape(-1))
    if len(scales) != count:
        raise c.wrong("there must be a scale for each axis", scales, f"{count} scales")
    return scales


def _in_proportion(c: Call, have: Sequence[Dim], sizes: Sequence[Dim]) -> tuple[list[Dim], tuple[float, ...]]:
    """Sizes that keep the proportions: the largest within, or the smallest around, those asked for."""
    pairs = [(a, b) for a, b in zip(sizes, have, strict=True) if isinstance(a, int) and isinstance(b, int) and b > 0]
    if len(pairs) < len(sizes):
        raise Refused("keeping the proportions of a dynamic size isn't supported")
    ratios = [a / b for a, b in pairs]
    scale = min(ratios) if c.get("keep_aspect_ratio_policy") == "not_larger" else max(ratios)
    return [math.floor(scale * b + 0.5) for _, b in pairs], (scale,) * len(sizes)


def _emit(
    c: Call, x: Value, axes: Sequence[int], sizes: Sequence[Dim] | None, scales: Sequence[float] | None,
    transform: str, rounding: str,
) -> Value:  # fmt: skip
    if scales is not None and (len(scales) != len(axes) or not all(0 < s < math.inf for s in scales)):
        raise c.wrong("scales must be positive, one for each axis", scales)
    mode = c.get("mode")
    if mode == "bilinear":
        mode = "linear"
    if mode not in ("nearest", "linear", "cubic"):
        raise c.wrong("unknown mode", mode, "nearest, linear or cubic")
    have = [x.type.shape[i] for i in axes]
    if sizes is None:
        assert scales is not None
        sizes = [_scaled(d, s) for d, s in zip(have, scales, strict=True)]
    if transform == "align_corners" and scales is not None:
        # ONNX then counts with a length that isn't a whole number.
        for d, scale in zip(have, scales, strict=True):
            if not (scale == round(scale) or (isinstance(d, int) and d * scale == round(d * scale))):
                raise Refused("aligning corners at a scale that gives no whole size isn't supported")
    changed = [
        i for i in range(len(axes))
        if sizes[i] != have[i] or (scales is not None and scales[i] != 1)
    ]  # fmt: skip
    if not changed:
        return x
    dtype = x.type.dtype
    y = c.b.op(
        "resize", c.b.cast(x, _computed_in(dtype, mode)), axes=tuple(axes[i] for i in changed),
        sizes=tuple(sizes[i] for i in changed),
        scales=() if scales is None else tuple(float(scales[i]) for i in changed), mode=mode,
        coordinate_transform=transform, nearest_rounding=rounding, cubic_a=float(c.get("cubic_coeff_a", -0.75)),
        exclude_outside=bool(c.get("exclude_outside", 0)),
    )  # fmt: skip
    return c.b.cast(y, dtype)


def _computed_in(dtype: DType, mode: str) -> DType:
    """The type to compute in: f64 holds the integers that nearest only moves."""
    if dtype.is_float:
        return dtype
    if mode != "nearest" or dtype.bytes == 8 or dtype.is_bool:
        raise Refused(f"{mode} resizing of {dtype} isn't supported")
    return f64


def _scaled(d: Dim, scale: float) -> Dim:
    """floor(d * scale)."""
    if not isinstance(d, Expr):
        return math.floor(d * scale)
    exact = Fraction(scale).limit_denominator(1024)
    if float(exact) != scale:
        raise Refused(f"a scale of {scale} for a dynamic axis isn't supported")
    return floordiv(d * exact.numerator, exact.denominator)


CONVERTERS: Mapping[str, Converter] = {"Resize": _resize, "Upsample": _upsample}
