"""9. Native code touches only its buffers (guard pages, misaligned inputs) and fails by status.

`backends/graphc_llvm/test_guard_pages.py` puts all of a program's memory between forbidden pages, for every operator and kernel
template; here, whole models whose inputs lie there.
"""

from typing import Any

import numpy as np
import pytest

import graphc
from graphc.errors import NumericError
from graphc.interpreter import interpret
from graphc.testing.conformance import difference
from graphc.testing.guard_pages import at_guard_page


def test_inputs_may_lie_anywhere(model: Any) -> None:
    graph = model.build(0)
    executable = graphc.compile(graph, threads=2)
    for dims in model.sizes:
        inputs = model.inputs(dims)
        expected = interpret(graph, inputs)
        for placed in (
            [at_guard_page(x) for x in inputs],
            [at_guard_page(x, "start") for x in inputs],
            list(map(odd, inputs)),
        ):
            outputs = executable(*placed)
            for seen, want in zip(outputs if isinstance(outputs, tuple) else (outputs,), expected, strict=True):
                assert difference(seen, want) is None, f"{dims}: {difference(seen, want)}"
            for x, original in zip(placed, inputs, strict=True):
                np.testing.assert_array_equal(x, original)


def odd(x: np.ndarray) -> np.ndarray:
    """A copy at an odd address, which no vector and no element is aligned to."""
    raw = np.zeros(x.nbytes + 64, np.uint8)
    start = 1 - raw.ctypes.data % 2 + 2
    copy = raw[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    assert copy.ctypes.data % 2
    return copy


def test_a_failed_run_is_an_error_that_names_the_layer_and_leaves_nothing_behind() -> None:
    text = """graph @divide(%x: i64[n], %y: i64[n]) {
      %q: i64[n] = div(%x, %y) from "quotient"
      %z: i64[n] = add(%q, %x) from "sum"
      return %z
    }"""
    executable = graphc.compile(graphc.parse_graph(text), threads=2)
    for n in (1, 5, 100_000):
        x, y = np.arange(n), np.arange(1, n + 1)
        zero = y.copy()
        zero[n // 2] = 0
        for _ in range(2):
            with pytest.raises(NumericError, match="division by zero") as caught:
                executable(x, zero)
            assert "quotient" in (caught.value.layer or "")
            np.testing.assert_array_equal(executable(x, y), x // y + x)
