"""Loop: short ones are unrolled, others become `scan` where the number of steps is a dim, and `while` where data ends them."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import GraphProto

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim, Expr, maximum
from graphc.ir.types import TensorType, bool_, i64
from graphc_onnx.call import Call
from graphc_onnx.imported import Item, Refused, Tensor, Unknown, sources
from graphc_onnx.structure import all_nodes

# Nodes that the steps of a loop put one after another are, unless it can't be had as a region.
_SHORT = 256
# Steps of a loop that are put one after another at all.
_MOST_STEPS = 256
# A loop that its condition alone ends is written so.
_ENDLESS = 2**63 - 1
# Steps of a loop that collects nothing that are numbered in memory.
_MOST_NUMBERED = 1 << 16
_UNBOUNDED = -1  # of the operator `while`

_INDEX, _TRUTH = TensorType(i64, ()), TensorType(bool_, ())


class _Loop:
    """A Loop node: its body, first states, and what is known of how often it runs."""

    def __init__(self, c: Call) -> None:
        self.c = c
        self.body: GraphProto = c.get("body")
        state = list(c.operands[2:])
        self.state: list[Item] = [s for s in state if s is not None]
        if len(self.state) < len(state):
            raise c.wrong("an initial value is left out")
        if len(self.body.input) != 2 + len(state):
            raise c.wrong("the body takes another number of values", len(self.body.input), 2 + len(state))
        self.collects = len(self.body.output) - 1 - len(state)
        if self.collects < 0:
            raise c.wrong("the body gives too few values", len(self.body.output), f"{1 + len(state)} at least")
        self.go: bool | None = c.truth(c.tensor(1)) if c.has(1) else True
        self.trips = self._trips()

    def _trips(self) -> Dim | Value | None:
        """The trip count: a number or a dim of 0 or more, or a value; None for no bound."""
        c = self.c
        if not c.has(0):
            return None
        if c.tensor(0).type.size != 1:
            raise c.wrong("the trip count must be one number", c.tensor(0).type)
        known = c.known(0)
        if known is None:
            return _scalar(c.b, c.x(0))
        (trips,) = known.reshape(-1).tolist()
        if isinstance(trips, Expr):
            return maximum(trips, 0)
        return None if trips == _ENDLESS else max(int(trips), 0)

    def counts(self) -> bool:
        """Whether the states may be what shapes are computed from: known integers."""
        tensors = [s for s in self.state if isinstance(s, Tensor) and not s.type.dtype.is_float]
        return 0 < len(tensors) == len(self.state) and all(self.c.contents.known(s) is not None for s in tensors)

    @property
    def needs(self) -> frozenset[str]:
        """The inputs of a run that decide how often the loop runs."""
        values = [self.trips] if isinstance(self.trips, Value) else []
        values += [self.c.x(1)] if self.go is None else []
        states = [s.value for s in self.state if isinstance(s, Tensor) and s.value is not None]
        return frozenset[str]().union(*map(sources, values or states))


def convert_loop(c: Call) -> Sequence[Item | Value | None]:
    """Unrolled where shapes may depend on the steps, or they are few; else a region that an operator runs."""
    loop = _Loop(c)
    if loop.go is False:
        loop.trips, loop.go = 0, True
    if loop.trips == 0 and not any(c.outputs[len(loop.state) :]):
        return loop.state
    steps = _MOST_STEPS if loop.trips is None else loop.trips
    if loop.go is None or not isinstance(steps, int) or steps > _MOST_STEPS or steps == 0:
        return _as_region(loop)
    nodes = sum(1 for _ in all_nodes(loop.body.node))
    if loop.trips is not None and steps * nodes > _SHORT and not loop.counts():
        found = c.within.attempt(lambda: _as_region(loop))
        if isinstance(found, list):
            return found
    try:
        return _unrolled(loop)
    except _NotUnrolled:
        return _as_region(loop)


# Steps one after another


class _NotUnrolled(Exception):
    """There are too many steps, or whether there is another depends on a run's data."""


def _unrolled(loop: _Loop) -> list[Item]:
    """The body as often as known trip count and conditions say."""
    c, state = loop.c, loop.state
    collected: list[list[Tensor]] = [[] for _ in range(loop.collects)]
    step, go = 0, True
    while go and step != loop.trips:
        if step >= _MOST_STEPS:
            raise _NotUnrolled
        condition, *rest = c.within.inline(loop.body, (c.known_scalar(step), c.known_scalar(True), *state))
        state = rest[: len(state)]
        for column, value in zip(collected, rest[len(state) :], strict=True):
            if not isinstance(value, Tensor):
                raise Refused("a loop that collects sequences isn't supported")
            column.append(value)
        step += 1
        if step != loop.trips:
            known = c.truth(condition)
            if known is None:
                raise _NotUnrolled
            go = known
    return [*state, *(_stacked(c, column) for column in collected)]


def _stacked(c: Call, column: list[Tensor]) -> Tensor:
    """What the steps gave, along a new first axis."""
    parts = [c.b.reshape(v, (1, *v.type.shape)) for v in map(c.value, column)]
    value = parts[0] if len(parts) == 1 else c.b.op("concat", *parts, axis=0)
    return Tensor(value.type, value=value)


# Regions


def _as_region(loop: _Loop) -> list[Value | None]:
    """The body as a closed graph, run by `scan` or `while`."""
    c = loop.c
    if not all(isinstance(s, Tensor) for s in loop.state):
        raise Refused("sequences aren't supported in a loop that isn't unrolled", loop.needs)
    state = [c.value(s) for s in loop.state if isinstance(s, Tensor)]
    types = [_INDEX, _TRUTH, *(s.type for s in state)]
    declared = [len(i.type.tensor_type.shape.dim) for i in loop.body.input[:2]]
    types[:2] = [t.with_shape((1,) * min(rank, 1)) for t, rank in zip(types, declared, strict=False)]
    try:
        (body,), captures = c.within.regions([loop.body], types)
    except Unknown:
        raise Refused("it can't be unrolled, and a step of it isn't supported by itself", loop.needs) from None
    for info, before, after in zip(loop.body.input[2:], state, body.outputs[1:], strict=False):
        if before.type != after.type:
            reason = f"{info.name} changes its type from {before.type} to {after.type} in a loop that isn't unrolled"
            raise Refused(reason, loop.needs)
    if body.outputs[0].type.size != 1:
        raise c.wrong("a condition must be one element", body.outputs[0].type)
    endless = loop.go is True and _stays_true(body)
    if endless and loop.trips is None:
        raise c.wrong("the loop never ends", "no trip count, and a condition that stays true")
    collected = [bool(name) for name in c.outputs[len(state) :]]
    if endless and not isinstance(loop.trips, Value) and (any(collected) or _is_moderate(loop.trips)):
        return _counted(loop, body, state, captures, collected)
    if any(collected):
        names = ", ".join(filter(None, c.outputs[len(state) :]))
        raise Refused(f"data decides how many steps there are, and so the size of {names}", loop.needs)
    return _conditional(loop, body, state, captures, endless)


def _is_moderate(trips: Dim | None) -> bool:
    return isinstance(trips, Expr) or (trips is not None and trips <= _MOST_NUMBERED)


def _stays_true(body: Graph) -> bool:
    """Whether the condition that a step gives is the one that it was given, or a constant that holds."""
    condition = body.outputs[0]
    while condition.producer is not None and condition.producer.op.name in ("reshape", "cast"):
        condition = condition.producer.operands[0]
    if condition.producer is None:
        return condition is body.inputs[1]
    return condition.producer.op.name == "constant" and bool(condition.producer["value"].array.all())


def _counted(
    loop: _Loop, body: Graph, state: list[Value], captures: list[Value], collected: list[bool]
) -> list[Value | None]:
    """As many steps as a dim says: a scan over their numbers."""
    b = loop.c.b
    steps = b.op("iota", dtype=i64, shape=(loop.trips,), axis=0)
    inner, (before, (index,), outside) = _region(b, body.name, _types(state), [_INDEX], _types(captures))
    _, *after = _step(inner, body, index, inner.scalar(True, bool_), [*before, *outside])
    ys = [y for y, wanted in zip(after[len(state) :], collected, strict=False) if wanted]
    region = inner.returns(*after[: len(state)], *ys)
    found = b.ops("scan", *state, steps, *captures, body=region, carries=len(state), scanned=1)
    rest = iter(found[len(state) :])
    return [*found[: len(state)], *(next(rest) if wanted else None for wanted in collected)]


def _conditional(
    loop: _Loop, body: Graph, state: list[Value], captures: list[Value], endless: bool
) -> list[Value | None]:
    """Steps until data says that it is enough: a while, whose carries begin with the step's number and the condition."""
    c, b, trips = loop.c, loop.c.b, loop.trips
    limit = [trips] if isinstance(trips, Value) else []
    number = [b.scalar(0, i64)] if limit or body.inputs[0].uses else []
    go = [] if endless else [_scalar(b, c.x(1)) if loop.go is None else b.scalar(True, bool_)]
    parts = [number, go, state, captures, limit]
    types = [_types(part) for part in parts]

    asking, (index, going, _, _, last) = _region(b, f"{body.name}.condition", *types)
    reasons = [*going, *(asking.op("lt", i, n) for i, n in zip(index, last, strict=False))] or [
        asking.scalar(True, bool_)
    ]
    condition = asking.returns(reasons[0] if len(reasons) == 1 else asking.op("logical_and", *reasons))

    inner, (index, going, before, outside, _) = _region(b, body.name, *types)
    i, on = [*index, inner.scalar(0, i64)][0], [*going, inner.scalar(True, bool_)][0]
    again, *after = _step(inner, body, i, on, [*before, *outside])
    advanced = [inner.op("add", i, inner.scalar(1, i64)) for i in index]
    region = inner.returns(*advanced, *([again] if going else []), *after[: len(state)])

    bound = trips if trips is not None and not limit else _UNBOUNDED
    carries = len(number) + len(go) + len(state)
    operands = [v for part in parts for v in part]
    found = b.ops("while", *operands, condition=condition, body=region, carries=carries, max_trips=bound)
    return list(found[carries - len(state) :])


def _types(values: Sequence[Value]) -> list[TensorType]:
    return [v.type for v in values]


def _scalar(b: Builder, x: Value) -> Value:
    """x, of one element, with rank 0."""
    return b.reshape(x, ())


def _region(b: Builder, name: str, *parts: Sequence[TensorType]) -> tuple[Builder, list[list[Value]]]:
    """A builder of a graph with inputs of these types, and the inputs part by part."""
    inner = Builder(Graph(name), origin=b.origin)
    return inner, [[inner.graph.add_input("x", type) for type in part] for part in parts]


def _step(b: Builder, body: Graph, index: Value, condition: Value, others: Sequence[Value]) -> list[Value]:
    """A copy of the body for these inputs: the next condition, with rank 0, then its other outputs."""
    first = [b.reshape(v, like.type.shape) for v, like in zip((index, condition), body.inputs, strict=False)]
    mapping = dict(zip(body.inputs, (*first, *others), strict=True))
    for node in body.nodes:
        Graph.copy_node(node, b.graph, mapping)
    b.graph.guards += [g for g in body.guards if g not in b.graph.guards]
    again, *after = (mapping[v] for v in body.outputs)
    return [_scalar(b, again), *after]
