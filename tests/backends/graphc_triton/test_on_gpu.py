"""The shared bodies on the GPU of this machine, where there is one."""

import pytest

from graphc.testing.bodies import assert_close
from graphc.testing.body_cases import BODY_CASES, run_case
from graphc_triton.driver import capability

pytestmark = pytest.mark.skipif(capability() is None, reason="this machine has no NVIDIA GPU")


@pytest.mark.parametrize("name", BODY_CASES)
def test_bodies_compute_what_the_interpreter_says(name: str) -> None:
    for seen, wanted in run_case(name, "triton"):
        assert_close(seen, wanted)
