"""add_tanh: written by graphc from the loops below.

body add_tanh_kernel(%0: f32[6*n0,8] in, %1: f32[8,6*n0] in, %2: f32[8,6*n0] out) {
  for i0 in 8 parallel, i1 in 6*n0 parallel {
    v0: f32 = load %0[i1, i0]
    v1: f32 = load %1[i0, i1]
    v2: f32 = add.f32 v0, v1
    v3: f32 = tanh.f32 v2
    store %2[i0, i1] = v3
  }
}
"""

import triton
import triton.language as tl

from graphc_triton import device


@triton.jit
def add_tanh_kernel(a_ptr, b_ptr, out_ptr, size_n0, BLOCK: tl.constexpr = 128):
    """One program computes BLOCK of 48*n0 elements."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < size_n0 * 48
    i1 = i % (size_n0 * 6)
    i0 = i // (size_n0 * 6)
    a = tl.load(a_ptr + i1 * 8 + i0, mask=mask, other=0.0)
    b = tl.load(b_ptr + i, mask=mask, other=0.0)
    tl.store(out_ptr + i, device.tanh(a + b), mask=mask)
