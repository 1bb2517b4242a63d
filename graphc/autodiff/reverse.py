"""`value_and_grad`, `grad`, and `gradients`, which both are made of: it emits into a graph that is being built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.errors import GraphcError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ops.by_decomposition import add_cotangent, backpropagate


def value_and_grad(graph: Graph, wrt: str | Sequence[str] | None = None) -> Graph:
    """A graph of the same inputs that returns the outputs of `graph`, then a gradient for each input in `wrt`.

    wrt: names of float inputs; None means all of them, in their order. The gradient of input `w` is of the sum of all
    elements of all float outputs, has w's type, and is named `grad.w`; it is zeros where w has no influence. `graph` is
    left as it is.
    Raises GraphcError for an unknown or an integer input and for a graph of no float output, and UnsupportedOpError
    with operator and layer for what has no gradient.
    """
    joint, gradients = _differentiated(graph, wrt)
    joint.set_outputs((*joint.outputs, *gradients))
    return joint


def grad(graph: Graph, wrt: str | Sequence[str] | None = None) -> Graph:
    """The gradients of `value_and_grad` alone."""
    backward, gradients = _differentiated(graph, wrt)
    backward.donations = []  # they are of outputs that are gone
    backward.set_outputs(gradients)
    for node in reversed(backward.nodes):
        if "terminal" not in node.op.traits and not any(v.uses for v in node.results):
            backward.erase(node)
    return backward


def gradients(b: Builder, cotangents: Mapping[Value, Value], wrt: Sequence[Value]) -> list[Value]:
    """Emits, at the end of the builder's graph, the gradients of what is in it by each of the values `wrt`.

    cotangents: by value, the gradient of what is differentiated by it, of the same type: 1 for a loss of rank 0. A value
    without influence gets zeros. Raises UnsupportedOpError with operator and layer for what has no gradient.
    """
    found = backpropagate(b, b.graph.nodes, cotangents, wrt)
    return [found[v] if v in found else b.full_like(0, v) for v in wrt]


def _differentiated(graph: Graph, wrt: str | Sequence[str] | None) -> tuple[Graph, list[Value]]:
    """A copy with the backward nodes after its own, and the gradients, named after their inputs."""
    copy, _ = graph.clone(f"{graph.name}_grad")
    chosen = _chosen(copy, wrt)
    b = Builder(copy)
    forward = set(copy.nodes)
    cotangents: dict[Value, Value] = {}
    for value in copy.outputs:
        if value.type.dtype.is_float:
            add_cotangent(b, cotangents, value, b.full_like(1, value))
    if not cotangents:
        outputs = ", ".join(str(v.type) for v in copy.outputs) or "none"
        raise GraphcError("a graph without a float output has no gradient", seen=outputs)
    found = gradients(b, cotangents, chosen)
    for value, gradient in zip(chosen, found, strict=True):
        if gradient.producer is not None and gradient.producer not in forward:
            copy.rename(gradient, f"grad.{value.name}")
    return copy, found


def _chosen(graph: Graph, wrt: str | Sequence[str] | None) -> list[Value]:
    inputs = {v.name: v for v in graph.inputs}
    floats = [name for name, v in inputs.items() if v.type.dtype.is_float]
    names = floats if wrt is None else [wrt] if isinstance(wrt, str) else list(wrt)
    for name in names:
        if name not in floats:
            seen = repr(name) if name not in inputs else f"%{name}: {inputs[name].type}"
            what = "no such input to differentiate by" if name not in inputs else "gradients are by float inputs alone"
            raise GraphcError(what, seen=seen, expected=", ".join(floats) or "there is no float input")
    if not names:
        raise GraphcError("there is nothing to differentiate by", seen=", ".join(map(repr, graph.inputs)) or "no inputs",
                          expected="a float input")  # fmt: skip
    return [inputs[name] for name in names]
