"""Each operator of torch that has a converter, against torch, through the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphc
from graphc.interpreter import interpret
from graphc.ir.verifier import verify

Case = tuple[Callable[[torch.Tensor], Any], torch.Tensor]


class Family(nn.Module):
    """Functions by name, each of its own input: exported once for all their tests."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        super().__init__()
        self.cases = cases

    def forward(self, *xs: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        pairs = zip(self.cases.items(), xs, strict=True)
        return {name: _listed(function(x)) for (name, (function, _)), x in pairs}


def _listed(found: Any) -> list[torch.Tensor]:
    return [y for y in (found if isinstance(found, (tuple, list)) else (found,)) if y is not None]


@cache
def results(family: str) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """(ours, torch's) results of each function of a family."""
    module = Family(FAMILIES[family])
    inputs = [x for _, x in FAMILIES[family].values()]
    expected = module(*(x.clone() for x in inputs))
    graph = graphc.import_model(module, example_inputs=inputs)
    verify(graph)
    found = iter(interpret(graph, [x.numpy() for x in inputs]))
    return {name: [(next(found), y.detach().numpy()) for y in ys] for name, ys in expected.items()}


def check(family: str, name: str, tolerance: float = 1e-5) -> None:
    """Compares a function's results with torch's: types, shapes and numbers."""
    for ours, theirs in results(family)[name]:
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if theirs.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(ours, theirs)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(*shape: int, low: int = -5, high: int = 6) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(0))


X = normal(3, 4)
IMAGE = normal(2, 6, 8, 9)
W = normal(5, 4, seed=1)
NAN = torch.tensor([[1.0, float("nan"), float("inf")], [float("-inf"), 0.0, -2.0]])

ELEMENTWISE: Mapping[str, Case] = {
    "add_alpha": (lambda x: torch.add(x, x[0], alpha=2), X),
    "add_scalar": (lambda x: x + 1, integers(3, 4)),
    "add_promotes": (lambda x: x + 1.5, integers(3, 4)),
    "add_bools": (lambda x: (x > 0) + (x < 1), X),
    "add_rank_0": (lambda x: x + torch.tensor(2.0, dtype=torch.float64), X),
    "sub_alpha": (lambda x: torch.sub(x, x[0], alpha=3), X),
    "rsub": (lambda x: 1 - x, X),
    "mul_bools": (lambda x: (x > 0) * (x < 1), X),
    "mul_int_float": (lambda x: x * torch.arange(4), X),
    "div_integers": (lambda x: x / 2, integers(3, 4)),
    "div_floor": (lambda x: torch.div(x, 3, rounding_mode="floor"), integers(3, 4)),
    "div_trunc": (lambda x: torch.div(x, 3, rounding_mode="trunc"), integers(3, 4)),
    "div_floor_float": (lambda x: torch.div(x, 0.3, rounding_mode="floor"), X),
    "div_trunc_float": (lambda x: torch.div(x, 0.3, rounding_mode="trunc"), X),
    "floor_divide": (lambda x: x // 0.1, torch.tensor([1.0, -1.0, 0.35])),
    "floor_divide_zero": (lambda x: x // 0.0, torch.tensor([1.0, -1.0, 0.0])),
    "remainder": (lambda x: x % 3, integers(3, 4)),
    "fmod": (lambda x: torch.fmod(x, 0.7), X),
    "pow_square": (lambda x: x**2, X),
    "pow_half": (lambda x: x.abs() ** 0.5, X),
    "pow_negative": (lambda x: x**-1, X),
    "pow_integers": (lambda x: x**5, integers(3, 4)),
    "pow_zero": (lambda x: x**0, integers(3, 4)),
    "pow_tensor": (lambda x: x.abs() ** x, X),
    "pow_scalar_base": (lambda x: 2.0**x, X),
    "sqrt_integers": (lambda x: torch.sqrt(x), integers(3, 4, low=0)),
    "maximum": (lambda x: torch.maximum(x, x.flip(0)), NAN),
    "max_other": (lambda x: torch.max(x, x.flip(0)), X),
    "bitwise": (lambda x: (x & 3) | (x ^ 5), integers(3, 4)),
    "bitwise_bools": (lambda x: (x > 0) & ~(x < 1) | (x > 2) ^ (x < 0), X),
    "shifts": (lambda x: (x << 2) >> 1, integers(3, 4)),
    "invert": (lambda x: ~x, integers(3, 4)),
    "compare": (lambda x: (x > 0, x <= x[0], x == 1, x != x[1]), integers(3, 4)),
    "compare_promotes": (lambda x: x > 0.5, integers(3, 4)),
    "compare_bools": (lambda x: (x > 0) < (x < 1), X),
    "logical": (lambda x: torch.logical_and(x, x > 1) ^ torch.logical_not(x), integers(3, 4)),
    "where": (lambda x: torch.where(x > 0, x, 0.0), X),
    "where_promotes": (lambda x: torch.where(x > 0, x, torch.arange(4)), X),
    "masked_fill": (lambda x: x.masked_fill(x > 0, -1), X),
    "isnan": (lambda x: (torch.isnan(x), torch.isinf(x)), NAN),
    "isnan_integers": (lambda x: torch.isnan(x), integers(3, 4)),
    "nan_to_num": (lambda x: torch.nan_to_num(x), NAN),
    "nan_to_num_given": (lambda x: torch.nan_to_num(x, 1.0, 2.0, -3.0), NAN),
    "to_integer": (lambda x: (x * 3).to(torch.int32), X),
    "to_bool": (lambda x: x.to(torch.bool), integers(3, 4)),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), X),
    "clamp_min": (lambda x: x.clamp(min=0.1), X),
    "clamp_tensors": (lambda x: torch.clamp(x, x[0] - 1, x[1]), X),
    "clamp_integers": (lambda x: x.clamp(max=2), integers(3, 4)),
    "sign": (lambda x: torch.sign(x), X),
    "relu_integers": (lambda x: torch.relu(x), integers(3, 4)),
    "trunc": (lambda x: torch.trunc(x * 3), X),
    "floor_integers": (lambda x: torch.floor(x), integers(3, 4)),
    "round": (lambda x: torch.round(x), torch.tensor([0.5, 1.5, -2.5, 2.4])),
    "log2": (lambda x: torch.log2(x.abs()), X),
    "log10": (lambda x: torch.log10(x.abs()), X),
    "exp2": (lambda x: torch.exp2(x), X),
    "reciprocal": (lambda x: torch.reciprocal(x), X),
    "lerp": (lambda x: torch.lerp(x, x.flip(0), 0.3), X),
    "addcmul": (lambda x: torch.addcmul(x, x, x.flip(0), value=0.5), X),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x.flip(0)), X),
    "in_place": (lambda x: x.clone().add_(1).mul_(2).relu_(), X),
    **{
        f"{f.__name__}": (f, X)
        for f in (
            torch.neg, torch.abs, torch.exp, torch.expm1, torch.sin, torch.cos, torch.tan, torch.atan, torch.sinh,
            torch.cosh, torch.tanh, torch.asinh, torch.erf, torch.sigmoid, torch.ceil, torch.square,
            F.relu6, F.hardsigmoid, F.hardswish, F.leaky_relu, F.elu, F.selu, F.celu, F.softplus, F.gelu, F.silu,
            F.mish, F.logsigmoid, F.glu, F.hardtanh, F.softsign, F.tanhshrink, F.hardshrink, F.softshrink,
        )
    },
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), X),
    "elu_alpha": (lambda x: F.elu(x, 0.5), X),
    "softplus_threshold": (lambda x: F.softplus(x * 10, 2.0, 3.0), X),
    "prelu": (lambda x: F.prelu(x, torch.tensor([0.1, 0.2, 0.3, 0.4])), X),
    "threshold": (lambda x: F.threshold(x, 0.1, -1.0), X),
}  # fmt: skip

MOVEMENT: Mapping[str, Case] = {
    "view": (lambda x: x.view(2, -1), X),
    "flatten": (lambda x: x.flatten(1, 2), IMAGE),
    "unflatten": (lambda x: x.unflatten(1, (2, 3)), IMAGE),
    "squeeze": (lambda x: x[:1].squeeze(), X),
    "unsqueeze": (lambda x: x.unsqueeze(-1).unsqueeze(0), X),
    "permute": (lambda x: x.permute(0, 3, -3, 2), IMAGE),
    "transpose": (lambda x: x.transpose(-1, 1), IMAGE),
    "t": (lambda x: x.t(), X),
    "movedim": (lambda x: x.movedim((0, 1), (-1, 0)), IMAGE),
    "expand": (lambda x: x[:, None].expand(-1, 2, 4), X),
    "cat": (lambda x: torch.cat([x, x[:1], torch.ones(2, 4)]), X),
    "cat_promotes": (lambda x: torch.cat([x, x.to(torch.int64)], 1), X),
    "cat_empty": (lambda x: torch.cat([torch.empty(0), x]), X),
    "stack": (lambda x: torch.stack([x, x + 1], -1), X),
    "split": (lambda x: x.split(3, 1), X),
    "split_sizes": (lambda x: x.split([1, 3], 1), X),
    "chunk": (lambda x: x.chunk(3, 1), X),
    "unbind": (lambda x: x.unbind(0), X),
    "slice": (lambda x: x[1:, 1:-1:2], IMAGE),
    "slice_beyond": (lambda x: x[-100:2, :100], X),
    "slice_empty": (lambda x: x[2:2], X),
    "select": (lambda x: x[:, -1], X),
    "ellipsis": (lambda x: x[..., None, 0, :], IMAGE),
    "slice_scatter": (lambda x: torch.slice_scatter(x, torch.zeros(3, 2), 1, 1, 3), X),
    "select_scatter": (lambda x: torch.select_scatter(x, torch.zeros(4), 0, -1), X),
    "assigned_slice": (lambda x: _assigned(x), X),
    "flip": (lambda x: x.flip(0, -1), X),
    "roll": (lambda x: torch.roll(x, (1, -2), (0, 1)), X),
    "roll_flat": (lambda x: torch.roll(x, 5), X),
    "repeat": (lambda x: x.repeat(2, 1, 3), X),
    "tile": (lambda x: torch.tile(x, (2, 2)), X),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=1), X),
    "repeat_interleave_flat": (lambda x: x.repeat_interleave(3), X),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 3), value=1.5), X),
    "pad_cuts": (lambda x: F.pad(x, (-1, 2)), X),
    "pad_reflect": (lambda x: F.pad(x, (2, 1, 1, 2), mode="reflect"), IMAGE),
    "pad_replicate": (lambda x: F.pad(x, (2, 1, 1, 2), mode="replicate"), IMAGE),
    "pad_circular": (lambda x: F.pad(x, (2, 1, 1, 2), mode="circular"), IMAGE),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x[:, :4], 2), IMAGE),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x[..., :8], 4), IMAGE),
    "unfold": (lambda x: x.unfold(2, 3, 2), IMAGE),
    "im2col": (lambda x: F.unfold(x, 3, padding=1, stride=2), IMAGE),
    "tril": (lambda x: (x.tril(), x.triu(-1)), X),
    "arange": (lambda x: torch.arange(3, 15, 5) + x[:, 0].to(torch.int64), X),
    "arange_float": (lambda x: torch.arange(0.5, 2.5, 0.5) + x, X),
    "linspace": (lambda x: torch.linspace(-1, 1, 4) + x, X),
    "full": (lambda x: torch.full_like(x, 2) + torch.zeros(4) + x.new_ones(3, 1), X),
    "eye": (lambda x: torch.eye(3, 4) * x, X),
    "one_hot": (lambda x: F.one_hot(x, 6), integers(3, 4, low=0)),
    "meshgrid": (lambda x: torch.meshgrid(x[0], x[:, 0], indexing="ij"), X),
    "diff": (lambda x: torch.diff(x), X),
    "diagonal": (lambda x: torch.diagonal(x), X),
}


def _assigned(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[1:, 2] = 7.0
    y[:, 0] += 1
    return y


REDUCTIONS: Mapping[str, Case] = {
    "sum": (lambda x: (x.sum(), x.sum(1), x.sum((0, -1), keepdim=True)), X),
    "sum_bools": (lambda x: (x > 0).sum(), X),
    "sum_dtype": (lambda x: x.sum(0, dtype=torch.float64), X),
    "mean": (lambda x: (x.mean(), x.mean(-1, keepdim=True)), X),
    "prod": (lambda x: (x.prod(), x.prod(1)), X),
    "amax": (lambda x: (x.amax(1), x.amin((0, 1)), x.max(), x.min()), NAN),
    "max_dim": (lambda x: (*x.max(1), *x.min(0, keepdim=True)), integers(3, 4)),
    "any_all": (lambda x: (x.any(), x.all(1), (x > 0).any(0, keepdim=True)), integers(3, 4)),
    "argmax": (lambda x: (x.argmax(), x.argmin(1), x.argmax(0, keepdim=True)), integers(3, 4)),
    "var": (lambda x: (x.var(), x.var(1, unbiased=False), x.std(0, correction=1)), X),
    "var_mean": (lambda x: torch.var_mean(x, 1, correction=0, keepdim=True), X),
    "norm": (lambda x: (x.norm(), x.norm(1, 1), x.norm(float("inf"), 0), x.norm(3, 1)), X),
    "normalize": (lambda x: F.normalize(x), X),
    "cumsum": (lambda x: (x.cumsum(1), x.cumprod(0)), integers(3, 4)),
    "logsumexp": (lambda x: x.logsumexp(1), X),
    "softmax": (lambda x: (x.softmax(1), x.log_softmax(0), F.softmin(x, 1)), X),
    "softmax_dtype": (lambda x: x.softmax(1, dtype=torch.float64), X),
    "aminmax": (lambda x: torch.aminmax(x), X),
}

INDEXING: Mapping[str, Case] = {
    "embedding": (lambda x: F.embedding(x, W), integers(3, 4, low=0, high=5)),
    "index": (lambda x: W[x], integers(3, low=-5, high=5)),
    "index_two": (lambda x: IMAGE[:, x, x + 1], integers(3, low=-3, high=3)),
    "index_apart": (lambda x: IMAGE[x, :, x[:, None] + 2], integers(2, low=0, high=2)),
    "index_first": (lambda x: IMAGE[x, x + 1], integers(2, low=0, high=2)),
    "index_select": (lambda x: torch.index_select(W, 1, x), integers(6, low=0, high=4)),
    "gather": (lambda x: torch.gather(W, 1, x), integers(3, 2, low=0, high=4)),
    "take_along_dim": (lambda x: torch.take_along_dim(W, x, 0), integers(2, 4, low=0, high=5)),
    "scatter": (lambda x: torch.scatter(W, 1, x.argsort(1), x.to(torch.float32)), integers(3, 4)),
    "scatter_value": (lambda x: torch.scatter(W, 0, x, 9.0), integers(2, 4, low=0, high=5)),
    "scatter_add": (lambda x: torch.scatter_add(W, 0, x, torch.ones(2, 4)), integers(2, 4, low=0, high=5)),
    "scatter_reduce": (lambda x: W.scatter_reduce(0, x, torch.ones(2, 4), "amax"), integers(2, 4, low=0, high=5)),
    "index_put": (lambda x: W.index_put((x,), torch.ones(4)), torch.tensor([0, -2])),
    "index_put_add": (lambda x: W.index_put((x, x), torch.ones(3), accumulate=True), torch.tensor([0, 2, 2])),
    "index_put_inner": (lambda x: _put_inner(x), torch.tensor([0, -1])),
    "index_add": (lambda x: W.index_add(0, x, torch.ones(2, 4)), torch.tensor([0, 3])),
    "topk": (lambda x: x.topk(2), X),
    "topk_smallest": (lambda x: x.topk(2, 0, largest=False), X),
    "sort": (lambda x: (*x.sort(1), x.argsort(0, descending=True)), X),
}  # fmt: skip


def _put_inner(x: torch.Tensor) -> torch.Tensor:
    y = IMAGE.clone()
    y[:, x, 1:3] = 5.0
    return y


Q, K, V = normal(2, 4, 5, 8), normal(2, 4, 7, 8, seed=1), normal(2, 4, 7, 6, seed=2)

# Made before the export, which takes no random numbers.
R_2_1_5_7 = normal(2, 1, 5, 7)
R_2_3_4 = normal(2, 3, 4)
R_3_2_2_2_2 = normal(3, 2, 2, 2, 2)
R_3_9 = normal(3, 9)
R_4 = normal(4)
R_4_4_3 = normal(4, 4, 3)
R_4_6_3_2 = normal(4, 6, 3, 2)
R_4_6_3_4 = normal(4, 6, 3, 4)
R_5_7 = normal(5, 7)
R_6_1_3_3 = normal(6, 1, 3, 3)
R_6_2_3_3 = normal(6, 2, 3, 3)
R_8_4_4 = normal(8, 4, 4)

LAYERS: Mapping[str, Case] = {
    "linear": (lambda x: F.linear(x, W, torch.arange(5.0)), R_2_3_4),
    "linear_vector": (lambda x: F.linear(x, W), R_4),
    "matmul": (lambda x: x @ W.t(), X),
    "matmul_batch": (lambda x: x @ x.mT, IMAGE),
    "matmul_broadcast": (lambda x: x[:, :1] @ x.transpose(2, 3), IMAGE),
    "matmul_vectors": (lambda x: (x[0] @ x[1], x @ x[0], x[:, 0] @ x), X),
    "bmm": (lambda x: torch.bmm(x[0], x[0].mT), IMAGE),
    "addmm": (lambda x: torch.addmm(x[:, :3], x, W.t()[:, :3], beta=0.5, alpha=2), X),
    "baddbmm": (lambda x: torch.baddbmm(x[0, :, :, :8], x[0], x[0].mT, beta=0.5), IMAGE),
    "einsum": (lambda x: torch.einsum("bchw,dw->bdch", x, R_3_9), IMAGE),
    "outer": (lambda x: torch.outer(x[0], x[:, 0]), X),
    "conv1d": (lambda x: F.conv1d(x[0], R_4_4_3, torch.ones(4), stride=2, padding=1, groups=2), IMAGE),
    "conv2d": (lambda x: F.conv2d(x, R_4_6_3_2, padding=(1, 2), dilation=(2, 1)), IMAGE),
    "conv2d_same": (lambda x: F.conv2d(x, R_4_6_3_4[..., :3], padding="same"), IMAGE),
    "conv2d_depthwise": (lambda x: F.conv2d(x, R_6_1_3_3, groups=6), IMAGE),
    "conv3d": (lambda x: F.conv3d(x[None], R_3_2_2_2_2), IMAGE),
    "conv_transpose2d": (
        lambda x: F.conv_transpose2d(x, R_6_2_3_3, torch.ones(4), 2, 1, 1, groups=2),
        IMAGE,
    ),
    "conv_transpose1d": (lambda x: F.conv_transpose1d(x[0], R_8_4_4, stride=3), IMAGE),
    "layer_norm": (lambda x: F.layer_norm(x, (8, 9), torch.ones(8, 9) * 2, torch.ones(8, 9)), IMAGE),
    "layer_norm_plain": (lambda x: F.layer_norm(x, (9,)), IMAGE),
    "rms_norm": (lambda x: F.rms_norm(x, (9,), torch.arange(9.0)), IMAGE),
    "group_norm": (lambda x: F.group_norm(x, 3, torch.arange(6.0), torch.ones(6)), IMAGE),
    "instance_norm": (lambda x: F.instance_norm(x), IMAGE),
    "batch_norm": (lambda x: F.batch_norm(x, torch.ones(6), torch.arange(1.0, 7), torch.arange(6.0)), IMAGE),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1, 2), IMAGE),
    "max_pool2d_ceil": (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), IMAGE),
    "max_pool2d_indices": (lambda x: F.max_pool2d(x, 2, return_indices=True), IMAGE),
    "max_pool1d": (lambda x: F.max_pool1d(x[0], 3), IMAGE),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1), IMAGE),
    "avg_pool2d_without_pad": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), IMAGE),
    "avg_pool2d_ceil": (lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True), IMAGE),
    "avg_pool2d_divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), IMAGE),
    "avg_pool2d_larger_than_the_image": (lambda x: F.avg_pool2d(x, 40, ceil_mode=True), IMAGE),
    "max_pool2d_larger_than_the_image": (lambda x: F.max_pool2d(x, 40, 3, 20, ceil_mode=True), IMAGE),
    "avg_pool1d": (lambda x: F.avg_pool1d(x[0], 3, 2), IMAGE),
    "adaptive_one": (lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    "adaptive_equal": (lambda x: F.adaptive_avg_pool2d(x, (4, 3)), IMAGE),
    "adaptive_uneven": (lambda x: F.adaptive_avg_pool2d(x, (3, 5)), IMAGE),
    "adaptive_1d": (lambda x: F.adaptive_avg_pool1d(x[0], 4), IMAGE),
    "adaptive_max": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), IMAGE),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    "nearest_size": (lambda x: F.interpolate(x, size=(5, 13)), IMAGE),
    "bilinear": (lambda x: F.interpolate(x, size=(5, 13), mode="bilinear"), IMAGE),
    "bilinear_scale": (lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear"), IMAGE),
    "bilinear_corners": (lambda x: F.interpolate(x, size=(5, 13), mode="bilinear", align_corners=True), IMAGE),
    "bicubic": (lambda x: F.interpolate(x, size=(11, 5), mode="bicubic"), IMAGE),
    "linear_1d": (lambda x: F.interpolate(x[0], size=5, mode="linear"), IMAGE),
    "attention": (lambda q: F.scaled_dot_product_attention(q, K, V), Q),
    "attention_causal": (lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), Q),
    "attention_scale": (lambda q: F.scaled_dot_product_attention(q, K, V, scale=0.2), Q),
    "attention_bias": (lambda q: F.scaled_dot_product_attention(q, K, V, R_5_7), Q),
    "attention_mask": (lambda q: F.scaled_dot_product_attention(q, K, V, R_2_1_5_7 > 0), Q),
    "attention_hidden_row": (
        lambda q: F.scaled_dot_product_attention(q, K, V, torch.arange(5)[:, None].expand(5, 7) > 1),
        Q,
    ),
    "attention_three_axes": (lambda q: F.scaled_dot_product_attention(q[0], K[0], V[0]), Q),
    "attention_groups": (lambda q: F.scaled_dot_product_attention(q, K[:, :2], V[:, :2], enable_gqa=True), Q),
    "attention_broadcast": (lambda q: F.scaled_dot_product_attention(q, K[:1], V[:, :1]), Q),
    "dropout": (lambda x: F.dropout(x, 0.5, training=False), X),
    "cosine_similarity": (lambda x: F.cosine_similarity(x, x.flip(0)), X),
}


FAMILIES = {
    "elementwise": ELEMENTWISE, "movement": MOVEMENT, "reductions": REDUCTIONS, "indexing": INDEXING, "layers": LAYERS,
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str) -> None:
    check("elementwise", name)


@pytest.mark.parametrize("name", MOVEMENT)
def test_movement(name: str) -> None:
    check("movement", name)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name: str) -> None:
    check("reductions", name)


@pytest.mark.parametrize("name", INDEXING)
def test_indexing(name: str) -> None:
    check("indexing", name)


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    check("layers", name, tolerance=1e-4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}]
)
def test_recurrent(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = kind(4, 3, **options).eval()
    x = normal(5, 2, 4)
    graph = graphc.import_model(layer, example_inputs=(x,))
    assert any(node.op.name == kind.__name__.lower() for node in graph.nodes)
    with torch.no_grad():
        y, last = layer(x)
    found = interpret(graph, [x.numpy()])
    for ours, theirs in zip(found, (y, *(last if isinstance(last, tuple) else (last,))), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


def test_recurrent_with_states_and_relu() -> None:
    torch.manual_seed(0)
    layer = nn.RNN(4, 3, nonlinearity="relu").eval()
    x, h = normal(5, 2, 4), normal(1, 2, 3, seed=3)
    graph = graphc.import_model(layer, example_inputs=(x, h))
    with torch.no_grad():
        y, _ = layer(x, h)
    np.testing.assert_allclose(interpret(graph, [x.numpy(), h.numpy()])[0], y.numpy(), rtol=1e-5, atol=1e-5)
