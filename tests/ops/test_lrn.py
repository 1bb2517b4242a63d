from __future__ import annotations

import numpy as np
import pytest
import torch

from graphc.ops import find_operator

LRN = find_operator("lrn")


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_torch(size: int, dtype: type) -> None:
    x = np.random.default_rng(0).normal(size=(2, 7, 4, 3)).astype(dtype) * 3
    (seen,) = LRN.reference((x,), {"size": size, "alpha": 0.2, "beta": 0.7, "bias": 1.3})
    expected = torch.nn.functional.local_response_norm(torch.from_numpy(x), size, 0.2, 0.7, 1.3).numpy()
    assert seen.dtype == dtype
    np.testing.assert_allclose(seen, expected, rtol=2e-6 if dtype == np.float32 else 1e-13)


def test_equals_onnxruntime(run_onnx) -> None:
    x = np.random.default_rng(1).normal(size=(1, 6, 3, 2)).astype(np.float32)
    (expected,) = run_onnx("LRN", [x], size=3, alpha=0.5, beta=0.6, bias=2.0)
    (seen,) = LRN.reference((x,), {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 2.0})
    np.testing.assert_allclose(seen, expected, rtol=2e-6)
