"""Resize against onnxruntime's and PyTorch's, over every mode and transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphc.errors import ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.opdef import Inference
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32, tensor
from graphc.ops import find_operator
from graphc.ops.resize import ROUNDINGS, TRANSFORMS

RESIZE = find_operator("resize")
IMAGE = np.random.default_rng(0).normal(size=(1, 2, 4, 6)).astype(np.float32)


def resized(x: np.ndarray, **attributes) -> np.ndarray:
    return RESIZE.reference((x,), RESIZE.complete({"axes": (2, 3)} | attributes))[0]


@pytest.mark.parametrize("sizes", [(8, 12), (3, 5), (1, 1), (7, 4)])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("mode", ["linear", "cubic", *ROUNDINGS])
def test_equals_onnxruntime(run_onnx, mode: str, transform: str, sizes: tuple[int, int]) -> None:
    nearest = {"nearest_mode": mode} if mode in ROUNDINGS else {}
    (expected,) = run_onnx(
        "Resize", [IMAGE, None, None, np.array((1, 2, *sizes), np.int64)],
        mode="nearest" if nearest else mode, coordinate_transformation_mode=transform, **nearest,
    )  # fmt: skip
    ours = {"mode": "nearest", "nearest_rounding": mode} if nearest else {"mode": mode}
    seen = resized(IMAGE, sizes=sizes, coordinate_transform=transform, **ours)
    np.testing.assert_allclose(seen, expected, atol=2e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_scales_that_were_rounded_away_count(run_onnx, mode: str) -> None:
    (expected,) = run_onnx("Resize", [IMAGE, None, np.array((1, 1, 1.7, 0.6), np.float32)], mode=mode)
    scales = tuple(float(np.float32(s)) for s in (1.7, 0.6))
    np.testing.assert_allclose(resized(IMAGE, sizes=expected.shape[2:], scales=scales, mode=mode), expected, atol=2e-5)


def test_outside_excluded_as_onnxruntime(run_onnx) -> None:
    sizes = np.array((1, 2, 7, 9), np.int64)
    (expected,) = run_onnx("Resize", [IMAGE, None, None, sizes], mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5)
    seen = resized(IMAGE, sizes=(7, 9), mode="cubic", exclude_outside=True, cubic_a=-0.5)
    np.testing.assert_allclose(seen, expected, atol=2e-5)


@pytest.mark.parametrize(("mode", "torch_mode"), [("linear", "bilinear"), ("cubic", "bicubic")])
@pytest.mark.parametrize("corners", [False, True])
def test_f64_equals_torch(mode: str, torch_mode: str, corners: bool) -> None:
    x = IMAGE.astype(np.float64)
    expected = torch.nn.functional.interpolate(torch.from_numpy(x), (9, 4), mode=torch_mode, align_corners=corners)
    seen = resized(x, sizes=(9, 4), mode=mode, coordinate_transform="align_corners" if corners else "half_pixel")
    np.testing.assert_allclose(seen, expected.numpy(), atol=1e-13)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_symbolic_sizes_decompose(mode: str) -> None:
    h = symbol("h")
    b = Builder()
    x = b.input("x", f32, (1, 2, h, 6))
    node = b.emit("resize", [x], axes=(2, 3), sizes=(h * 2, 3), mode=mode)
    assert node.result.type == tensor(f32, 1, 2, h * 2, 3)
    b.graph.set_outputs(node.op.decompose(b, node))
    b.graph.erase(node)
    (seen,) = interpret(b.graph, [IMAGE])
    np.testing.assert_allclose(seen, resized(IMAGE, sizes=(8, 3), mode=mode), atol=1e-6)


def test_refuses_unknown_modes_and_missing_sizes() -> None:
    with pytest.raises(ShapeError, match="unknown mode"):
        RESIZE.infer(Inference(), [tensor(f32, 4)], RESIZE.complete({"axes": (0,), "sizes": (2,), "mode": "area"}))
    with pytest.raises(ShapeError, match="size for each axis"):
        RESIZE.infer(Inference(), [tensor(f32, 4)], RESIZE.complete({"axes": (0,), "sizes": (), "mode": "linear"}))
