"""Every operator of the core: declared completely, and held to the generated conformance suite."""

import pytest

from graphc.ir.opdef import NotDifferentiable
from graphc.ops import core_operators
from graphc.testing.conformance import (
    cases,
    check_backend,
    check_decomposition,
    check_inference,
    check_round_trip,
    check_symbolic_inference,
)
from graphc.testing.gradients import check_second_vjp, check_vjp, gradient_samples

OPERATORS = list(core_operators().values())
CASES = cases()
SMOOTH_FOR_NONZERO_FACTORS = ("cumprod", "scatter_along", "scatter_nd")
"""Products whose gradient is right everywhere, and the gradient of that where no factor is zero."""


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_is_declared_completely(op):
    assert op.doc.strip()
    assert any(True for _ in op.samples())
    assert callable(op.infer)
    assert callable(op.reference)
    assert isinstance(op.vjp, NotDifferentiable) or callable(op.vjp)
    if isinstance(op.vjp, NotDifferentiable):
        assert op.vjp.reason
    assert any(c.op is op for c in CASES)


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_every_differentiable_operator_has_a_sample_for_it(op):
    if op.name == "stop_gradient":  # whose gradient isn't its derivative: tests/ops/test_markers.py
        return
    has_float_operand = any(x.dtype.kind == "f" for s in op.samples() for x in s.operands)
    assert isinstance(op.vjp, NotDifferentiable) or not has_float_operand or gradient_samples(op)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inference_is_what_the_reference_gives(case):
    check_inference(case)
    check_symbolic_inference(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_text_round_trip(case):
    check_round_trip(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.op.decompose is not None], ids=str)
def test_decomposition(case):
    check_decomposition(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_backend(case):
    check_backend(case, "reference")


@pytest.mark.parametrize("op", [op for op in OPERATORS if gradient_samples(op)], ids=lambda op: op.name)
def test_vjp_equals_finite_differences(op):
    for sample in gradient_samples(op):
        check_vjp(op, sample)


@pytest.mark.parametrize("op", [op for op in OPERATORS if gradient_samples(op)], ids=lambda op: op.name)
def test_vjp_is_differentiable_again(op):
    for sample in gradient_samples(op):
        if op.name not in SMOOTH_FOR_NONZERO_FACTORS or all(x.all() for x in sample.operands if x.dtype.kind == "f"):
            check_second_vjp(op, sample)
