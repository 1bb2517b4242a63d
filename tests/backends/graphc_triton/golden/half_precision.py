"""add_mul: written by graphc from the loops below.

body add_mul_kernel(%0: f16[16*n0] in, %1: f16[16*n0] in, %2: f16[16*n0] out) {
  for i0 in 16*n0 parallel {
    v0: f32 = load %0[i0]
    v1: f32 = load %1[i0]
    v2: f32 = add.f32 v0, v1
    v3: f16 = cast.f32 v2
    v4: f32 = cast.f16 v3
    v5: f32 = mul.f32 v4, v0
    v6: f16 = cast.f32 v5
    v7: f32 = cast.f16 v6
    store %2[i0] = v7
  }
}
"""

import triton
import triton.language as tl

from graphc_triton import device


@triton.jit
def add_mul_kernel(a_ptr, b_ptr, out_ptr, size_n0, BLOCK: tl.constexpr = 128):
    """One program computes BLOCK of 16*n0 elements."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < size_n0 * 16
    a = tl.load(a_ptr + i, mask=mask, other=0.0)
    b = tl.load(b_ptr + i, mask=mask, other=0.0)
    scaled = (a.to(tl.float32) + b.to(tl.float32)).to(tl.float16).to(tl.float32) * a.to(tl.float32)
    tl.store(out_ptr + i, scaled.to(tl.float16).to(tl.float32), mask=mask)
