"""window_max: written by graphc from the loops below.

body reduce_max_kernel(%0: f32[n0,9,9,4] in, %1: f32[n0,5,5,4] out) {
  for i0 in n0 parallel, i1 in 5 parallel, i2 in 5 parallel, i3 in 4 parallel, i4 in 3 reduction, i5 in 3 reduction {
    v0: f32 = load %0[i0, 2*i1 + i4 - 1, 2*i2 + i5 - 1, i3] if 0 <= 2*i1 + i4 - 1 < 9 and 0 <= 2*i2 + i5 - 1 < 9 else -inf
    v1: f32 = reduce max v0
    store %1[i0, i1, i2, i3] = v1
  }
}
"""

import triton
import triton.language as tl

from graphc_triton import device


@triton.jit
def reduce_max_kernel(a_ptr, out_ptr, size_n0, ROWS: tl.constexpr = 128):
    """One program computes ROWS of 100*n0 rows of 9."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    i0 = row // 100
    q = row // 20
    i1 = q % 5
    q1 = row // 4
    i2 = q1 % 5
    i3 = row % 4
    for k in range(0, 9):
        i4 = k // 3
        at = i1 * 2 + i4 - 1
        i5 = k % 3
        at1 = i2 * 2 + i5 - 1
        mask = (row < size_n0 * 100) & (at >= 0) & (at < 9) & (at1 >= 0) & (at1 < 9)
        a = tl.load(a_ptr + i3 + i0 * 324 + at * 36 + at1 * 4, mask=mask, other=float("-inf"))
        largest = device.maximum(largest, a)
    mask1 = row < size_n0 * 100
    tl.store(out_ptr + row, largest, mask=mask1)
