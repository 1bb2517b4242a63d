"""Control flow that depends on data: `if` runs one of two regions, `while` one region as long as another says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError, Unsupported, UnsupportedOpError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.types import TensorType, bool_, f64, i64
from graphc.ops.by_decomposition import add_cotangent, backpropagate
from graphc.ops.sampling import uniform

UNBOUNDED = -1
TRUTH = TensorType(bool_, ())


def _check_region(
    inference: Inference, region: Graph, what: str, types: Sequence[TensorType]
) -> tuple[TensorType, ...]:
    """The types of what a region returns; raises ShapeError where it doesn't take `types`."""
    expected = tuple(v.type for v in region.inputs)
    if tuple(types) != expected:
        raise ShapeError(f"operands don't fit {what}", seen=_text(types), expected=_text(expected))
    inference.guards += [g for g in region.guards if g not in inference.guards]
    return tuple(v.type for v in region.outputs)


def _text(types: Iterable[TensorType]) -> str:
    return ", ".join(map(str, types)) or "none"


def _floats(values: Sequence[Value]) -> list[int]:
    return [i for i, v in enumerate(values) if v.type.dtype.is_float]


# if


def _infer_if(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    if types[0] != TRUTH:
        raise ShapeError("a condition is one bool", seen=types[0], expected=TRUTH)
    then = _check_region(inference, a["then"], "`then`", types[1:])
    otherwise = _check_region(inference, a["otherwise"], "`otherwise`", types[1:])
    if then != otherwise:
        raise ShapeError("both branches must return the same types", seen=f"{_text(then)} and {_text(otherwise)}")
    return then


def _if(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    return tuple(a["then" if operands[0] else "otherwise"](operands[1:]))


def _if_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """An `if` over the branches backwards, each after its own forward nodes: what isn't taken costs nothing, as before."""
    condition, *captures = node.operands
    given, wanted = _floats(node.results), _floats(captures)
    then, otherwise = (_backward(node[k], wanted, given) for k in ("then", "otherwise"))
    operands = (condition, *captures, *(cotangents[i] for i in given))
    found = b.emit("if", operands, then=then, otherwise=otherwise).results if wanted else ()
    by_capture = dict(zip(wanted, found, strict=True))
    return [None, *(by_capture.get(i) for i in range(len(captures)))]


def _backward(region: Graph, wanted: Sequence[int], given: Sequence[int]) -> Graph:
    """From a region's inputs and the cotangents of its float outputs to the cotangents of its float inputs."""
    copy, _ = region.clone(f"{region.name}.backward")
    b, inputs, nodes = Builder(copy), list(copy.inputs), copy.nodes
    cotangents: dict[Value, Value] = {}
    for i in given:
        output = copy.outputs[i]
        add_cotangent(b, cotangents, output, copy.add_input(f"d.{output.name}", output.type))
    found = backpropagate(b, nodes, cotangents, inputs)
    return b.returns(*(found[v] if v in found else b.full_like(0, v) for v in (inputs[i] for i in wanted)))


def _if_samples() -> Iterable[Sample]:
    def branch(name: str) -> tuple[Builder, Value, Value, Value]:
        b = Builder(Graph(name))
        return b, b.input("x", f64, (2, 3)), b.input("w", f64, (3,)), b.input("n", i64, ())

    b, x, w, n = branch("then")
    scaled = b.op("mul", x, b.broadcast(w, (2, 3), (1,)))
    then = b.returns(b.op("sin", scaled), b.op("add", n, n), w)
    b, x, w, n = branch("otherwise")
    otherwise = b.returns(b.op("exp", x), n, b.op("reduce_sum", x, axes=(0,)))
    for condition in (True, False):
        operands = (np.array(condition), uniform(2, 3), uniform(3, seed=1), np.array(4))
        yield Sample(operands, {"then": then, "otherwise": otherwise})
    b = Builder(Graph("empty"))
    empty = b.returns(b.op("neg", b.input("x", f64, (0, 2))))
    yield Sample((np.array(True), np.zeros((0, 2))), {"then": empty, "otherwise": empty})


# while


def _infer_while(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    carries = a["carries"]
    if not 0 <= carries <= len(types):
        raise ShapeError("there can't be more carries than operands", seen=f"{carries} carries, {len(types)} operands")
    if isinstance(a["max_trips"], int) and a["max_trips"] < UNBOUNDED:
        raise ShapeError("a loop can't run less than never", seen=a["max_trips"], expected="0 or more; -1: no bound")
    condition = _check_region(inference, a["condition"], "`condition`", types)
    if condition != (TRUTH,):
        raise ShapeError("`condition` must return one bool", seen=_text(condition), expected=TRUTH)
    after = _check_region(inference, a["body"], "`body`", types)
    if after != tuple(types[:carries]):
        raise ShapeError("the body must return the carries' types", seen=_text(after), expected=_text(types[:carries]))
    return after


def _while(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    carries, captures, trips = list(operands[: a["carries"]]), operands[a["carries"] :], 0
    while trips != a["max_trips"] and a["condition"]([*carries, *captures])[0]:
        carries = a["body"]([*carries, *captures])
        trips += 1
    return tuple(carries)


def _while_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """That of a scan over max_trips steps, each an `if` that leaves the carries as they are once the loop has ended."""
    if node["max_trips"] == UNBOUNDED:
        reason = "its number of steps has no static bound, which backpropagation needs: give it max_trips"
        layer = ", ".join(node.origin) or f"%{node.results[0].name}"
        raise UnsupportedOpError("autodiff", [Unsupported("while", layer, reason, node.origin)])
    carries = node["carries"]
    clock = b.op("iota", dtype=i64, shape=(node["max_trips"],), axis=0)
    operands = [*node.operands[:carries], clock, *node.operands[carries:]]
    scan = b.emit("scan", operands, body=_step(node), carries=carries, scanned=1)
    assert callable(scan.op.vjp)
    found = scan.op.vjp(b, scan, cotangents)
    b.graph.erase(scan)  # the gradient has a scan of its own, which keeps the carries
    return [*found[:carries], *found[carries + 1 :]]


def _step(node: Node) -> Graph:
    """A scan's body: one step of the loop if its condition still holds."""
    b = Builder(Graph(f"{node['body'].name}.step"), origin=node.origin)
    carries = [b.input(v.name, v.type.dtype, v.type.shape) for v in node["body"].inputs[: node["carries"]]]
    b.input("step", i64, ())
    captures = [b.input(v.name, v.type.dtype, v.type.shape) for v in node["body"].inputs[node["carries"] :]]
    condition = node["condition"]
    mapping = dict(zip(condition.inputs, (*carries, *captures), strict=True))
    for inner in condition.nodes:
        Graph.copy_node(inner, b.graph, mapping)
    alive = mapping[condition.outputs[0]]
    unchanged = Graph("unchanged")
    inputs = [unchanged.add_input(v.name, v.type) for v in node["body"].inputs]
    unchanged.set_outputs(inputs[: len(carries)])
    b.graph.guards += [g for g in (*condition.guards, *node["body"].guards) if g not in b.graph.guards]
    return b.returns(*b.ops("if", alive, *carries, *captures, then=node["body"], otherwise=unchanged))


def _while_samples() -> Iterable[Sample]:
    def region(name: str) -> tuple[Builder, Value, Value, Value, Value]:
        b = Builder(Graph(name))
        return b, b.input("x", f64, (3,)), b.input("n", i64, ()), b.input("w", f64, (3,)), b.input("end", i64, ())

    b, _, n, _, end = region("condition")
    condition = b.returns(b.op("lt", n, end))
    b, x, n, w, _ = region("body")
    after = b.op("add", b.op("sin", b.op("mul", x, w)), x)
    body = b.returns(after, b.op("add", n, b.scalar(1, i64)))
    for end_at, bound in ((3, 5), (9, 4), (0, 4), (3, 0), (4, UNBOUNDED)):
        operands = (uniform(3), np.array(0), uniform(3, seed=1), np.array(end_at))
        regions = {"condition": condition, "body": body, "carries": 2, "max_trips": bound}
        yield Sample(operands, regions, differentiable=bound != UNBOUNDED)
    b = Builder(Graph("never"))
    b.input("x", f64, (0, 2))
    never = b.returns(b.scalar(False, bool_))
    b = Builder(Graph("negation"))
    negation = b.returns(b.op("neg", b.input("x", f64, (0, 2))))
    yield Sample((np.zeros((0, 2)),), {"condition": never, "body": negation, "carries": 1, "max_trips": 2})


OPERATORS = (
    OpDef(
        name="if",
        operands=("condition", "*captures"),
        results=("*results",),
        attributes={"then": Attribute("graph"), "otherwise": Attribute("graph")},
        infer=_infer_if,
        reference=_if,
        vjp=_if_vjp,
        samples=_if_samples,
        dtypes=("f64",),
        doc="""What `then` returns where `condition` (bool[]) holds, else what `otherwise` returns; the other isn't run.

        Both regions take the captures, and return the same types. ONNX: If.""",
    ),
    OpDef(
        name="while",
        operands=("*operands",),
        results=("*results",),
        attributes={
            "condition": Attribute("graph"), "body": Attribute("graph"), "carries": Attribute("int"),
            "max_trips": Attribute("dim", UNBOUNDED),
        },
        infer=_infer_while,
        reference=_while,
        vjp=_while_vjp,
        samples=_while_samples,
        dtypes=("f64",),
        doc="""Runs `body` as long as `condition` holds, at most `max_trips` times (-1: as often as it does).

        Operands are `carries` initial carries and captures, the same at every step. Both regions take all of them; `condition`
        returns bool[], `body` the next carries. Results are the last carries. A loop with a bound has a gradient, whose
        work and memory grow with the bound. ONNX: Loop.""",
    ),
)  # fmt: skip
