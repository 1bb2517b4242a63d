"""max_sub_exp_sum_div: written by graphc from the loops below.

tile reduce_max_sub_exp_reduce_sum_div_kernel(%0: f32[n0,40] in, %1: f32[n0,40] out, %2: f32[] scratch, %3: f32[40] scratch, %4: f32[] scratch) {
  for i0 in n0 parallel {
    for i1 in 40 reduction {
      v0: f32 = load %0[i0, i1]
      v1: f32 = reduce max v0
      store %2[] = v1
    }
    for i1 in 40 reduction {
      v0: f32 = load %0[i0, i1]
      v1: f32 = load %2[]
      v2: f32 = sub.f32 v0, v1
      v3: f32 = exp.f32 v2
      store %3[i1] = v3
      v4: f32 = reduce sum v3
      store %4[] = v4
    }
    for i1 in 40 parallel {
      v0: f32 = load %3[i1]
      v1: f32 = load %4[]
      v2: f32 = div.f32 v0, v1
      store %1[i0, i1] = v2
    }
  }
}
"""

import triton
import triton.language as tl

from graphc_triton import device


@triton.jit
def reduce_max_sub_exp_reduce_sum_div_kernel(
    a_ptr, out_ptr, size_n0,
    ROWS: tl.constexpr = 32, WIDTH: tl.constexpr = 64,
):
    """One program computes ROWS of n0 rows of 40."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, WIDTH)
    mask = (row[:, None] < size_n0) & (k[None, :] < 40)
    a = tl.load(a_ptr + row[:, None] * 40 + k[None, :], mask=mask, other=0.0)
    mask1 = k[None, :] < 40
    largest = device.row_max(tl.where(mask1, a, float("-inf")), 1)
    exp = device.exp(a - largest)
    total = tl.sum(tl.where(mask1, exp, 0.0), axis=1, keep_dims=True)
    tl.store(out_ptr + row[:, None] * 40 + k[None, :], exp / total, mask=mask)
