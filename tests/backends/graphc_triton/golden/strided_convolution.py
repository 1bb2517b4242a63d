"""conv_add_max: written by graphc from the loops below.

body conv_add_max_kernel(%0: f32[n0,9,9,5] in, %1: f32[3,3,5,16] in, %2: f32[16] in, %3: f32[n0,5,5,16] out) {
  for i0 in n0 parallel, i1 in 5 parallel, i2 in 5 parallel, i3 in 16 parallel, i4 in 3 reduction, i5 in 3 reduction, i6 in 5 reduction {
    v0: f32 = load %0[i0, 2*i1 + i4 - 1, 2*i2 + i5 - 1, i6] if 0 <= 2*i1 + i4 - 1 < 9 and 0 <= 2*i2 + i5 - 1 < 9 else 0.0
    v1: f32 = load %1[i4, i5, i6, i3]
    v2: f32 = mul.f32 v0, v1
    v3: f32 = reduce sum v2
    v4: f32 = load %2[i3]
    v5: f32 = add.f32 v3, v4
    v6: f32 = max.f32 v5, 0.0
    store %3[i0, i1, i2, i3] = v6
  }
}
"""

import triton
import triton.language as tl

from graphc_triton import device


@triton.jit
def conv_add_max_kernel(
    a_ptr, b_ptr, c_ptr, out_ptr, size_n0,
    BLOCK_M: tl.constexpr = 128, BLOCK_N: tl.constexpr = 16, BLOCK_K: tl.constexpr = 32,
):
    """One program computes a tile of [25*n0, 45] x [45, 16]."""
    tiles_m = tl.cdiv(size_n0 * 25, BLOCK_M)
    tiles_n = tl.cdiv(16, BLOCK_N)
    pid = tl.program_id(0).to(tl.int64)
    tile_m, tile_n = tl.swizzle2d(pid // tiles_n, pid % tiles_n, tiles_m, tiles_n, 8)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    i0 = m // 25
    q = m // 5
    i1 = q % 5
    i2 = m % 5
    for start in range(0, 45, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K).to(tl.int64)
        i4 = k // 15
        at = i1[:, None] * 2 + i4[None, :] - 1
        q1 = k // 5
        i5 = q1 % 3
        at1 = i2[:, None] * 2 + i5[None, :] - 1
        i6 = k % 5
        mask = (m[:, None] < size_n0 * 25) & (k[None, :] < 45) & (at >= 0) & (at < 9) & (at1 >= 0) & (at1 < 9)
        a = tl.load(a_ptr + i0[:, None] * 405 + i6[None, :] + at * 45 + at1 * 5, mask=mask, other=0.0)
        mask1 = k[:, None] < 45
        b = tl.load(b_ptr + k[:, None] * 16 + n[None, :], mask=mask1, other=0.0)
        acc = tl.dot(a, b, acc, input_precision="tf32x3")
    c = tl.load(c_ptr + n[None, :])
    mask2 = m[:, None] < size_n0 * 25
    tl.store(out_ptr + m[:, None] * 16 + n[None, :], device.maximum(acc + c, 0.0), mask=mask2)
