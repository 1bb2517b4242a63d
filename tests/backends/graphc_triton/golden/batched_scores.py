"""dot_mul: written by graphc from the loops below.

body matmul_mul_kernel(%0: f32[n0,n1,2,8] in, %1: f32[n0,n1,2,8] in, %2: f32[n0,2,n1,n1] out) {
  for i0 in n0 parallel, i1 in 2 parallel, i2 in n1 parallel, i3 in n1 parallel, i4 in 8 reduction {
    v0: f32 = load %0[i0, i2, i1, i4]
    v1: f32 = load %1[i0, i3, i1, i4]
    v2: f32 = mul.f32 v0, v1
    v3: f32 = reduce sum v2
    v4: f32 = mul.f32 v3, 0.125
    store %2[i0, i1, i2, i3] = v4
  }
}
"""

import triton
import triton.language as tl

from graphc_triton import device


@triton.jit
def matmul_mul_kernel(
    a_ptr, b_ptr, out_ptr, size_n1,
    BLOCK_M: tl.constexpr = 64, BLOCK_N: tl.constexpr = 128, BLOCK_K: tl.constexpr = 16,
):
    """One program computes a tile of 2*n0 products [n1, 8] x [8, n1]."""
    tiles_m = tl.cdiv(size_n1, BLOCK_M)
    tiles_n = tl.cdiv(size_n1, BLOCK_N)
    pid = tl.program_id(0).to(tl.int64)
    batch = pid // (tiles_m * tiles_n)
    tile = pid % (tiles_m * tiles_n)
    tile_m, tile_n = tl.swizzle2d(tile // tiles_n, tile % tiles_n, tiles_m, tiles_n, 8)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    i0 = batch // 2
    i1 = batch % 2
    for start in range(0, 8, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K).to(tl.int64)
        mask = (m[:, None] < size_n1) & (k[None, :] < 8)
        a = tl.load(a_ptr + i0 * size_n1 * 16 + i1 * 8 + m[:, None] * 16 + k[None, :], mask=mask, other=0.0)
        mask1 = (k[:, None] < 8) & (n[None, :] < size_n1)
        b = tl.load(b_ptr + i0 * size_n1 * 16 + i1 * 8 + k[:, None] + n[None, :] * 16, mask=mask1, other=0.0)
        acc = tl.dot(a, b, acc, input_precision="tf32x3")
    mask2 = (m[:, None] < size_n1) & (n[None, :] < size_n1)
    tl.store(out_ptr + batch * size_n1 * size_n1 + m[:, None] * size_n1 + n[None, :], acc * 0.125, mask=mask2)
