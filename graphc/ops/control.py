"""`scan`: a body run once for each step of a sequence, carrying values from step to step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.types import TensorType, f64, i64
from graphc.ops.by_decomposition import add_cotangent, backpropagate
from graphc.ops.sampling import uniform


def _infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    body, carries, scanned = a["body"], a["carries"], a["scanned"]
    if scanned < 1 or carries < 0 or carries + scanned > len(types):
        raise ShapeError("scan needs a scanned operand, and no more carries and scanned operands than it has",
                         seen=f"{carries} carries, {scanned} scanned, {len(types)} operands")  # fmt: skip
    xs = types[carries : carries + scanned]
    if any(t.rank == 0 for t in xs):
        raise ShapeError("scanned operands need an axis of time", seen=", ".join(map(str, xs)))
    length = xs[0].shape[0]
    for t in xs[1:]:
        length = inference.equal(length, t.shape[0], "lengths of scanned operands")
    given = (*types[:carries], *(t.with_shape(t.shape[1:]) for t in xs), *types[carries + scanned :])
    expected = tuple(v.type for v in body.inputs)
    if given != expected:
        raise ShapeError("operands don't fit the body", seen=_text(given), expected=_text(expected))
    results = tuple(v.type for v in body.outputs)
    if results[:carries] != given[:carries]:
        raise ShapeError("the body must return carries of the types that it takes", seen=_text(results[:carries]),
                         expected=_text(given[:carries]))  # fmt: skip
    inference.guards += [g for g in body.guards if g not in inference.guards]
    return (*results[:carries], *(t.with_shape((length, *t.shape)) for t in results[carries:]))


def _text(types: Iterable[TensorType]) -> str:
    return ", ".join(map(str, types)) or "none"


def _reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    body, count, scanned = a["body"], a["carries"], a["scanned"]
    xs, captures = operands[count : count + scanned], operands[count + scanned :]
    carries = list(operands[:count])
    length = len(xs[0])
    if length == 0:  # the body tells the shape of what there is nothing of
        ys = body([*carries, *(np.zeros(x.shape[1:], x.dtype) for x in xs), *captures])[count:]
        return (*carries, *(np.zeros((0, *y.shape), y.dtype) for y in ys))
    stacked: list[np.ndarray] = []
    for t in reversed(range(length)) if a["reverse"] else range(length):
        results = body([*carries, *(x[t] for x in xs), *captures])
        carries = results[:count]
        stacked = stacked or [np.empty((length, *y.shape), y.dtype) for y in results[count:]]
        for into, y in zip(stacked, results[count:], strict=True):
            into[t] = y
    return (*carries, *stacked)


def _vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """Backpropagation through time: a scan that keeps each step's carries and products, then one over them, the other way."""
    body, carries, scanned, reverse = (node[k] for k in ("body", "carries", "scanned", "reverse"))
    products = [v for n in body.nodes if n.op.name in _WORTH_KEEPING for v in n.results]
    keeping = _keeping(body, carries, products)
    kept = b.ops("scan", *node.operands, body=keeping, carries=carries, scanned=scanned, reverse=reverse)[carries:]
    floats = [v.type.dtype.is_float for v in node.operands]
    float_carries = [i for i in range(carries) if floats[i]]
    float_xs = [i for i in range(carries, carries + scanned) if floats[i]]
    float_captures = [i for i in range(carries + scanned, len(floats)) if floats[i]]
    float_ys = [i for i in range(carries, len(node.results)) if node.results[i].type.dtype.is_float]
    backward = _backward_body(body, carries, scanned, products, float_carries, float_xs, float_captures, float_ys)
    found = b.ops(
        "scan",
        *(cotangents[i] for i in float_carries),
        *(b.full_like(0, node.operands[i]) for i in float_captures),
        *kept[:carries],
        *node.operands[carries : carries + scanned],
        *kept[carries:],
        *(cotangents[i] for i in float_ys),
        *node.operands[carries + scanned :],
        body=backward,
        carries=len(float_carries) + len(float_captures),
        scanned=len(kept) + scanned + len(float_ys),
        reverse=not reverse,
    )
    by_operand = dict(zip((*float_carries, *float_captures, *float_xs), found, strict=True))
    return [by_operand.get(i) for i in range(len(node.operands))]


_WORTH_KEEPING = ("dot", "conv", "conv_input_grad", "conv_weight_grad")
"""Results that are kept from step to step, as computing them again would take as long as the gradients themselves."""


def _keeping(body: Graph, carries: int, values: Sequence[Value]) -> Graph:
    """A body that returns the next carries, then those that it was given, then some of its values."""
    copy, mapping = body.clone(f"{body.name}.forward")
    copy.set_outputs((*copy.outputs[:carries], *copy.inputs[:carries], *(mapping[v] for v in values)))
    return copy


def _backward_body(
    body: Graph,
    carries: int,
    scanned: int,
    products: Sequence[Value],
    float_carries: Sequence[int],
    float_xs: Sequence[int],
    float_captures: Sequence[int],
    float_ys: Sequence[int],
) -> Graph:
    """One step back: cotangents of the carries after it and sums for the captures in, those before it out, then xs's.

    Inputs: cotangents of float carries, sums for float captures; kept carries, xs, kept products, cotangents of float ys;
    captures.
    """
    b = Builder(Graph(f"{body.name}.backward"))

    def inputs(prefix: str, values: Iterable[Value]) -> list[Value]:
        return [b.graph.add_input(f"{prefix}{v.name}", v.type) for v in values]

    d_carries = inputs("d.", (body.inputs[i] for i in float_carries))
    sums = inputs("sum.", (body.inputs[i] for i in float_captures))
    steps = inputs("", body.inputs[: carries + scanned])
    known = inputs("", products)
    d_ys = inputs("d.", (body.outputs[i] for i in float_ys))
    captures = inputs("", body.inputs[carries + scanned :])
    mapping = dict(zip(body.inputs, (*steps, *captures), strict=True))
    nodes = [Graph.copy_node(n, b.graph, mapping) for n in body.nodes]
    given: dict[Value, Value] = {}
    for i, cotangent in zip((*float_carries, *float_ys), (*d_carries, *d_ys), strict=True):
        add_cotangent(b, given, mapping[body.outputs[i]], cotangent)
    found = backpropagate(b, nodes, given, (*steps, *captures))

    def of_input(i: int) -> Value:
        value = mapping[body.inputs[i]]
        return found[value] if value in found else b.full_like(0, value)

    totals = [b.op("add", s, of_input(i)) for s, i in zip(sums, float_captures, strict=True)]
    b.graph.guards += [g for g in body.guards if g not in b.graph.guards]
    b.returns(*map(of_input, float_carries), *totals, *map(of_input, float_xs))
    for value, kept in zip(products, known, strict=True):
        b.graph.replace_uses(mapping[value], kept)
    for n in reversed(b.graph.nodes):
        if "terminal" not in n.op.traits and not any(v.uses for v in n.results):
            b.graph.erase(n)
    return b.graph


def _cell() -> Graph:
    """c' = tanh(w c + x), a count of steps, and y = c' * x * count."""
    b = Builder(Graph("cell"))
    c, n = b.input("c", f64, (3,)), b.input("n", i64, ())
    x, w = b.input("x", f64, (3,)), b.input("w", f64, (3, 3))
    after = b.op("tanh", b.op("add", b.op("dot", w, c, lhs_contract=(1,), rhs_contract=(0,)), x))
    count = b.op("add", n, b.scalar(1, i64))
    y = b.op("mul", b.op("mul", after, x), b.broadcast(b.cast(count, f64), (3,), ()))
    return b.returns(after, count, y, count)


def _shift() -> Graph:
    """Carries the last x; returns the one before, twice."""
    b = Builder(Graph("shift"))
    c, x = b.input("c", f64, (2,)), b.input("x", f64, (2,))
    return b.returns(x, c, c)


def _samples() -> Iterable[Sample]:
    for reverse in (False, True):
        operands = (uniform(3), np.array(2, np.int64), uniform(4, 3, seed=1), uniform(3, 3, seed=2))
        yield Sample(operands, {"body": _cell(), "carries": 2, "scanned": 1, "reverse": reverse})
    yield Sample((uniform(2), uniform(5, 2)), {"body": _shift(), "carries": 1, "scanned": 1})
    yield Sample((uniform(2), uniform(1, 2)), {"body": _shift(), "carries": 1, "scanned": 1})
    yield Sample((uniform(2), uniform(0, 2)), {"body": _shift(), "carries": 1, "scanned": 1})


OPERATORS = (
    OpDef(
        name="scan",
        operands=("*operands",),
        results=("*results",),
        attributes={
            "body": Attribute("graph"), "carries": Attribute("int"), "scanned": Attribute("int"),
            "reverse": Attribute("bool", False),
        },
        infer=_infer,
        reference=_reference,
        vjp=_vjp,
        samples=_samples,
        dtypes=("f64",),
        doc="""Runs `body` for t = 0 .. length-1, or from the end with `reverse`.

        Operands are `carries` initial carries, `scanned` sequences [length, ...], and captures, the same at every step.
        The body takes carries, the sequences' elements at t, and captures, and returns the next carries and any number
        of ys. Results are the last carries, then each y as a sequence [length, ...] with step t at t. ONNX: Scan.""",
    ),
)  # fmt: skip
