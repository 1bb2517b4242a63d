"""dot_add_max: written by graphc from the loops below.

body matmul_add_max_kernel(%0: f32[n0,40] in, %1: f32[40,24] in, %2: f32[24] in, %3: f32[n0,24] in, %4: f32[n0,24] out) {
  for i0 in n0 parallel, i1 in 24 parallel, i2 in 40 reduction {
    v0: f32 = load %0[i0, i2]
    v1: f32 = load %1[i2, i1]
    v2: f32 = mul.f32 v0, v1
    v3: f32 = reduce sum v2
    v4: f32 = load %2[i1]
    v5: f32 = add.f32 v3, v4
    v6: f32 = load %3[i0, i1]
    v7: f32 = add.f32 v5, v6
    v8: f32 = max.f32 v7, 0.0
    store %4[i0, i1] = v8
  }
}
"""

import triton
import triton.language as tl

from graphc_triton import device


@triton.jit
def matmul_add_max_kernel(
    a_ptr, b_ptr, c_ptr, d_ptr, out_ptr, size_n0,
    BLOCK_M: tl.constexpr = 64, BLOCK_N: tl.constexpr = 32, BLOCK_K: tl.constexpr = 32,
):
    """One program computes a tile of [n0, 40] x [40, 24]."""
    tiles_m = tl.cdiv(size_n0, BLOCK_M)
    tiles_n = tl.cdiv(24, BLOCK_N)
    pid = tl.program_id(0).to(tl.int64)
    tile_m, tile_n = tl.swizzle2d(pid // tiles_n, pid % tiles_n, tiles_m, tiles_n, 8)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, 40, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K).to(tl.int64)
        mask = (m[:, None] < size_n0) & (k[None, :] < 40)
        a = tl.load(a_ptr + m[:, None] * 40 + k[None, :], mask=mask, other=0.0)
        mask1 = (k[:, None] < 40) & (n[None, :] < 24)
        b = tl.load(b_ptr + k[:, None] * 24 + n[None, :], mask=mask1, other=0.0)
        acc = tl.dot(a, b, acc, input_precision="tf32x3")
    mask2 = n[None, :] < 24
    c = tl.load(c_ptr + n[None, :], mask=mask2, other=0.0)
    mask3 = (m[:, None] < size_n0) & (n[None, :] < 24)
    d = tl.load(d_ptr + m[:, None] * 24 + n[None, :], mask=mask3, other=0.0)
    tl.store(out_ptr + m[:, None] * 24 + n[None, :], device.maximum(acc + c + d, 0.0), mask=mask3)
