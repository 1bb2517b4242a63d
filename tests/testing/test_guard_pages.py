"""Arrays beside forbidden pages: equal to the originals, and deadly beyond their ends."""

import subprocess
import sys

import numpy as np
import pytest

from graphc.testing.guard_pages import at_guard_page


@pytest.mark.parametrize("shape", [(), (0,), (3,), (1024,), (1025,), (5, 7)])
def test_the_copy_is_equal_and_writable(shape: tuple[int, ...]) -> None:
    original = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for side in ("end", "start"):
        copy = at_guard_page(original, side)
        np.testing.assert_array_equal(copy, original)
        assert copy.dtype == original.dtype
        copy[...] = 2
        assert (copy == 2).all()
        assert not np.shares_memory(copy, original)


@pytest.mark.parametrize(("side", "at"), [("end", 12), ("start", -1)])
def test_one_byte_beyond_ends_the_process(side: str, at: int) -> None:
    source = f"""
import ctypes, numpy as np
from graphc.testing.guard_pages import at_guard_page
x = at_guard_page(np.ones(3, np.float32), {side!r})
ctypes.string_at(x.ctypes.data, x.nbytes)
print("so far", flush=True)
ctypes.string_at(x.ctypes.data + {at}, 1)
print("too far")
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode < 0
    assert done.stdout == "so far\n"
