"""Every operator in Triton's interpreter: it agrees with the reference, or is refused for a reason that stands here."""

import pytest

from graphc.testing.conformance import cases
from graphc.testing.worker import Call, outcomes

NO_FORM = {
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cosh", "elu", "expm1", "log1p", "lrn", "pow", "random_bits", "shift_left",
    "shift_right", "sinh", "softplus", "tan",
}  # fmt: skip
IN_ORDER = {"cumprod", "cumsum", "if", "while", "scatter_along", "scatter_nd", "sort", "top_k", "gru", "lstm", "rnn", "scan"}
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
    refused = {c.op.name for c in chosen if found[str(c)].startswith("refused") and c.dtype != "f64"}
    assert refused <= NO_FORM | IN_ORDER
    agreed = {c.op.name for c in chosen if found[str(c)] == ""}
    assert agreed >= mine & {c.op.name for c in chosen} - NO_FORM - IN_ORDER
