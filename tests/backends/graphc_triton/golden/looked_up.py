"""gather: written by graphc from the loops below.

body gather_kernel(%0: f32[20,12] in, %1: i64[n0] in, %2: f32[n0,12] out) {
  for i0 in n0 parallel, i1 in 12 parallel {
    v0: i64 = load %1[i0]
    v1: f32 = load %0[v0, i1] checked [0]
    store %2[i0, i1] = v1
  }
}
"""

import triton
import triton.language as tl

from graphc_triton import device


@triton.jit
def gather_kernel(a_ptr, b_ptr, out_ptr, status_ptr, size_n0, BLOCK: tl.constexpr = 128):
    """One program computes BLOCK of 12*n0 elements."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < size_n0 * 12
    i0 = i // 12
    b = tl.load(b_ptr + i0, mask=mask)
    bad = (b < 0) | (b >= 20)
    device.report(status_ptr, bad & mask, device.BAD_INDEX)
    at = tl.where(bad, 0, b)
    i1 = i % 12
    a = tl.load(a_ptr + i1 + at * 12, mask=mask, other=0.0)
    tl.store(out_ptr + i, a, mask=mask)
