"""Rules that lift softmax and the norms of trailing axes from the pieces that exporters write them in."""

from __future__ import annotations

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.symbolic import product
from graphc.rewrite.matcher import Match
from graphc.rewrite.patterns import AnyPattern, Capture, Either, Splat, either, op, views
from graphc.rewrite.rules import Rule
from graphc.rewrite.views import is_kept_reduction, repeats_before, without_leading

X = Capture("x")

# Softmax

_EXP = op("exp", op("sub", X, Capture("top", views(op("reduce_max", X, keep="max")))))
_TOTAL = Capture("total", views(op("reduce_sum", _EXP, keep="sum")))


def _check_softmax(match: Match) -> str | None:
    top, total = match.node("max"), match.node("sum")
    if top["axes"] != total["axes"] or len(top["axes"]) != 1:
        return f"maximum over axes {list(top['axes'])}, sum over {list(total['axes'])}: not one and the same"
    if not is_kept_reduction(match["top"], top.result, top["axes"]):
        return "the maximum isn't spread back along its axis"
    if not is_kept_reduction(match["total"], total.result, total["axes"]):
        return "the sum isn't spread back along its axis"
    return None


SOFTMAX = Rule(
    "lift-softmax",
    "exp(x - max(x)) / sum(exp(x - max(x))) = softmax(x)",
    either(op("div", _EXP, _TOTAL), op("mul", _EXP, op("div", Splat(1.0), _TOTAL))),
    lambda b, m: b.op("softmax", m["x"], axis=m.node("max")["axes"][0]),
    _check_softmax,
)

# Norms


def _mean(x: AnyPattern, name: str) -> Either:
    """The mean over some axes: their sum, kept as `name`, over their count, kept as `name`.count (or its .inverse)."""
    total = views(op("reduce_sum", x, keep=name))
    return either(op("div", total, Splat(name=f"{name}.count")), op("mul", total, Splat(name=f"{name}.inverse")))


def _square(x: AnyPattern) -> Either:
    return either(op("mul", x, x), op("pow", x, Splat(2.0)))


def _over_root(x: AnyPattern, variance: AnyPattern) -> Either:
    """x / sqrt(variance + epsilon), spread out anywhere in between; the whole spread value is kept as "root"."""
    sum_ = views(op("add", variance, Splat(name="epsilon")))
    root = views(op("sqrt", sum_))
    inverse = either(op("rsqrt", sum_), op("div", Splat(1.0), root))
    return either(
        op("mul", x, Capture("root", views(inverse))),
        op("div", x, Capture("root", root)),
    )


_CENTRED = op("sub", X, Capture("mean", views(_mean(X, "first"))))
_STANDARD = _over_root(_CENTRED, views(_mean(_square(_CENTRED), "second")))
_ROOT_MEAN_SQUARE = _over_root(X, views(_mean(_square(X), "second")))


def _check_mean(match: Match, name: str, spread: str) -> str | None:
    """Why a mean isn't one over trailing axes that is spread back; None if it is."""
    total, x = match.node(name), match["x"]
    rank = x.type.rank
    axes = tuple(sorted(total["axes"]))
    if not axes or axes != tuple(range(axes[0], rank)):
        return f"the mean is over axes {list(axes)}, not over trailing ones"
    count = product(x.type.shape[i] for i in axes)
    given = match.numbers.get(f"{name}.count")
    inverse = match.numbers.get(f"{name}.inverse")
    if not isinstance(count, int) or (given != count if inverse is None else abs(inverse * count - 1) > 1e-6):
        return f"the sum of {count} elements is divided by {given if inverse is None else f'1 / {inverse}'}"
    if not is_kept_reduction(match[spread], total.result, axes):
        return "the mean isn't spread back along its axes"
    return None


def _first_axis(match: Match) -> int:
    axes: tuple[int, ...] = match.node("second")["axes"]
    return min(axes)


def _check_parameters(match: Match) -> str | None:
    for name in ("scale", "bias"):
        if name in match.values and not repeats_before(match[name], _first_axis(match)):
            return f"the {name} isn't one number for each normalized element"
    return None


def _check_standard(match: Match) -> str | None:
    if match.node("first")["axes"] != match.node("second")["axes"]:
        return "mean and variance are over different axes"
    return _check_mean(match, "first", "mean") or _check_mean(match, "second", "root") or _check_parameters(match)


def _check_mean_square(match: Match) -> str | None:
    return _check_mean(match, "second", "root") or _check_parameters(match)


def _parameter(b: Builder, match: Match, name: str, default: float) -> Value:
    first, x = _first_axis(match), match["x"]
    if name in match.values:
        return without_leading(b, match[name], first)
    return b.full(default, x.type.with_shape(x.type.shape[first:]))


def _layer_norm(b: Builder, match: Match) -> Value:
    scale, bias = _parameter(b, match, "scale", 1.0), _parameter(b, match, "bias", 0.0)
    axis, epsilon = _first_axis(match), float(match.number("epsilon"))
    return b.op("layer_norm", match["x"], scale, bias, axis=axis, epsilon=epsilon)


def _rms_norm(b: Builder, match: Match) -> Value:
    scale = _parameter(b, match, "scale", 1.0)
    return b.op("rms_norm", match["x"], scale, axis=_first_axis(match), epsilon=float(match.number("epsilon")))


_SCALE, _BIAS = Capture("scale"), Capture("bias")

LAYER_NORM = Rule(
    "lift-layer-norm",
    "(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias = layer_norm(x, scale, bias)",
    op("add", either(op("mul", _STANDARD, _SCALE), _STANDARD), _BIAS),
    _layer_norm,
    _check_standard,
)

LAYER_NORM_SCALED = Rule(
    "lift-layer-norm-scaled",
    "(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale = layer_norm(x, scale, 0)",
    op("mul", _STANDARD, _SCALE),
    _layer_norm,
    _check_standard,
)

LAYER_NORM_BARE = Rule(
    "lift-layer-norm-bare",
    "(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) = layer_norm(x, 1, 0)",
    _STANDARD,
    _layer_norm,
    _check_standard,
)

RMS_NORM = Rule(
    "lift-rms-norm",
    "x / sqrt(mean(x^2) + epsilon) * scale = rms_norm(x, scale)",
    op("mul", _ROOT_MEAN_SQUARE, _SCALE),
    _rms_norm,
    _check_mean_square,
)

RMS_NORM_BARE = Rule(
    "lift-rms-norm-bare",
    "x / sqrt(mean(x^2) + epsilon) = rms_norm(x, 1)",
    _ROOT_MEAN_SQUARE,
    _rms_norm,
    _check_mean_square,
)

STAGES = ((SOFTMAX,), (LAYER_NORM,), (LAYER_NORM_SCALED, RMS_NORM), (LAYER_NORM_BARE, RMS_NORM_BARE))
"""Longer forms come first: the shorter ones are parts of them."""
