"""Every operator in Triton's interpreter: it agrees with the reference, or is refused for a reason that stands here."""

import pytest

from graphc.ops import core_operators
from graphc.testing.backend_gradients import gradient_outcomes
from graphc.testing.conformance import cases
from graphc.testing.gradients import gradient_samples
from graphc.testing.worker import Call, outcomes

F32_ONLY = {
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cosh", "lrn", "pow", "sinh", "tan",
}  # fmt: skip
"""What is made of functions that have no form in f64."""
SLOW = {"resize"}
"""What takes seconds in an interpreter: at f32 alone, without symbols."""

DTYPES = {False: ("f32", "f64", "bf16", "i32", "u8", "bool", "given"), True: ("f32", "given")}

NAMES = sorted({c.op.name for c in cases()})
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_operators(interpreted: Call, part: int, symbolic: bool) -> None:
    mine = set(NAMES[part::PARTS])
    chosen = [c for c in cases() if c.op.name in mine and c.dtype in DTYPES[symbolic]]
    chosen = [c for c in chosen if c.op.name not in SLOW or (c.dtype == "f32" and not symbolic)]
    found = interpreted(outcomes, [str(c) for c in chosen], "triton", symbolic)
    assert {n: x for n, x in found.items() if x.startswith("failed")} == {}
    refused = {str(c) for c in chosen if found[str(c)].startswith("refused")}
    assert refused <= {f"{name}-f64" for name in F32_ONLY}
    assert all(found[str(c)] == "" for c in chosen if str(c) not in refused)


def test_every_gradient(interpreted: Call) -> None:
    names = [name for name, op in core_operators().items() if gradient_samples(op)]
    found = interpreted(gradient_outcomes, names, "triton", 2)
    assert {n: x for n, x in found.items() if x} == {}
