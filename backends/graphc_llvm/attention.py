"""Makes one kernel of each attention: two products, what is computed on the scores between them, and their softmax.

    softmax(f(q k^T)) v,  where f works element by element: scales, masks, biases

The kernel is a `fusion` around the primitives themselves, so graphs print, verify and interpret as before; `Pack` and `fuse`
then leave it alone. It is made where scores and weights are read by nothing else, and `find_products` knows how to run it; views
of operands and of the result are taken in, or, where that leaves no kernel, left outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.opdef import Inference
from graphc.pipeline import EXACT, Claim, PassContext, PassResult
from graphc_llvm.attention_blocks import may_run
from graphc_llvm.attention_products import Softmax, find_products, find_softmax, is_weighted_sum
from graphc_llvm.target import Target

VIEWS = frozenset({"reshape", "transpose", "broadcast", "slice"})


@dataclass(frozen=True)
class FuseAttention:
    """Puts each attention that the tiled kernel can run into a `fusion` of kind "tile"."""

    target: Target
    name: str = "fuse-attention"
    claim: Claim = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        fused = 0
        for node in graph.nodes:
            found = find_attention(node) if is_weighted_sum(node) else None
            plan = None if found is None else plan_kernel(graph, found, self.target, context.numerics)
            if plan is not None:
                _replace(graph, plan, context)
                fused += 1
        return PassResult(bool(fused), {"fused": fused})


@dataclass(frozen=True)
class Attention:
    """An attention in primitives: the nodes that compute the scores, the softmax, and the product that it ends with."""

    scores: tuple[Node, ...]
    softmax: Softmax
    last: Node

    @property
    def core(self) -> frozenset[Node]:
        return frozenset({*self.scores, *self.softmax.nodes, self.last})

    @property
    def own(self) -> tuple[Node, ...]:
        """Its nodes before the last that cost something."""
        return tuple(n for n in (*self.scores, *self.softmax.nodes) if not is_free(n))


@dataclass(frozen=True)
class Plan:
    """What becomes a kernel: nodes, their body, and the values that it returns."""

    group: tuple[Node, ...]
    body: Graph
    results: tuple[Value, ...]


def find_attention(last: Node, readers: frozenset[Node] = frozenset()) -> Attention | None:
    """The attention that a weighted sum ends, if it does; `readers` are nodes outside it that may read what is inside.

    Anyone may read the highest score and the sum of the powers of each row, which the kernel can return.
    """
    softmax = find_softmax(last.operands[0])
    scores = None if softmax is None else _scores(softmax, readers)
    if softmax is None or scores is None:
        return None
    found = Attention(tuple(scores), softmax, last)
    inside = found.core | readers
    own = [r for n in found.own for r in n.results if r not in softmax.rows]
    closed = all(u in inside for r in own for u in r.users) and not any(r.is_output for r in own)
    return found if closed else None


def plan_kernel(graph: Graph, a: Attention, target: Target, numerics: str, rows: bool = False) -> Plan | None:
    """How the tiled kernel runs an attention, if it can; rows: whether it will return each row's highest score and sum."""
    readers = {u for v in a.softmax.rows for u in v.users if u not in a.core}
    rows = rows or bool(readers) or any(v.is_output for v in a.softmax.rows)
    for before, after in (_views_around(a.core, a.last), ((), ())):
        members = {*a.core, *before, *after}
        group = [n for n in graph.nodes if n in members]
        end = max((a.last, *after), key=group.index)
        results = (end.result, *(a.softmax.rows if rows else ()))
        if any(n in readers for n in graph.nodes[: graph.nodes.index(end)]):
            continue
        body = _body(group, results)
        products = find_products(body, target)
        if products is not None and may_run(products, numerics):
            return Plan(tuple(group), body, results)
    return None


def _scores(softmax: Softmax, readers: frozenset[Node]) -> list[Node] | None:
    """The nodes that compute the scores, the product among them.

    What is computed on the product's result belongs to them; other operands (masks, biases) do where they are views, or
    computed from counters alone.
    """
    shape = softmax.argument.type.shape
    found: list[Node] = []
    waiting = [softmax.argument, *(v for f in softmax.factors for v in f.node.operands if _is_view(v))]
    product: Node | None = None
    while waiting:
        v = waiting.pop()
        node = v.producer
        if node is None or node in found:
            continue
        inside = {*found, *softmax.nodes, *readers}
        alone = all(u in inside for r in node.results for u in r.users) and not any(r.is_output for r in node.results)
        if node.op.name == "dot" and product is None and v.type.shape == shape and alone:
            product = node
            found.append(node)
        elif is_counted(node) or node.op.name in VIEWS:
            found.append(node)
            waiting += [x for x in node.operands if _is_view(x)]
        elif "elementwise" in node.op.traits and v.type.shape == shape and alone:
            found.append(node)
            waiting += node.operands
    return found if product is not None else None


def is_free(node: Node) -> bool:
    """Whether the node costs nothing where it is copied: a view, a literal, or what counters alone give."""
    return node.op.name in VIEWS or is_counted(node)


def _is_view(v: Value) -> bool:
    return v.producer is not None and is_free(v.producer)


def is_counted(node: Node) -> bool:
    """Whether the node's value follows from the place of an element alone: a literal, a counter, or computed from them."""
    if node.op.name == "constant":
        return bool(node["value"].is_literal)
    if node.op.name == "iota":
        return True
    works = "elementwise" in node.op.traits or node.op.name == "broadcast"
    return works and all(v.producer is not None and is_counted(v.producer) for v in node.operands)


def _views_around(core: frozenset[Node], last: Node) -> tuple[Sequence[Node], Sequence[Node]]:
    """(views that operands of the products are read through, views and casts of the result up to its last transpose or cast)."""
    before: list[Node] = []
    for product in (n for n in core if n.op.name == "dot"):
        waiting = [v.producer for v in product.operands]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in core and node.op.name in VIEWS:
                before.append(node)
                waiting += [v.producer for v in node.operands]
    return before, views_after(last.result, ("reshape", "transpose", "cast"))


def views_after(value: Value, kinds: Sequence[str]) -> list[Node]:
    """The nodes of these kinds that alone read a value, one after another, but for reshapes at the end."""
    after: list[Node] = []
    while len(value.uses) == 1 and value.users and value.users[0].op.name in kinds:
        (user,) = value.users
        after.append(user)
        value = user.result
    while after and after[-1].op.name == "reshape":
        after.pop()
    return after


def _body(group: Sequence[Node], results: Sequence[Value]) -> Graph:
    """The nodes as a closed graph; literals are among them."""
    inside = set(group)
    body = Graph("body")
    mapping: dict[Value, Value] = {}
    for node in group:
        for v in node.operands:
            if v not in mapping and v.producer not in inside:
                mapping[v] = body.add_input(v.name, v.type)
    for node in group:
        Graph.copy_node(node, body, mapping)
    body.set_outputs([mapping[v] for v in results])
    return with_guards(body)


def with_guards(body: Graph) -> Graph:
    """A fusion's body with the equalities that its nodes assume."""
    inference = Inference()
    for node in body.nodes:
        node.op.infer(inference, [v.type for v in node.operands], node.attributes)
    body.guards = list(dict.fromkeys(inference.guards))
    return body


def _replace(graph: Graph, plan: Plan, context: PassContext) -> None:
    inside = set(plan.group)
    inputs = dict.fromkeys(v for n in plan.group for v in n.operands if v.producer not in inside)
    layers = tuple(dict.fromkeys(o for n in plan.group if not is_free(n) for o in n.origin))
    builder = Builder(graph, before=plan.group[-1], origin=layers)
    results = builder.ops("fusion", *inputs, body=plan.body, kind="tile")
    for old, new in zip(plan.results, results, strict=True):
        context.replace(graph, old, new)
    for node in reversed(plan.group):
        if not any(v.uses for v in node.results):
            graph.erase(node)
