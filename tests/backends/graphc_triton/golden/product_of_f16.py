"""dot_exp: written by graphc from the loops below.

body matmul_exp_kernel(%0: f16[17,40] in, %1: f16[40,20] in, %2: f16[17,20] out) {
  for i0 in 17 parallel, i1 in 20 parallel, i2 in 40 reduction {
    v0: f32 = load %0[i0, i2]
    v1: f32 = load %1[i2, i1]
    v2: f32 = mul.f32 v0, v1
    v3: f32 = reduce sum v2
    v4: f16 = cast.f32 v3
    v5: f32 = cast.f16 v4
    v6: f32 = exp.f32 v5
    v7: f16 = cast.f32 v6
    v8: f32 = cast.f16 v7
    store %2[i0, i1] = v8
  }
}
"""

import triton
import triton.language as tl

from graphc_triton import device


@triton.jit
def matmul_exp_kernel(
    a_ptr, b_ptr, out_ptr,
    BLOCK_M: tl.constexpr = 32, BLOCK_N: tl.constexpr = 32, BLOCK_K: tl.constexpr = 64,
):
    """One program computes a tile of [17, 40] x [40, 20]."""
    tiles_m = tl.cdiv(17, BLOCK_M)
    tiles_n = tl.cdiv(20, BLOCK_N)
    pid = tl.program_id(0)
    tile_m, tile_n = tl.swizzle2d(pid // tiles_n, pid % tiles_n, tiles_m, tiles_n, 8)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, 40, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        mask = (m[:, None] < 17) & (k[None, :] < 40)
        a = tl.load(a_ptr + m[:, None] * 40 + k[None, :], mask=mask, other=0.0)
        mask1 = (k[:, None] < 40) & (n[None, :] < 20)
        b = tl.load(b_ptr + k[:, None] * 20 + n[None, :], mask=mask1, other=0.0)
        acc = tl.dot(a, b, acc)
    mask2 = (m[:, None] < 17) & (n[None, :] < 20)
    result = device.exp(acc.to(tl.float16).to(tl.float32)).to(tl.float16).to(tl.float32)
    tl.store(out_ptr + m[:, None] * 20 + n[None, :], result, mask=mask2)
