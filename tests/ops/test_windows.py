"""Windows against PyTorch's unfold, and at the edges that padding and NaN make."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphc.errors import ShapeError
from graphc.ir.opdef import Inference, Sample
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32, i64, tensor
from graphc.ops.windows import WINDOW_MAX, WINDOW_SUM, WindowSpec

SAMPLES = [s for s in WINDOW_SUM.samples() if s.operands[0].size]


def windows(x: np.ndarray, spec: WindowSpec, fill: float) -> np.ndarray:
    """[positions..., window...] by PyTorch's unfold, dilation by striding within a longer window."""
    pads = [(0, 0)] * x.ndim
    for i, a in enumerate(spec.axes):
        pads[a] = spec.padding[2 * i : 2 * i + 2]
    t = torch.from_numpy(np.pad(x, pads, constant_values=fill))
    for a, k, s, d in zip(spec.axes, spec.window, spec.strides, spec.dilation, strict=True):
        t = t.unfold(a, d * (k - 1) + 1, s)[..., ::d]
    return t.numpy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: str(dict(s.attributes)))
def test_equals_unfold(sample: Sample, dtype: type) -> None:
    a = dict(sample.attributes)
    spec = WindowSpec.from_attributes(a)
    x = (sample.operands[0] * 10).astype(dtype)
    inner = tuple(range(x.ndim, x.ndim + len(spec.axes)))
    (total,) = WINDOW_SUM.reference((x,), a)
    expected = windows(x, spec, 0).sum(inner)
    np.testing.assert_allclose(total, expected, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-5)
    assert total.dtype == dtype
    lowest = np.iinfo(dtype).min if dtype == np.int32 else -np.inf
    values, indices = WINDOW_MAX.reference((x,), a)
    np.testing.assert_array_equal(values, windows(x, spec, lowest).max(inner))
    moved = np.moveaxis(x, spec.axes, range(x.ndim - len(spec.axes), x.ndim))
    flat = moved.reshape(*moved.shape[: x.ndim - len(spec.axes)], -1)
    found = np.moveaxis(indices, spec.axes, range(x.ndim - len(spec.axes), x.ndim))
    found = found.reshape(*flat.shape[:-1], int(np.prod(found.shape[flat.ndim - 1 :])))
    picked = np.take_along_axis(flat, found, -1)
    np.testing.assert_array_equal(np.moveaxis(values, spec.axes, range(x.ndim - len(spec.axes), x.ndim)).ravel(),
                                  picked.ravel())  # fmt: skip


@pytest.mark.parametrize("op", [WINDOW_SUM, WINDOW_MAX], ids=lambda op: op.name)
def test_inference_agrees_with_reference(op) -> None:
    for sample in op.samples():
        x = sample.operands[0].astype(np.float32)
        inferred = op.infer(Inference(), [tensor(f32, *x.shape)], op.complete(sample.attributes))
        results = op.reference((x,), op.complete(sample.attributes))
        assert [t.shape for t in inferred] == [r.shape for r in results]
        assert [t.dtype.numpy for t in inferred] == [r.dtype for r in results]


def maximum(x: list[float], window: int, **rest) -> tuple[list, list]:
    a = {"axes": (0,), "window": (window,), "strides": (1,), "padding": (0, 0), "dilation": (1,)} | rest
    values, indices = WINDOW_MAX.reference((np.array(x),), a)
    return values.tolist(), indices.tolist()


def test_first_of_equals_wins() -> None:
    assert maximum([2.0, 2.0, 1.0, 2.0], 3) == ([2.0, 2.0], [0, 1])


def test_nan_wins_over_numbers_and_the_first_nan_over_others() -> None:
    values, indices = maximum([np.inf, np.nan, np.nan, 1.0], 2)
    assert np.isnan(values).all() and indices == [1, 1, 2]


def test_padding_never_wins() -> None:
    assert maximum([-np.inf, -np.inf], 2, padding=(1, 1)) == ([-np.inf] * 3, [0, 0, 1])
    values, indices = WINDOW_MAX.reference(
        (np.array([-128, -128], np.int8),),
        {"axes": (0,), "window": (2,), "strides": (1,), "padding": (1, 1), "dilation": (1,)},
    )
    assert values.tolist() == [-128] * 3 and indices.tolist() == [0, 0, 1]


def test_a_dilated_window_over_padding_alone_is_lowest() -> None:
    assert maximum([5.0], 2, padding=(1, 1), dilation=(2,)) == ([-np.inf], [0])


def test_symbolic_size() -> None:
    h = symbol("h", 4)
    a = {"axes": (1,), "window": (3,), "strides": (2,), "padding": (1, 1), "dilation": (1,)}
    assert WINDOW_MAX.infer(Inference(), (tensor(f32, 2, h),), a) == (
        tensor(f32, 2, (h - 1) // 2 + 1), tensor(i64, 2, (h - 1) // 2 + 1),
    )  # fmt: skip


def test_refuses_a_maximum_over_padding_alone_and_bad_axes() -> None:
    a = {"axes": (0,), "window": (2,), "strides": (1,), "padding": (2, 0), "dilation": (1,)}
    with pytest.raises(ShapeError, match="maximum over nothing"):
        WINDOW_MAX.infer(Inference(), (tensor(f32, 5),), a)
    with pytest.raises(ShapeError, match="increasing"):
        WINDOW_SUM.infer(Inference(), (tensor(f32, 5, 5),), {
            "axes": (1, 0), "window": (2, 2), "strides": (1, 1), "padding": (0,) * 4, "dilation": (1, 1)})  # fmt: skip
    with pytest.raises(ShapeError, match="larger than the padded"):
        WINDOW_SUM.infer(Inference(), (tensor(f32, 1),), {**a, "padding": (0, 0)})
