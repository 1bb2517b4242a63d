"""Graphs of typed values in SSA form, with exact use lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from graphc.ir.symbolic import Dim, Expr, Symbol, free_symbols
from graphc.ir.types import TensorType

if TYPE_CHECKING:
    from graphc.ir.opdef import OpDef


@dataclass(frozen=True)
class Guard:
    """An assumption that inference made: left == right at run time, checked at entry."""

    left: Dim
    right: Dim

    def __str__(self) -> str:
        return f"{self.left} == {self.right}"


class Use(NamedTuple):
    """One reading of a value: operand `index` of a node, or output `index` of a graph."""

    user: Node | Graph
    index: int  # type: ignore[assignment]  # in place of tuple's method


class Value:
    """A tensor: a graph input (no producer) or a result of a node. Compared by identity."""

    __slots__ = ("_uses", "index", "name", "producer", "type")

    def __init__(self, name: str, type: TensorType, producer: Node | None = None, index: int = 0) -> None:
        self.name = name
        self.type = type
        self.producer = producer
        self.index = index
        self._uses: dict[Use, None] = {}

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every reading of the value, in the order in which they were made."""
        return tuple(self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that read the value, each once."""
        return tuple(dict.fromkeys([u for u, _ in self._uses if isinstance(u, Node)]))

    @property
    def is_output(self) -> bool:
        """Whether a graph returns the value."""
        return any(isinstance(u, Graph) for u, _ in self._uses)

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """An application of an operator: operands in, results out. Compared by identity.

    `attributes` are complete (defaults filled in) and never mutated; `origin` names the source layers it came from.
    """

    __slots__ = ("attributes", "graph", "op", "operands", "origin", "results")

    def __init__(
        self,
        op: OpDef,
        operands: Iterable[Value],
        attributes: Mapping[str, Any],
        types: Iterable[TensorType],
        names: Iterable[str],
        origin: tuple[str, ...] = (),
    ) -> None:
        self.op = op
        self.operands = tuple(operands)
        self.attributes = dict(attributes)
        self.results = tuple(Value(n, t, self, i) for i, (n, t) in enumerate(zip(names, types, strict=True)))
        self.origin = origin
        self.graph: Graph | None = None

    @property
    def result(self) -> Value:
        """The only result; raises ValueError where there are several."""
        (value,) = self.results
        return value

    def symbols(self) -> frozenset[Symbol]:
        """Every symbol in the types of the results and in attributes, regions included: what a run must know."""
        found = {s for v in self.results for s in v.type.symbols()}
        for attribute in self.attributes.values():
            if isinstance(attribute, Graph):
                found.update(attribute.symbols().values(), *(n.symbols() for n in attribute.nodes))
            else:
                items = attribute if isinstance(attribute, tuple) else (attribute,)
                found.update(s for d in items if isinstance(d, Expr) for s in free_symbols(d))
        return frozenset(found)

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    def __repr__(self) -> str:
        results = ", ".join(f"%{v.name}" for v in self.results)
        return f"{results} = {self.op.name}({', '.join(f'%{v.name}' for v in self.operands)})"


PLAIN_NAME = re.compile(r"[A-Za-z0-9_.]*")


def _identifier(hint: str) -> str:
    """The hint with "_" for every character that the text form doesn't take in a name."""
    return hint if PLAIN_NAME.fullmatch(hint) else "".join(c if PLAIN_NAME.fullmatch(c) else "_" for c in hint)


class Graph:
    """Inputs, nodes in a topological order, and outputs; value names are unique within it.

    `donations` are pairs (input, output) of numbers: the caller gives up the input, so that the output may take its memory.
    A permission, which changes no value.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = _identifier(name) or "main"
        self.inputs: list[Value] = []
        self.guards: list[Guard] = []
        self.donations: list[tuple[int, int]] = []
        self._nodes: list[Node] = []
        self._outputs: list[Value] = []
        self._names: set[str] = set()
        self._untried: dict[str, int] = {}  # by hint, the first number that may still be free

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes in order; a copy, so that a loop over it may edit the graph."""
        return tuple(self._nodes)

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(self._outputs)

    def __len__(self) -> int:
        return len(self._nodes)

    def fresh_name(self, hint: str) -> str:
        """A name not yet taken in this graph, reserved for the caller; characters outside [A-Za-z0-9_.] become "_"."""
        base = _identifier(hint) or "v"
        name = base
        if name in self._names:
            n = self._untried.get(base, 1)
            while (name := f"{base}_{n}") in self._names:
                n += 1
            self._untried[base] = n + 1
        self._names.add(name)
        return name

    def _free_name(self, name: str) -> None:
        """Lets a name be given again."""
        self._names.discard(name)
        base, _, number = name.rpartition("_")
        if number.isdigit():
            self._untried[base] = min(self._untried.get(base, 1), int(number))

    def add_input(self, name: str, type: TensorType) -> Value:
        """Appends a graph input; its name is made unique."""
        value = Value(self.fresh_name(name), type)
        self.inputs.append(value)
        return value

    def remove_input(self, value: Value) -> None:
        """Removes an input that nothing reads."""
        if value.uses:
            raise ValueError(f"input %{value.name} is still used")
        index = self.inputs.index(value)
        self.donations = [(i - (i > index), o) for i, o in self.donations if i != index]
        self.inputs.remove(value)
        self._free_name(value.name)

    def insert(self, node: Node, before: Node | None = None) -> Node:
        """Puts a node before another, or at the end; its operands must be defined above (the verifier checks)."""
        index = len(self._nodes) if before is None else self._nodes.index(before)
        self._nodes.insert(index, node)
        node.graph = self
        for i, value in enumerate(node.operands):
            value._uses[Use(node, i)] = None
        return node

    def erase(self, node: Node) -> None:
        """Removes a node whose results nothing reads."""
        for value in node.results:
            if value._uses:
                raise ValueError(f"{node!r} is still used")
            self._free_name(value.name)
        for i, value in enumerate(node.operands):
            del value._uses[Use(node, i)]
        self._nodes.remove(node)
        node.graph = None

    def set_operand(self, node: Node, index: int, value: Value) -> None:
        """Makes operand `index` of `node` read `value`."""
        del node.operands[index]._uses[Use(node, index)]
        node.operands = (*node.operands[:index], value, *node.operands[index + 1 :])
        value._uses[Use(node, index)] = None

    def set_outputs(self, values: Iterable[Value]) -> None:
        """Replaces what the graph returns."""
        for i, old in enumerate(self._outputs):
            del old._uses[Use(self, i)]
        self._outputs = list(values)
        for i, value in enumerate(self._outputs):
            value._uses[Use(self, i)] = None

    def replace_uses(self, old: Value, new: Value, where: Callable[[Use], bool] | None = None) -> None:
        """Makes every reader of `old` (or those that `where` accepts) read `new`."""
        for use in old.uses:
            if where is not None and not where(use):
                continue
            if isinstance(use.user, Node):
                self.set_operand(use.user, use.index, new)
            else:
                del old._uses[use]
                self._outputs[use.index] = new
                new._uses[use] = None

    def rename(self, value: Value, hint: str) -> None:
        """Gives a value another name, made unique."""
        self._free_name(value.name)
        value.name = self.fresh_name(hint)

    def sort(self) -> None:
        """Restores a topological order after nodes were inserted out of place; stable; raises ValueError on a cycle."""
        done: set[Node] = set()
        order: list[Node] = []
        for root in self._nodes:
            stack: list[tuple[Node, Iterator[Value]]] = [(root, iter(root.operands))] if root not in done else []
            path = {root}
            while stack:
                node, operands = stack[-1]
                for value in operands:
                    p = value.producer
                    if p is None or p in done:
                        continue
                    if p in path:
                        raise ValueError(f"cycle through {p!r}")
                    path.add(p)
                    stack.append((p, iter(p.operands)))
                    break
                else:
                    stack.pop()
                    if node not in done:
                        done.add(node)
                        order.append(node)
        self._nodes = order

    def reorder(self, nodes: Iterable[Node]) -> None:
        """Puts all nodes in another topological order (the verifier checks); raises ValueError if they aren't the same."""
        order = list(nodes)
        if len(order) != len(self._nodes) or set(order) != set(self._nodes):
            raise ValueError("another order of a graph's nodes has the same nodes, each once")
        self._nodes = order

    def symbols(self) -> dict[str, Symbol]:
        """Every dimension symbol that occurs in a value's type, by name, sorted."""
        found = {s.name: s for v in self.values() for s in v.type.symbols()}
        return dict(sorted(found.items()))

    def values(self) -> Iterator[Value]:
        """Every value: inputs first, then results in order."""
        yield from self.inputs
        for node in self._nodes:
            yield from node.results

    def clone(self, name: str | None = None) -> tuple[Graph, dict[Value, Value]]:
        """A deep copy (constants and regions shared) and the map from old values to new ones."""
        copy = Graph(name or self.name)
        copy.guards = list(self.guards)
        copy.donations = list(self.donations)
        mapping = {v: copy.add_input(v.name, v.type) for v in self.inputs}
        for node in self._nodes:
            self.copy_node(node, copy, mapping)
        copy.set_outputs(mapping[v] for v in self._outputs)
        return copy, mapping

    @staticmethod
    def copy_node(node: Node, into: Graph, mapping: dict[Value, Value], before: Node | None = None) -> Node:
        """Copies one node into a graph, its operands mapped; its results are added to the mapping."""
        new = Node(
            node.op,
            (mapping[v] for v in node.operands),
            node.attributes,
            (v.type for v in node.results),
            (into.fresh_name(v.name) for v in node.results),
            node.origin,
        )
        into.insert(new, before)
        mapping.update(zip(node.results, new.results, strict=True))
        return new

    def __repr__(self) -> str:
        return f"<graph @{self.name}: {len(self.inputs)} inputs, {len(self)} nodes, {len(self._outputs)} outputs>"
