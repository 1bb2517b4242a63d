"""The bodies that all backends share: in Triton's interpreter they compute what the interpreter says, and what LLVM does."""

import pytest

from graphc.testing.bodies import assert_close
from graphc.testing.body_cases import BODY_CASES, case_bodies, run_case
from graphc.testing.worker import Call

SAME_PASSES = ("decompose", "canonicalize", "dce")
"""Passes without the backends' own, so that both get the same graph to fuse."""


@pytest.mark.parametrize("name", BODY_CASES)
def test_bodies_compute_what_the_interpreter_says(interpreted: Call, name: str) -> None:
    for seen, wanted in interpreted(run_case, name, "triton"):
        assert_close(seen, wanted)


@pytest.mark.parametrize("name", BODY_CASES)
def test_llvm_computes_the_same(interpreted: Call, name: str) -> None:
    for (seen, _), (other, _) in zip(interpreted(run_case, name, "triton"), run_case(name, "llvm"), strict=True):
        assert_close(seen, other)


@pytest.mark.parametrize("name", BODY_CASES)
def test_both_backends_take_the_same_loops(name: str) -> None:
    triton, llvm = (
        case_bodies(name, backend, passes=SAME_PASSES, **options)
        for backend, options in (("triton", {"target": "interpreter"}), ("llvm", {}))
    )
    assert triton == llvm
    assert triton
