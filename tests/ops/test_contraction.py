from __future__ import annotations

import itertools

import numpy as np
import pytest

from graphc.errors import ShapeError
from graphc.ir.opdef import Inference
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32, f64, tensor
from graphc.ops.contraction import DOT, MATMUL


def dot(lhs: np.ndarray, rhs: np.ndarray, **axes: tuple[int, ...]) -> np.ndarray:
    (result,) = DOT.reference((lhs, rhs), DOT.complete(axes))
    return result


def test_equals_einsum_over_every_choice_of_axes() -> None:
    rng = np.random.default_rng(0)
    sizes = {"b": 2, "c": 3, "m": 4, "n": 5}
    for lhs in itertools.permutations("bcm"):
        for rhs in itertools.permutations("bcn"):
            x, y = (rng.standard_normal([sizes[a] for a in axes]) for axes in (lhs, rhs))
            axes = {"lhs_batch": (lhs.index("b"),), "rhs_batch": (rhs.index("b"),),
                    "lhs_contract": (lhs.index("c"),), "rhs_contract": (rhs.index("c"),)}  # fmt: skip
            expected = np.einsum(f"{''.join(lhs)},{''.join(rhs)}->bmn", x, y)
            np.testing.assert_allclose(dot(x, y, **axes), expected, rtol=1e-13)


def test_keeps_f64_and_rounds_f16_once() -> None:
    x = np.full((1, 3000), 0.1)
    assert abs(dot(x, x, lhs_contract=(1,), rhs_contract=(1,))[0, 0] - 30.0) < 1e-12
    narrow = x.astype(np.float16)
    expected = (narrow.astype(np.float64) @ narrow.astype(np.float64).T).astype(np.float16)
    np.testing.assert_array_equal(dot(narrow, narrow, lhs_contract=(1,), rhs_contract=(1,)), expected)


def test_integers_wrap() -> None:
    x = np.full((1, 4), 100, np.int8)
    assert dot(x, x.T.copy(), lhs_contract=(1,), rhs_contract=(0,)).item() == np.array(40000).astype(np.int8)


def test_sum_over_nothing_is_zero() -> None:
    np.testing.assert_array_equal(dot(np.ones((2, 0)), np.ones((0, 3)), lhs_contract=(1,), rhs_contract=(0,)), 0.0)


def test_symbolic_dims_and_guards() -> None:
    n, m = symbol("n"), symbol("m")
    inference = Inference()
    axes = DOT.complete({"lhs_contract": (1,), "rhs_contract": (0,)})
    (result,) = DOT.infer(inference, (tensor(f32, n, m), tensor(f32, 4, 5)), axes)
    assert result == tensor(f32, n, 5)
    assert [str(g) for g in inference.guards] == ["m == 4"]


def test_refuses_other_dtypes_and_sizes() -> None:
    axes = DOT.complete({"lhs_contract": (1,), "rhs_contract": (0,)})
    with pytest.raises(ShapeError, match="one element type"):
        DOT.infer(Inference(), (tensor(f32, 2, 3), tensor(f64, 3, 2)), axes)
    with pytest.raises(ShapeError, match="contracted dims"):
        DOT.infer(Inference(), (tensor(f32, 2, 3), tensor(f32, 4, 2)), axes)
    with pytest.raises(ShapeError, match=r"\[\*batch,m,k\]"):
        MATMUL.infer(Inference(), (tensor(f32, 3), tensor(f32, 3, 2)), {})
