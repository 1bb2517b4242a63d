"""If and Scan: a branch that is known is taken at import, one that data chooses becomes the operator `if`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import GraphProto

from graphc.ir.graph import Value
from graphc_onnx.call import Call, Converter
from graphc_onnx.convert_loop import convert_loop
from graphc_onnx.imported import Item, Refused, Unknown, sources


def _if(c: Call) -> Sequence[Item | Value]:
    """The branch that a known condition chooses, in place of the node; else both, as regions."""
    branches: list[GraphProto] = [c.get("then_branch"), c.get("else_branch")]
    known = c.truth(c.tensor(0))
    if known is not None:
        return c.within.inline(branches[0 if known else 1], ())
    if len(branches[0].output) != len(branches[1].output):
        counts = [len(branch.output) for branch in branches]
        raise c.wrong("both branches must give as many results", *counts)
    condition = c.b.cast(c.b.reshape(c.x(), ()), c.dtype(9))
    inputs = sources(condition)
    try:
        (then, otherwise), captures = c.within.regions(branches, ())
    except Unknown:
        raise Refused("data chooses its branch, and one of them isn't supported", inputs) from None
    for info, x, y in zip(branches[0].output, then.outputs, otherwise.outputs, strict=True):
        if x.type != y.type:
            reason = f"data chooses its branch, so {info.name} must be of one type in both, not {x.type} and {y.type}"
            raise Refused(reason, inputs)
    return list(c.b.ops("if", condition, *captures, then=then, otherwise=otherwise))


def _scan(c: Call) -> list[Value]:
    """Scan from version 9 on: states, then sequences, each with an axis and a direction of its own."""
    if c.opset < 9:
        raise Refused("Scan before version 9 isn't supported")
    body: GraphProto = c.get("body")
    scanned = int(c.get("num_scan_inputs"))
    carries = len(c.operands) - scanned
    if scanned < 1 or carries < 0 or len(body.input) != len(c.operands):
        raise c.wrong("states and sequences aren't as many as the body takes", len(c.operands), len(body.input))
    states, xs = c.xs()[:carries], c.xs()[carries:]
    axes, backwards = _per_sequence(c, "scan_input", scanned)
    xs = [_time_first(c, x, axis, turned) for x, axis, turned in zip(xs, axes, backwards, strict=True)]
    types = [*(s.type for s in states), *(x.type.with_shape(x.type.shape[1:]) for x in xs)]
    (graph,), captures = c.within.regions([body], types)
    results = c.b.ops("scan", *states, *xs, *captures, body=graph, carries=carries, scanned=scanned)
    axes, backwards = _per_sequence(c, "scan_output", len(results) - carries)
    ys = [_time_at(c, y, axis, turned) for y, axis, turned in zip(results[carries:], axes, backwards, strict=True)]
    return [*results[:carries], *ys]


def _per_sequence(c: Call, which: str, count: int) -> tuple[Sequence[int], Sequence[int]]:
    """The axis of time and the direction (1 is backwards) of each sequence."""
    axes, directions = c.get(f"{which}_axes") or (0,) * count, c.get(f"{which}_directions") or (0,) * count
    if len(axes) != count or len(directions) != count:
        raise c.wrong(f"{which}_axes and {which}_directions need {count} numbers", (axes, directions))
    return axes, directions


def _time_first(c: Call, x: Value, axis: int, turned: int) -> Value:
    at = c.axis(axis, x.type.rank)
    x = c.b.transpose(x, (at, *(i for i in range(x.type.rank) if i != at)))
    return c.b.op("reverse", x, axes=(0,)) if turned else x


def _time_at(c: Call, y: Value, axis: int, turned: int) -> Value:
    at = c.axis(axis, y.type.rank)
    y = c.b.op("reverse", y, axes=(0,)) if turned else y
    return c.b.transpose(y, (*range(1, at + 1), 0, *range(at + 1, y.type.rank)))


CONVERTERS: Mapping[str, Converter] = {"If": _if, "Loop": convert_loop, "Scan": _scan}
