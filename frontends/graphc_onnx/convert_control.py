"""Control flow that is known at import: branches taken, loops unrolled; Scan as the operator of that name."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto

from graphc_onnx.call import Call, Converter
from graphc_onnx.imported import Item, Refused, Tensor

# Steps of a loop that are put one after another.
_MOST_STEPS = 256


def _if(c: Call) -> list[Item]:
    """The branch that a known condition chooses, in place of the node."""
    condition = c.numbers(0, "condition")
    if condition.size != 1:
        raise c.wrong("the condition must be one element", list(condition.shape))
    return c.inline(c.get("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"), ())


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
        condition, *rest = c.inline(body, (c.known_scalar(step), c.known_scalar(True), *_items(state)))
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


CONVERTERS: Mapping[str, Converter] = {"If": _if, "Loop": _loop}
