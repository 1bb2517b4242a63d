"""What every backend owes, and what it may refuse but not get wrong; run by `pytest --graphc-backend NAME`.

Owed: every primitive over the element types of `conformance.REQUIRED_TYPES`, and NumericError for what has no value.
Other element types, composites and symbolic sizes may raise UnsupportedOpError: those tests are skipped, with the reason.
"""

from __future__ import annotations

import pytest

from graphc.errors import UnsupportedOpError
from graphc.testing.conformance import Case, Failure, cases, check_backend, check_failure, failures, required

CASES = cases()
REQUIRED = [part for c in CASES if (part := required(c)) is not None]
_WHOLE = {str(c): len(c.samples) for c in REQUIRED}
OPTIONAL = [c for c in CASES if _WHOLE.get(str(c)) != len(c.samples)]


@pytest.mark.parametrize("case", REQUIRED, ids=str)
def test_required(case: Case, graphc_backend: str) -> None:
    check_backend(case, graphc_backend)


@pytest.mark.parametrize("failure", failures(), ids=str)
def test_required_failure(failure: Failure, graphc_backend: str) -> None:
    check_failure(failure, graphc_backend)


@pytest.mark.parametrize("case", OPTIONAL, ids=str)
def test_optional(case: Case, graphc_backend: str) -> None:
    try:
        check_backend(case, graphc_backend)
    except UnsupportedOpError as e:
        pytest.skip(str(e.seen))


@pytest.mark.parametrize("case", REQUIRED, ids=str)
def test_optional_symbolic(case: Case, graphc_backend: str) -> None:
    try:
        check_backend(case, graphc_backend, symbolic=True)
    except UnsupportedOpError as e:
        pytest.skip(str(e.seen))
