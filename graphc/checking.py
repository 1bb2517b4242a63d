"""Checks what passes claim: every replaced value against one run of the graph that went in, on generated inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from graphc.claims import EXACT, REASSOCIATES, Breach, Claim, find_breach
from graphc.cones import cone, symbols_of_inputs
from graphc.errors import GraphcError, NumericError, ShapeError
from graphc.interpreter import bind_dims, interpret
from graphc.ir.graph import Graph, Guard, Node, Value
from graphc.ir.symbolic import Symbol, evaluate
from graphc.ir.types import TensorType
from graphc.rewrite.constants import constant_of

Inputs = dict[str, np.ndarray]
ATTEMPTS = 200


@dataclass(frozen=True)
class Failure:
    """A value that isn't what the pass claimed: `value` was replaced by `replacement`."""

    value: str
    replacement: str
    breach: Breach


def generate_inputs(graph: Graph, seed: int, *, smallest: bool = False) -> Inputs:
    """Inputs by name that the graph runs on: normal floats, integers and booleans of 0 and 1; dims by the guards.

    With `smallest`, dims are at their least and floats include zeros, infinities and NaN. Raises GraphcError where no
    dims, or no generated numbers, fit.
    """
    dims = sample_dims(graph, seed, smallest=smallest)
    rng = np.random.default_rng(seed)
    return {v.name: _array(v.type, dims, rng, smallest) for v in graph.inputs}


def sample_dims(graph: Graph, seed: int, *, smallest: bool = False) -> dict[str, int]:
    """Values for the symbols of the graph's inputs, within their ranges and the guards."""
    rng = np.random.default_rng(seed)
    symbols = symbols_of_inputs(graph)
    for attempt in range(ATTEMPTS):
        dims: dict[str, int] = {}
        for name, s in symbols.items():
            spread = 0 if smallest and attempt == 0 else 2 + attempt // 4
            high = s.low + spread if s.high is None else min(s.low + spread, evaluate(s.high, dims))
            dims[name] = int(rng.integers(s.low, high + 1))
        for guard in graph.guards:  # most guards equate a symbol with something: try that
            left, right = str(guard.left), str(guard.right)
            if left in dims and left not in right:
                dims[left] = evaluate(guard.right, dims)
            elif right in dims:
                dims[right] = evaluate(guard.left, dims)
        if all(_in_range(s, dims) for s in symbols.values()) and all(_holds(g, dims) for g in graph.guards):
            return dims
    guards = ", ".join(map(str, graph.guards))
    raise GraphcError("no dims satisfy the graph's guards", seen=guards, hint="verify with inputs of your own")


def _in_range(s: Symbol, dims: Mapping[str, int]) -> bool:
    return s.low <= dims[s.name] and (s.high is None or dims[s.name] <= evaluate(s.high, dims))


def _holds(guard: Guard, dims: Mapping[str, int]) -> bool:
    return evaluate(guard.left, dims) == evaluate(guard.right, dims)


def _array(type: TensorType, dims: Mapping[str, int], rng: np.random.Generator, special: bool) -> np.ndarray:
    shape = type.concrete(dims)
    if not type.dtype.is_float:
        return rng.integers(0, 2, shape).astype(type.dtype.numpy)
    values = rng.standard_normal(shape)
    if special:
        odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e-30])
        values = np.where(rng.random(shape) < 0.2, rng.choice(odd, shape), values)
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(type.dtype.numpy)


class Checker:
    """One reference run of a graph, carried along through the passes.

    Known values are those of the run. After a pass, a replaced value's new computation is run from the nearest known
    values and compared; it then takes over the reference's numbers. What no pass has touched is never run again, but
    after a pass that changes roundings.
    """

    def __init__(self, graph: Graph, inputs: Inputs, claims: Iterable[Claim]) -> None:
        self.inputs = inputs
        self.dims = _bind(graph, inputs)
        self.known: dict[Value, np.ndarray] = {v: inputs[v.name] for v in graph.inputs}
        targets = [v for node in graph.nodes for v in node.results]
        self.known.update(self._run(targets, self.known))
        self.wide: dict[Value, np.ndarray] = {}
        if REASSOCIATES in claims:
            self.wide = {v: _widened(a) for v, a in self.known.items() if v.producer is None}
            self.wide.update(self._run(targets, self.wide, wide=True))
        self.before = self._snapshot(graph)
        self.outputs = graph.outputs

    def check(self, graph: Graph, claim: Claim, replaced: Mapping[Value, Value]) -> Failure | None:
        """Tests a pass that just ran; None if its claim holds. What it replaced is known from then on."""
        pairs = self._pairs(graph, replaced)
        alive = set(graph.values())
        leaves = self._trusted(graph, replaced, pairs, alive)
        wanted = [new for _, new in pairs if new not in leaves]
        found = self._run(wanted, leaves)
        for old, new in pairs:
            seen = leaves[new] if new in leaves else found[new]
            breach = find_breach(claim, seen, self.known[old], self.wide.get(old))
            if breach is not None:
                return Failure(old.name, new.name, breach)
        wide = dict(self.wide)
        for old, new in pairs:
            if new not in leaves:
                leaves[new] = self.known[old]
                if old in wide:
                    wide[new] = wide[old]
        # New values inside a replacement: later passes may replace those too.
        rest = [v for v in alive if v not in leaves]
        leaves.update(self._run(rest, leaves))
        if self.wide:
            cut = {v: a for v, a in wide.items() if v in alive}
            cut.update(self._run([v for v in alive if v not in cut], cut, wide=True))
            self.wide = cut
        self.known = {v: a for v, a in leaves.items() if v in alive}
        if pairs and claim != EXACT:
            # What follows must be one run of the graph as it is now: an exact pass may compute a later value anew from
            # an earlier one, and is held to the bits that the graph gives, not to those that it gave.
            inputs = {v: a for v, a in self.known.items() if v.producer is None}
            self.known = inputs | self._run([v for v in alive if v not in inputs], inputs)
        self.before = self._snapshot(graph)
        self.outputs = graph.outputs
        return None

    @staticmethod
    def _snapshot(graph: Graph) -> dict[Node, tuple[Value, ...]]:
        return {node: node.operands for node in graph.nodes}

    def _pairs(self, graph: Graph, replaced: Mapping[Value, Value]) -> list[tuple[Value, Value]]:
        """(old, new) for each replaced known value whose replacement is in the graph, and for each output."""
        alive = set(graph.values())
        pairs = {}
        for old in replaced:
            new = resolve(replaced, old)
            if old in self.known and new in alive:
                pairs[old] = new
        for old, new in zip(self.outputs, graph.outputs, strict=True):
            if old is not new:
                pairs.setdefault(old, new)
        order = {v: i for i, v in enumerate(graph.values())}
        return sorted(pairs.items(), key=lambda pair: order[pair[1]])

    def _trusted(
        self, graph: Graph, replaced: Mapping[Value, Value], pairs: list[tuple[Value, Value]], alive: set[Value]
    ) -> dict[Value, np.ndarray]:
        """Values of the run that still mean the same: their nodes read what they read, or its declared replacement.

        A node whose operands changed otherwise is compared like a replaced one.
        """
        trusted = {v: a for v, a in self.known.items() if v in alive}
        for node in graph.nodes:
            before = self.before.get(node)
            if before is None or all(resolve(replaced, a) is b for a, b in zip(before, node.operands, strict=True)):
                continue
            for v in node.results:
                del trusted[v]
                pairs.append((v, v))
        return trusted

    def _run(
        self, targets: Sequence[Value], leaves: Mapping[Value, np.ndarray], wide: bool = False
    ) -> dict[Value, np.ndarray]:
        found = {v: a if not wide else _widened(a) for v in targets if (a := constant_of(v)) is not None}
        targets = [v for v in targets if v not in found]
        if targets:
            graph, used = cone(targets, leaves, self.dims, wide=wide)
            found.update(zip(targets, interpret(graph, [leaves[v] for v in used]), strict=True))
        return found


def resolve(replaced: Mapping[Value, Value], value: Value) -> Value:
    """What stands for `value` after all replacements."""
    while value in replaced:
        value = replaced[value]
    return value


def checkers(graph: Graph, claims: Sequence[Claim], level: str, inputs: Inputs | None = None) -> list[Checker]:
    """Reference runs to check against: one for "sample"; two for "full", and a third on smallest dims where it runs."""
    if inputs is not None:
        return [Checker(graph, inputs, claims)]
    made = [_first_that_runs(graph, claims, seed) for seed in ((1,) if level == "sample" else (1, 101))]
    if level == "full":
        with suppress(NumericError):  # special numbers need not mean anything to this graph: the other runs stand
            made.append(Checker(graph, generate_inputs(graph, 1, smallest=True), claims))
    return made


def _first_that_runs(graph: Graph, claims: Sequence[Claim], seed: int) -> Checker:
    error: NumericError | None = None
    for s in range(seed, seed + 5):
        try:
            return Checker(graph, generate_inputs(graph, s), claims)
        except NumericError as e:
            error = e
    raise GraphcError(
        "the graph can't be verified: it has no value on generated inputs",
        seen=error,
        hint="give inputs of your own to the pass manager",
    ) from error


def _bind(graph: Graph, inputs: Inputs) -> dict[str, int]:
    names = [v.name for v in graph.inputs]
    if set(names) != set(inputs):
        raise ShapeError("inputs to verify with", seen=sorted(inputs), expected=names)
    return bind_dims(graph, [inputs[v.name].shape for v in graph.inputs])


def _widened(a: np.ndarray) -> np.ndarray:
    return a if a.dtype.kind in "?biu" else a.astype(np.float64)
