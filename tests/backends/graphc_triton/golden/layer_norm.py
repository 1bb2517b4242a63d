"""sum_div_sub_mul_add_rsqrt: written by graphc from the loops below.

tile reduce_sum_div_sub_mul_add_rsqrt_kernel(%0: f32[n0,40] in, %1: f32[40] in, %2: f32[40] in, %3: f32[n0,40] out, %4: f32[] scratch, %5: f32[] scratch) {
  for i0 in n0 parallel {
    for i1 in 40 reduction {
      v0: f32 = load %0[i0, i1]
      v1: f32 = reduce sum v0
      v2: f32 = div.f32 v1, 40.0
      store %4[] = v2
    }
    for i1 in 40 reduction {
      v0: f32 = load %0[i0, i1]
      v1: f32 = load %4[]
      v2: f32 = sub.f32 v0, v1
      v3: f32 = mul.f32 v2, v2
      v4: f32 = reduce sum v3
      v5: f32 = div.f32 v4, 40.0
      v6: f32 = add.f32 v5, 9.999999747378752e-06
      v7: f32 = rsqrt.f32 v6
      store %5[] = v7
    }
    for i1 in 40 parallel {
      v0: f32 = load %0[i0, i1]
      v1: f32 = load %4[]
      v2: f32 = sub.f32 v0, v1
      v3: f32 = load %5[]
      v4: f32 = mul.f32 v2, v3
      v5: f32 = load %1[i1]
      v6: f32 = mul.f32 v4, v5
      v7: f32 = load %2[i1]
      v8: f32 = add.f32 v6, v7
      store %3[i0, i1] = v8
    }
  }
}
"""

import triton
import triton.language as tl

from graphc_triton import device


@triton.jit
def reduce_sum_div_sub_mul_add_rsqrt_kernel(
    a_ptr, b_ptr, c_ptr, out_ptr, size_n0,
    ROWS: tl.constexpr = 32, WIDTH: tl.constexpr = 64,
):
    """One program computes ROWS of n0 rows of 40."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, WIDTH)
    mask = (row[:, None] < size_n0) & (k[None, :] < 40)
    a = tl.load(a_ptr + row[:, None] * 40 + k[None, :], mask=mask, other=0.0)
    mask1 = k[None, :] < 40
    total = tl.sum(a, axis=1, keep_dims=True)
    kept = total / 40.0
    difference = a - kept
    total1 = tl.sum(tl.where(mask1, difference * difference, 0.0), axis=1, keep_dims=True)
    kept1 = tl.rsqrt(total1 / 40.0 + 9.999999747378752e-06)
    b = tl.load(b_ptr + k[None, :], mask=mask1, other=0.0)
    c = tl.load(c_ptr + k[None, :], mask=mask1, other=0.0)
    tl.store(out_ptr + row[:, None] * 40 + k[None, :], difference * kept1 * b + c, mask=mask)
