"""The conformance suite finds wrong operators: each check is shown one."""

from dataclasses import replace

import numpy as np
import pytest

from graphc.errors import GraphcError
from graphc.ir.opdef import NOT_DIFFERENTIABLE, Sample
from graphc.ir.types import DTYPES, f32, i64
from graphc.ops import find_operator
from graphc.testing.conformance import (
    cases,
    cast_sample,
    check_decomposition,
    check_inference,
    check_round_trip,
    check_symbolic_inference,
    difference,
)
from graphc.testing.gradients import check_vjp, gradient_samples


def case(op, dtype="f32"):
    return next(c for c in cases([op]) if c.dtype == dtype)


def test_a_wrong_result_type_is_found():
    op = find_operator("exp")
    for wrong in (lambda x: x.astype(np.float64), lambda x: x[..., None]):
        with pytest.raises(GraphcError, match="isn't what inference says"):
            check_inference(case(replace(op, reference=lambda x, a, w=wrong: (w(x[0]),))))


def test_inference_that_forgets_symbols_is_found():
    op = find_operator("transpose")

    def infer(inference, types, attributes):
        (x,) = types
        return (x.with_shape(x.shape if any(not isinstance(d, int) for d in x.shape) else x.shape[::-1]),)

    with pytest.raises(AssertionError, match="sample 0"):
        check_symbolic_inference(case(replace(op, infer=infer, samples=lambda: _transposed())))


def _transposed():
    yield Sample((np.zeros((2, 3)),), {"permutation": (1, 0)})


def test_a_wrong_decomposition_is_found():
    op = find_operator("top_k")

    def decompose(b, node):
        return b.ops("top_k", *node.operands, axis=node["axis"], k=node["k"], largest=not node["largest"])

    with pytest.raises(AssertionError, match="elements differ"):
        check_decomposition(case(replace(op, decompose=decompose)))


def test_an_unknown_operator_breaks_the_round_trip():
    with pytest.raises(GraphcError, match="parsed"):
        check_round_trip(case(replace(find_operator("exp"), name="exq")))


@pytest.mark.parametrize(
    "vjp",
    [
        lambda b, node, g: (g[0],),
        lambda b, node, g: (None,),
        lambda b, node, g: (b.op("mul", g[0], b.op("neg", node.result)),),
    ],
)
def test_a_wrong_gradient_is_found(vjp):
    op = replace(find_operator("exp"), vjp=vjp)
    with pytest.raises(AssertionError, match="differences"):
        for sample in gradient_samples(op):
            check_vjp(op, sample)


def test_a_gradient_of_the_wrong_type_is_found():
    op = replace(find_operator("exp"), vjp=lambda b, node, g: (b.cast(g[0], f32),))
    with pytest.raises(AssertionError, match="cotangent"):
        check_vjp(op, gradient_samples(op)[0])


def test_operators_without_gradients_have_no_samples_for_them():
    assert gradient_samples(replace(find_operator("exp"), vjp=NOT_DIFFERENTIABLE)) == []


def test_casting_samples():
    sample = Sample((np.array([1.7, -1.7]), np.array([3], np.int64)))
    assert cast_sample(sample, f32).operands[0].dtype == np.float32
    assert cast_sample(sample, i64).operands[0].tolist() == [1, -1]
    assert cast_sample(sample, DTYPES["u8"]).operands[0].tolist() == [1, 255]
    assert cast_sample(sample, DTYPES["bool"]).operands[0].tolist() == [True, True]
    assert cast_sample(sample, i64).operands[1] is sample.operands[1]
    assert cast_sample(Sample((np.array([np.nan]),)), i64) is None


def test_differences():
    a = np.array([1.0, 1e-3, np.nan, np.inf], np.float32)
    assert difference(a, a) is None
    assert difference(a.astype(np.float64), a) == "float64[4] instead of float32[4]"
    off = a.copy()
    off[1] *= 1 + 1e-5
    assert difference(off, a) is None  # within 64 units of the greatest element's last place
    assert "1 of 4 elements differ; at [1]" in difference(off, a, exact_position=True)
    for i, value in ((2, 1.0), (3, -np.inf), (3, np.nan), (0, 1.1)):
        wrong = a.copy()
        wrong[i] = value
        assert f"at [{i}]" in difference(wrong, a)
    assert "at [1]" in difference(np.array([1, 2]), np.array([1, 3]))
    assert difference(np.zeros((0, 2)), np.zeros((0, 2))) is None


def test_zeros_of_elementwise_operators_have_their_sign() -> None:
    zeros, others = np.array([0.0, -0.0, 1.0], np.float32), np.array([0.0, 0.0, 1.0], np.float32)
    assert difference(zeros, zeros, exact_position=True) is None
    assert "1 of 3 elements differ; at [1]" in str(difference(others, zeros, exact_position=True))
    assert difference(others, zeros) is None  # of a sum, whose order is free
