"""Every VJP in f32 against torch's own, at the operators' samples; what torch has no counterpart of is listed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphc.autodiff import gradients
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.opdef import OpDef, Sample
from graphc.ir.types import f32
from graphc.ops import core_operators
from graphc.testing.conformance import cast_sample
from graphc.testing.gradients import forward_graph, gradient_samples

Function = Callable[[Sequence[Tensor], Mapping[str, Any]], Sequence[Tensor] | None]
"""The float results of an operator from its operands and attributes; None for a sample that torch has no form of."""


def plain(f: Callable[..., Tensor]) -> Function:
    return lambda x, a: (f(*x),)


def broadcast(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    aligned = [1] * len(a["shape"])
    for i, axis in enumerate(a["axes"]):
        aligned[axis] = x[0].shape[i]
    return (x[0].reshape(aligned).expand(a["shape"]),)


def sliced(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    return (x[0][tuple(map(slice, a["starts"], a["limits"], a["strides"]))],)


def padded(x: Tensor, value: Tensor, low: Sequence[int], high: Sequence[int]) -> Tensor:
    inside = torch.zeros([lo + d + hi for lo, d, hi in zip(low, x.shape, high, strict=True)], dtype=torch.bool)
    at = tuple(slice(lo, lo + d) for lo, d in zip(low, x.shape, strict=True))
    inside[at] = True
    wide = torch.zeros(inside.shape, dtype=x.dtype).masked_scatter(inside, x)
    return torch.where(inside, wide, value)


def cumulative(f: Callable[[Tensor, int], Tensor], identity: float) -> Function:
    def run(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
        axis, t = a["axis"], x[0].flip(a["axis"]) if a["reverse"] else x[0]
        if a["exclusive"]:
            first = torch.full_like(t.narrow(axis, 0, min(1, t.shape[axis])), identity)
            t = torch.cat((first, t.narrow(axis, 0, max(0, t.shape[axis] - 1))), axis)
        y = f(t, axis)
        return (y.flip(axis) if a["reverse"] else y,)

    return run


def gather(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    t, i = x
    y = t.index_select(a["axis"], i.reshape(-1).long() % max(1, t.shape[a["axis"]]))
    return (y.reshape(*t.shape[: a["axis"]], *i.shape, *t.shape[a["axis"] + 1 :]),)


def gather_nd(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor] | None:
    t, i = x
    if a.get("batch_dims", 0):
        return None
    return (t[tuple(i.long().unbind(-1))],) if i.shape[-1] else None


def scatter_along(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor] | None:
    t, i, updates = x
    names = {"sum": "sum", "prod": "prod", "max": "amax", "min": "amin"}
    if a["combine"] not in names:  # torch's `scatter` leaves open which of several updates wins
        return None
    return (t.scatter_reduce(a["axis"], i.long() % t.shape[a["axis"]], updates, names[a["combine"]]),)


def scatter_nd(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor] | None:
    t, i, updates = x
    return (t.index_put(tuple(i.long().unbind(-1)), updates, accumulate=True),) if a["combine"] == "sum" else None


def dot(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    """As an einsum: batch axes first, then the lhs's free ones, then the rhs's."""
    lhs, rhs = x
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left = [next(letters) for _ in lhs.shape]
    right = [next(letters) for _ in rhs.shape]
    pairs = [*zip(a.get("lhs_batch", ()), a.get("rhs_batch", ()), strict=True)]
    for i, j in (*pairs, *zip(a["lhs_contract"], a["rhs_contract"], strict=True)):
        right[j] = left[i]
    batch = [left[i] for i, _ in pairs]
    free = [c for c in left if c not in right] + [c for c in right if c not in left]
    return (torch.einsum(f"{''.join(left)},{''.join(right)}->{''.join(batch + free)}", lhs, rhs),)


def convolve(x: Tensor, w: Tensor, a: Mapping[str, Any]) -> Tensor:
    n = len(a["strides"])
    last = a["layout"] == "channels_last"
    x = x.movedim(-1, 1) if last else x
    w = w.movedim((-1, -2), (0, 1)) if a["kernel_layout"] == "io" else w
    pads = [p for i in reversed(range(n)) for p in a["padding"][2 * i : 2 * i + 2]]
    f = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
    y = f(F.pad(x, pads), w, None, a["strides"], 0, a["dilation"], a["groups"])
    return y.movedim(1, -1) if last else y


def conv_input_grad(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    dy, w = x
    o, i = (0, 1) if a["kernel_layout"] == "oi" else (-1, -2)
    assert w.shape[o] == dy.shape[1 if a["layout"] == "channels_first" else -1]
    channels = w.shape[i] * a["groups"]
    first = a["layout"] == "channels_first"
    shape = (dy.shape[0], channels, *a["input_size"]) if first else (dy.shape[0], *a["input_size"], channels)
    at = torch.zeros(shape, requires_grad=True)
    return torch.autograd.grad(convolve(at, w, a), at, dy, create_graph=True)


def conv_weight_grad(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    t, dy = x
    first = a["layout"] == "channels_first"
    out, per_group = dy.shape[1 if first else -1], t.shape[1 if first else -1] // a["groups"]
    window = a["kernel_size"]
    shape = (out, per_group, *window) if a["kernel_layout"] == "oi" else (*window, per_group, out)
    at = torch.zeros(shape, requires_grad=True)
    return torch.autograd.grad(convolve(t, at, a), at, dy, create_graph=True)


def windows(x: Tensor, a: Mapping[str, Any], outside: float) -> Tensor:
    """Each window's elements along new last axes."""
    low, high = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(a["axes"]):
        low[axis], high[axis] = a["padding"][2 * i : 2 * i + 2]
    x = padded(x, torch.tensor(outside, dtype=x.dtype), low, high)
    for axis, window, stride, dilation in zip(a["axes"], a["window"], a["strides"], a["dilation"], strict=True):
        x = x.unfold(axis, (window - 1) * dilation + 1, stride)[..., ::dilation]
    return x


def window_axes(a: Mapping[str, Any]) -> list[int]:
    return [-1 - i for i in range(len(a["axes"]))]


def window_sum(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    return (windows(x[0], a, 0.0).sum(window_axes(a)),) if a["axes"] else (x[0] * 1,)


def window_max(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    return (windows(x[0], a, -math.inf).amax(window_axes(a)),) if a["axes"] else (x[0] * 1,)


def average_pool(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    one = {**a, "padding": (0,) * len(a["padding"])} if a["count_include_pad"] else a
    if a["count_include_pad"]:
        return (window_sum(x, a)[0] / math.prod(one["window"]),)
    return (window_sum(x, a)[0] / window_sum([torch.ones_like(x[0])], a)[0],)


def attention(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    q, k, v, *mask = x
    return (F.scaled_dot_product_attention(q, k, v, *mask, scale=a["scale"], is_causal=a.get("causal", False)),)


def batch_norm(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    t, scale, bias, mean, variance = x
    around = [1 if i != a["axis"] else -1 for i in range(t.ndim)]
    mean, variance, scale, bias = (v.reshape(around) for v in (mean, variance, scale, bias))
    return ((t - mean) * torch.rsqrt(variance + a["epsilon"]) * scale + bias,)


def batch_norm_training(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    t, scale, bias = x
    axes = [i for i in range(t.ndim) if i != a["axis"]]
    variance, mean = torch.var_mean(t, axes, correction=0)
    y = F.batch_norm(t.movedim(a["axis"], 1), None, None, scale, bias, training=True, eps=a["epsilon"])
    return y.movedim(1, a["axis"]), mean, variance


def lrn(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor] | None:
    if a["size"] % 2 == 0 or x[0].ndim < 3:  # torch's longer half is the other
        return None
    return (F.local_response_norm(x[0], a["size"], a["alpha"], a["beta"], a["bias"]),)


def sequence(x: Sequence[Tensor], a: Mapping[str, Any]) -> Tensor:
    return x[0].flip(0) if a.get("reverse") else x[0]


def rnn(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    _, w, r, bias, h0 = x
    f = torch.rnn_relu if a.get("activation") == "relu" else torch.rnn_tanh
    y, h = f(sequence(x, a), h0[None], [w, r, bias, torch.zeros_like(bias)], True, 1, 0.0, True, False, False)
    return (y.flip(0) if a.get("reverse") else y), h[0]


def gates(t: Tensor, order: Sequence[int]) -> Tensor:
    parts = t.chunk(len(order))
    return torch.cat([parts[i] for i in order])


def gru(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor] | None:
    if not a.get("linear_before_reset"):  # torch has this form alone
        return None
    weights = [gates(t, (1, 0, 2)) for t in x[1:5]]
    y, h = torch.gru(sequence(x, a), x[5][None], weights, True, 1, 0.0, True, False, False)
    return (y.flip(0) if a.get("reverse") else y), h[0]


def lstm(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor]:
    weights = [gates(t, (0, 2, 3, 1)) for t in x[1:4]]
    states = (x[4][None], x[5][None])
    y, h, c = torch.lstm(sequence(x, a), states, [*weights, torch.zeros_like(x[3])], True, 1, 0.0, True, False, False)
    return (y.flip(0) if a.get("reverse") else y), h[0], c[0]


def resize(x: Sequence[Tensor], a: Mapping[str, Any]) -> Sequence[Tensor] | None:
    corners = {"half_pixel": False, "align_corners": True}.get(a["coordinate_transform"])
    modes = {"linear": "bilinear", "cubic": "bicubic"}
    if x[0].ndim != 4 or a["mode"] not in modes or corners is None or a.get("scales") or 1 in a["sizes"]:
        return None
    return (F.interpolate(x[0], a["sizes"], mode=modes[a["mode"]], align_corners=corners),)


SAME_NAME = (
    "neg", "abs", "sign", "floor", "ceil", "round", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tan",
    "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "sigmoid", "add", "sub", "mul", "div",
    "pow", "relu", "matmul",
)  # fmt: skip

TORCH: dict[str, Function] = {
    **{name: plain(getattr(torch, name)) for name in SAME_NAME},
    "rem": plain(torch.fmod), "mod": plain(torch.remainder), "max": plain(torch.maximum), "min": plain(torch.minimum),
    "select": plain(torch.where), "cast": plain(torch.clone), "materialize": plain(torch.clone),
    "after": lambda x, a: (x[0].clone(),) if x[0].is_floating_point() else None,
    "reshape": lambda x, a: (x[0].reshape(a["shape"]),),
    "transpose": lambda x, a: (x[0].permute(a["permutation"]),),
    "broadcast": broadcast, "slice": sliced,
    "pad": lambda x, a: (padded(x[0], x[1], a["low"], a["high"]),),
    "concat": lambda x, a: (torch.cat(list(x), a["axis"]),),
    "reverse": lambda x, a: (x[0].flip(a["axes"]),),
    "reduce_sum": lambda x, a: (x[0].sum(a["axes"]) if a["axes"] else x[0] * 1,),
    "reduce_prod": lambda x, a: (x[0].movedim(a["axes"], tuple(range(len(a["axes"])))).flatten(0, len(a["axes"]) - 1).prod(0)
                                 if a["axes"] else x[0] * 1,),
    "reduce_max": lambda x, a: (x[0].amax(a["axes"]) if a["axes"] else x[0] * 1,),
    "reduce_min": lambda x, a: (x[0].amin(a["axes"]) if a["axes"] else x[0] * 1,),
    "cumsum": cumulative(torch.cumsum, 0.0), "cumprod": cumulative(torch.cumprod, 1.0),
    "gather": gather, "gather_nd": gather_nd, "scatter_along": scatter_along, "scatter_nd": scatter_nd,
    "take_along": lambda x, a: (x[0].gather(a["axis"], x[1].long() % x[0].shape[a["axis"]]),),
    "sort": lambda x, a: (x[0].sort(a["axis"], a["descending"]).values,),
    "top_k": lambda x, a: (x[0].topk(a["k"], a["axis"], a["largest"]).values,),
    "dot": dot, "conv": lambda x, a: (convolve(x[0], x[1], a),),
    "conv_input_grad": conv_input_grad, "conv_weight_grad": conv_weight_grad,
    "window_sum": window_sum, "window_max": window_max, "max_pool": window_max, "average_pool": average_pool,
    "leaky_relu": lambda x, a: (F.leaky_relu(x[0], a.get("alpha", 0.01)),),
    "elu": lambda x, a: (F.elu(x[0], a.get("alpha", 1.0)),),
    "softplus": plain(F.softplus), "silu": plain(F.silu),
    "gelu": lambda x, a: (F.gelu(x[0], approximate=a.get("approximate", "none")),),
    "softmax": lambda x, a: (torch.softmax(x[0], a["axis"]),),
    "log_softmax": lambda x, a: (torch.log_softmax(x[0], a["axis"]),),
    "layer_norm": lambda x, a: (F.layer_norm(x[0], x[1].shape, x[1], x[2], a["epsilon"]),),
    "rms_norm": lambda x, a: (F.rms_norm(x[0], x[1].shape, x[1], a["epsilon"]),),
    "group_norm": lambda x, a: (F.group_norm(x[0], a["groups"], x[1], x[2], a["epsilon"]),),
    "batch_norm": batch_norm, "batch_norm_training": batch_norm_training, "attention": attention, "lrn": lrn,
    "rnn": rnn, "gru": gru, "lstm": lstm, "resize": resize,
}  # fmt: skip

NOT_IN_TORCH = {
    "if": "control flow; tests/ops/test_branching.py compares it with torch",
    "while": "control flow; tests/ops/test_branching.py compares it with torch",
    "scan": "control flow; tests/ops/test_control.py compares it with a loop in torch",
    "winograd_conv": "it takes transformed weights; finite differences check it in tests/ops/test_operators.py",
}

DIFFERENTIABLE = {name: op for name, op in core_operators().items() if gradient_samples(op)}


def test_every_differentiable_operator_is_compared_or_listed() -> None:
    assert set(TORCH) | set(NOT_IN_TORCH) == set(DIFFERENTIABLE)
    assert not set(TORCH) & set(NOT_IN_TORCH)


def compare(op: OpDef, sample: Sample) -> bool:
    """Compares the gradients of a weighted sum of the float results; False where torch has no form of the sample."""
    arrays = [x.astype(np.int64) if x.dtype.kind in "iu" else x for x in sample.operands]
    tensors = [torch.from_numpy(np.array(x)) for x in arrays]
    floats = [t.requires_grad_() for t in tensors if t.is_floating_point()]
    if any(t.numel() == 0 for t in floats):
        return False
    results = TORCH[op.name](tensors, {k: getattr(v, "default", v) for k, v in op.complete(sample.attributes).items()})
    if results is None:
        return False
    rng = np.random.default_rng(0)
    graph = forward_graph(op, sample)
    b, wrt = Builder(graph), [v for v in graph.inputs if v.type.dtype.is_float]
    outputs = [v for v in graph.outputs if v.type.dtype.is_float]
    cotangents = {v: b.input("cotangent", v.type.dtype, v.type.shape) for v in outputs}
    weights = [rng.normal(size=v.type.shape).astype(v.type.dtype.numpy) for v in outputs]
    seen = interpret(b.returns(*gradients(b, cotangents, wrt)), [*sample.operands, *weights])
    assert [tuple(r.shape) for r in results] == [w.shape for w in weights]
    total = sum((r * torch.from_numpy(np.array(w))).sum() for r, w in zip(results, weights, strict=True))
    expected = [torch.zeros_like(t) for t in floats]
    if isinstance(total, Tensor) and total.requires_grad:
        expected = list(torch.autograd.grad(total, floats, allow_unused=True, materialize_grads=True))
    for s, e in zip(seen, expected, strict=True):
        np.testing.assert_allclose(s, e.detach().numpy(), rtol=0, atol=2e-5 * (1 + float(e.abs().max())))
    return True


@pytest.mark.parametrize("name", sorted(TORCH))
def test_gradients_equal_torch(name: str) -> None:
    op = DIFFERENTIABLE[name]
    at_f32 = [c for s in gradient_samples(op) if (c := cast_sample(s, f32)) is not None]
    assert sum(compare(op, s) for s in at_f32) >= 1
