"""Control flow that is known at import: branches taken, loops unrolled; Scan as the operator of that name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import GraphProto

from graphc.ir.graph import Value
from graphc_onnx.call import Call, Converter
from graphc_onnx.imported import Item, Refused, Tensor

# Steps of a loop that are put one after another.
_MOST_STEPS = 256


def _if(c: Call) -> list[Item]:
    """The branch that a known condition chooses, in place of the node."""
    condition = c.numbers(0, "condition")
    if condition.size != 1:
        raise c.wrong("the condition must be one element", list(condition.shape))
    return c.within.inline(c.get("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"), ())


def _loop(c: Call) -> list[Item]:
    """The body as often as known trip count and conditions say."""
    body: GraphProto = c.get("body")
    trips = c.integer(0, "trip count") if c.has(0) else None
    go = not c.has(1) or bool(c.numbers(1, "condition").reshape(-1)[0])
    state = list(c.operands[2:])
    if any(s is None for s in state):
        raise c.wrong("an initial value is left out")
    if len(body.input) != 2 + len(state):
        raise c.wrong("the body takes another number of values", len(body.input), 2 + len(state))
    collected: list[list[Tensor]] = [[] for _ in range(len(body.output) - 1 - len(state))]
    step = 0
    while go and (trips is None or step < trips):
        if step >= _MOST_STEPS:
            raise Refused(f"a loop of more than {_MOST_STEPS} steps isn't supported")
        condition, *rest = c.within.inline(body, (c.known_scalar(step), c.known_scalar(True), *_items(state)))
        state = list(rest[: len(state)])
        for column, value in zip(collected, rest[len(state) :], strict=True):
            if not isinstance(value, Tensor):
                raise Refused("a loop that collects sequences isn't supported")
            column.append(value)
        go = c.truth(condition)
        step += 1
    return [*_items(state), *(_stacked(c, column) for column in collected)]


def _items(state: list[Item | None]) -> list[Item]:
    return [s for s in state if s is not None]


def _stacked(c: Call, column: list[Tensor]) -> Tensor:
    """What the steps gave, along a new first axis."""
    if not column:
        raise Refused("a loop without a step has results of unknown shape")
    parts = [c.b.reshape(v, (1, *v.type.shape)) for v in map(c.value, column)]
    value = parts[0] if len(parts) == 1 else c.b.op("concat", *parts, axis=0)
    return Tensor(value.type, value=value)


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
    graph, captures = c.within.region(body, types)
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


CONVERTERS: Mapping[str, Converter] = {"If": _if, "Loop": _loop, "Scan": _scan}
