"""Recurrent layers, one direction each: rnn, gru and lstm, as `scan`s of one step over the input's projections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.symbolic import Dim
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import add, mul, one_minus, spread
from graphc.ops.by_decomposition import decomposition, vjp_by_decomposition
from graphc.ops.common import FLOATS, check_dtype, check_same_dtype, widened
from graphc.ops.sampling import uniform
from graphc.ops.scalar_functions import sigmoid

# Inference


def _infer(inference: Inference, types: Sequence[TensorType], gates: int, biases: int) -> tuple[TensorType, Dim]:
    """Checks x [s,b,i], w [gates*h,i], r [gates*h,h], biases [gates*h] and states [b,h]; gives y's type."""
    check_same_dtype(types)
    check_dtype(types[0], FLOATS)
    x, w, r, *rest = types
    states = rest[biases:]
    ranks = [3, 2, 2, *(1 for _ in rest[:biases]), *(2 for _ in states)]
    if [t.rank for t in types] != ranks:
        raise ShapeError("operands of a recurrent layer have other ranks", seen=", ".join(map(str, types)),
                         expected=", ".join(map(str, ranks)))  # fmt: skip
    length, batch, size = x.shape
    hidden = r.shape[1]
    inference.equal(size, w.shape[1], "input size of x and w")
    for t in (w, r, *rest[:biases]):
        inference.equal(t.shape[0], hidden * gates, f"rows of {t}, for {gates} gates,")
    for t in states:
        inference.equal(batch, t.shape[0], "batch of x and states")
        inference.equal(hidden, t.shape[1], "hidden size of r and states")
    return x.with_shape((length, batch, hidden)), hidden


def _results(y: TensorType, states: int) -> tuple[TensorType, ...]:
    return (y, *(y.with_shape(y.shape[1:]) for _ in range(states)))


# Steps in graphs


def _projection(b: Builder, x: Value, w: Value, bias: Value) -> Value:
    """x w^T + bias over the last axis of x: the input's part of all steps at once."""
    last = x.type.rank - 1
    y = b.op("dot", x, w, lhs_contract=(last,), rhs_contract=(1,))
    return add(b, y, spread(b, bias, y, (last,)))


def _parts(b: Builder, x: Value, count: int, axis: int, size: Dim) -> list[Value]:
    """x cut into parts of one size along an axis."""
    shape = x.type.shape
    result = []
    for i in range(count):
        starts: list[Dim] = [0] * x.type.rank
        limits = list(shape)
        starts[axis], limits[axis] = i * size, (i + 1) * size
        result.append(b.op("slice", x, starts=tuple(starts), limits=tuple(limits), strides=(1,) * x.type.rank))
    return result


def _times_transposed(b: Builder, h: Value, r: Value) -> Value:
    """h r^T."""
    return b.op("dot", h, r, lhs_contract=(1,), rhs_contract=(1,))


def _run(
    b: Builder, states: Sequence[Value], xs: Value, captures: Sequence[Value], step: Any, reverse: bool, name: str
) -> Sequence[Value]:
    """Scans `step(builder, states, x, captures) -> states`; gives all first states, then the last of each."""
    inner = Builder(Graph(name), origin=b.origin)
    body_states = [inner.graph.add_input(f"s{i}", v.type) for i, v in enumerate(states)]
    x = inner.graph.add_input("x", xs.type.with_shape(xs.type.shape[1:]))
    body_captures = [inner.graph.add_input(f"c{i}", v.type) for i, v in enumerate(captures)]
    after = step(inner, body_states, x, body_captures)
    body = inner.returns(*after, after[0])
    found = b.ops("scan", *states, xs, *captures, body=body, carries=len(states), scanned=1, reverse=reverse)
    return (found[-1], *found[:-1])


# rnn

ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": lambda x: np.tanh(x),
    "relu": lambda x: np.maximum(x, 0),
}


def _rnn_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    if a["activation"] not in ACTIVATIONS:
        raise ShapeError("unknown activation of rnn", seen=a["activation"], expected=" or ".join(ACTIVATIONS))
    return _results(_infer(inference, types, 1, 1)[0], 1)


def _rnn(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    x, w, r, bias, h0 = operands

    def step(b: Builder, states: Sequence[Value], x: Value, captures: Sequence[Value]) -> Sequence[Value]:
        return (b.op(a["activation"], add(b, x, _times_transposed(b, states[0], captures[0]))),)

    return _run(b, (h0,), _projection(b, x, w, bias), (r,), step, a["reverse"], "rnn_step")


def _steps(x: np.ndarray, reverse: bool) -> Iterable[int]:
    return reversed(range(len(x))) if reverse else range(len(x))


def _rnn_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, w, r, bias, h = operands
    y = np.empty((*x.shape[:2], r.shape[1]), x.dtype)
    for t in _steps(x, a["reverse"]):
        y[t] = h = ACTIVATIONS[a["activation"]](x[t] @ w.T + h @ r.T + bias)
    return y, h


# gru


def _gru_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    return _results(_infer(inference, types, 3, 2)[0], 1)


def _gru(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    x, w, r, wb, rb, h0 = operands

    def step(b: Builder, states: Sequence[Value], x: Value, captures: Sequence[Value]) -> Sequence[Value]:
        (h,) = states
        size = h.type.shape[1]
        xs = _parts(b, x, 3, 1, size)
        rs, biases = (_parts(b, v, 3, 0, size) for v in captures)

        def recurrent(i: int, h: Value) -> Value:
            return add(b, _times_transposed(b, h, rs[i]), spread(b, biases[i], h, (1,)))

        update, reset = (b.op("sigmoid", add(b, xs[i], recurrent(i, h))) for i in (0, 1))
        after = mul(b, reset, recurrent(2, h)) if a["linear_before_reset"] else recurrent(2, mul(b, reset, h))
        new = b.op("tanh", add(b, xs[2], after))
        return (add(b, mul(b, one_minus(b, update), new), mul(b, update, h)),)

    return _run(b, (h0,), _projection(b, x, w, wb), (r, rb), step, a["reverse"], "gru_step")


def _gru_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, w, r, wb, rb, h = operands
    y = np.empty((*x.shape[:2], r.shape[1]), x.dtype)
    rz, rr, rn = np.split(r, 3)
    bz, br, bn = np.split(rb, 3)
    for t in _steps(x, a["reverse"]):
        xz, xr, xn = np.split(x[t] @ w.T + wb, 3, axis=1)
        update, reset = sigmoid(xz + h @ rz.T + bz), sigmoid(xr + h @ rr.T + br)
        after = reset * (h @ rn.T + bn) if a["linear_before_reset"] else (reset * h) @ rn.T + bn
        y[t] = h = (1 - update) * np.tanh(xn + after) + update * h
    return y, h


# lstm


def _lstm_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    return _results(_infer(inference, types, 4, 1)[0], 2)


def _lstm(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    x, w, r, bias, h0, c0 = operands

    def step(b: Builder, states: Sequence[Value], x: Value, captures: Sequence[Value]) -> Sequence[Value]:
        h, c = states
        gates = _parts(b, add(b, x, _times_transposed(b, h, captures[0])), 4, 1, h.type.shape[1])
        enter, leave, keep = (b.op("sigmoid", g) for g in gates[:3])
        c = add(b, mul(b, keep, c), mul(b, enter, b.op("tanh", gates[3])))
        return mul(b, leave, b.op("tanh", c)), c

    return _run(b, (h0, c0), _projection(b, x, w, bias), (r,), step, a["reverse"], "lstm_step")


def _lstm_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, w, r, bias, h, c = operands
    y = np.empty((*x.shape[:2], r.shape[1]), x.dtype)
    for t in _steps(x, a["reverse"]):
        enter, leave, keep, new = np.split(x[t] @ w.T + h @ r.T + bias, 4, axis=1)
        c = sigmoid(keep) * c + sigmoid(enter) * np.tanh(new)
        y[t] = h = sigmoid(leave) * np.tanh(c)
    return y, h, c


# Samples


def _layer_samples(gates: int, biases: int, states: int, choices: Sequence[Mapping[str, Any]]) -> Iterable[Sample]:
    for length, batch, size, hidden in ((4, 2, 3, 5), (1, 1, 2, 1), (0, 2, 3, 2)):
        x = uniform(length, batch, size)
        w, r = uniform(gates * hidden, size, seed=1), uniform(gates * hidden, hidden, seed=2)
        bs = [uniform(gates * hidden, seed=3 + i) for i in range(biases)]
        hs = [uniform(batch, hidden, seed=5 + i) for i in range(states)]
        for choice in choices:
            yield Sample((x, w * 0.5, r * 0.5, *bs, *hs), choice)


_REVERSE = Attribute("bool", False)

OPERATORS = (
    OpDef(
        name="rnn",
        operands=("x", "w", "r", "bias", "h0"),
        results=("y", "h"),
        attributes={"activation": Attribute("str", "tanh"), "reverse": _REVERSE},
        infer=_rnn_infer,
        reference=widened(_rnn_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_rnn),
        samples=lambda: _layer_samples(1, 1, 1, ({}, {"activation": "relu", "reverse": True})),
        dtypes=FLOATS,
        doc="""h[t] = activation(x[t] w^T + h[t-1] r^T + bias), activation tanh or relu.

        x [s,b,i], w [h,i], r [h,h], bias [h], h0 [b,h]: all h [s,b,h] and the last; `reverse` runs from the end, step t
        still at t. ONNX: RNN, one direction, both its biases added. Source: Elman, 1990.""",
    ),
    OpDef(
        name="gru",
        operands=("x", "w", "r", "wb", "rb", "h0"),
        results=("y", "h"),
        attributes={"linear_before_reset": Attribute("bool", False), "reverse": _REVERSE},
        infer=_gru_infer,
        reference=widened(_gru_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_gru),
        samples=lambda: _layer_samples(3, 2, 1, ({}, {"linear_before_reset": True}, {"reverse": True})),
        dtypes=FLOATS,
        doc="""Gated recurrent unit; w, r and both biases hold the gates update z, reset r, new n, one after the other.

        z, r = sigmoid(x w^T + wb + h r^T + rb); n = tanh(x wn^T + wbn + (r * h) rn^T + rbn), or with
        `linear_before_reset` tanh(x wn^T + wbn + r * (h rn^T + rbn)); h' = (1 - z) * n + z * h. x [s,b,i], w [3h,i],
        r [3h,h], biases [3h], h0 [b,h]: all h [s,b,h] and the last. ONNX: GRU. Source: Cho et al., 2014.""",
    ),
    OpDef(
        name="lstm",
        operands=("x", "w", "r", "bias", "h0", "c0"),
        results=("y", "h", "c"),
        attributes={"reverse": _REVERSE},
        infer=_lstm_infer,
        reference=widened(_lstm_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_lstm),
        samples=lambda: _layer_samples(4, 1, 2, ({}, {"reverse": True})),
        dtypes=FLOATS,
        doc="""Long short-term memory; w, r and bias hold the gates input i, output o, forget f, cell g, as ONNX.

        i, o, f = sigmoid(x w^T + h r^T + bias); g = tanh(likewise); c' = f * c + i * g; h' = o * tanh(c'). x [s,b,i],
        w [4h,i], r [4h,h], bias [4h], h0 and c0 [b,h]: all h [s,b,h], the last h and the last c. ONNX: LSTM, one
        direction, both its biases added, without peepholes. Source: Hochreiter and Schmidhuber, 1997; Gers, 1999.""",
    ),
)
