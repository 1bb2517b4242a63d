"""Every backend in the house computes what the operators' references say, fails where they fail, and at symbolic sizes too."""

import pytest

from graphc.testing.conformance import Case, Failure, cases, check_backend, check_failure, failures

BACKENDS = ("reference", "llvm")
CASES = cases()
SYMBOLIC = [c for c in CASES if c.dtype in ("given", "f32") or (c.dtype == "f64" and "f32" not in c.op.dtypes)]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_the_references(backend: str, case: Case) -> None:
    check_backend(case, backend, cache=True)


@pytest.mark.parametrize("case", SYMBOLIC, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_the_references_at_symbolic_sizes(backend: str, case: Case) -> None:
    check_backend(case, backend, symbolic=True, cache=True)


@pytest.mark.parametrize("failure", failures(), ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_has_no_value_raises(backend: str, failure: Failure) -> None:
    check_failure(failure, backend, cache=True)
