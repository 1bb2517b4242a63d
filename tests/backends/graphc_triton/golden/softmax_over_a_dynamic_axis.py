"""max_sub_exp_sum_div: written by graphc from the loops below.

tile reduce_max_sub_exp_reduce_sum_div_kernel(%0: f32[3,n0] in, %1: f32[3,n0] out, %2: f32[] scratch, %3: f32[n0] scratch, %4: f32[] scratch) {
  for i0 in 3 parallel {
    for i1 in n0 reduction {
      v0: f32 = load %0[i0, i1]
      v1: f32 = reduce max v0
      store %2[] = v1
    }
    for i1 in n0 reduction {
      v0: f32 = load %0[i0, i1]
      v1: f32 = load %2[]
      v2: f32 = sub.f32 v0, v1
      v3: f32 = exp.f32 v2
      store %3[i1] = v3
      v4: f32 = reduce sum v3
      store %4[] = v4
    }
    for i1 in n0 parallel {
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
    ROWS: tl.constexpr = 4, WIDTH: tl.constexpr = 128,
):
    """One program computes ROWS of 3 rows of n0."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    largest = tl.full([ROWS, WIDTH], float("-inf"), tl.float32)
    for start in range(0, size_n0, WIDTH):
        k = start + tl.arange(0, WIDTH).to(tl.int64)
        mask = (row[:, None] < 3) & (k[None, :] < size_n0)
        a = tl.load(a_ptr + size_n0 * row[:, None] + k[None, :], mask=mask, other=0.0)
        mask1 = k[None, :] < size_n0
        largest = device.maximum(largest, tl.where(mask1, a, float("-inf")))
    row_largest = device.row_max(largest, 1)
    total = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    for start in range(0, size_n0, WIDTH):
        k = start + tl.arange(0, WIDTH).to(tl.int64)
        mask2 = (row[:, None] < 3) & (k[None, :] < size_n0)
        a1 = tl.load(a_ptr + size_n0 * row[:, None] + k[None, :], mask=mask2, other=0.0)
        mask3 = k[None, :] < size_n0
        total += tl.where(mask3, device.exp(a1 - row_largest), 0.0)
    row_total = tl.sum(total, axis=1, keep_dims=True)
    for start in range(0, size_n0, WIDTH):
        k = start + tl.arange(0, WIDTH).to(tl.int64)
        mask4 = (row[:, None] < 3) & (k[None, :] < size_n0)
        a2 = tl.load(a_ptr + size_n0 * row[:, None] + k[None, :], mask=mask4, other=0.0)
        tl.store(out_ptr + size_n0 * row[:, None] + k[None, :], device.exp(a2 - row_largest) / row_total, mask=mask4)
