"""Makes one kernel of each attention: two products, what is computed on the scores between them, and their softmax.

    softmax(f(q k^T)) v,  where f works element by element: scales, masks, biases

The kernel is a `fusion` around the primitives themselves, so graphs print, verify and interpret as before; `Pack` and `fuse`
then leave it alone. It is made where the weights are read by nothing else, and `find_products` knows how to run it; views of
operands and of the result are taken in, or, where that leaves no kernel, left outside.
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
            if is_weighted_sum(node):
                fused += self.fuse(graph, node, context)
        return PassResult(bool(fused), {"fused": fused})

    def fuse(self, graph: Graph, node: Node, context: PassContext) -> bool:
        """Fuses what the product of weights and values ends, if it is an attention."""
        softmax = find_softmax(node.operands[0])
        scores = None if softmax is None else _scores(softmax, node)
        if softmax is None or scores is None:
            return False
        core = {*scores, *softmax.nodes, node}
        for before, after in (_views_around(core, node), ((), ())):
            members = {*core, *before, *after}
            group = [n for n in graph.nodes if n in members]
            body = _body(group)
            products = find_products(body, self.target)
            if products is not None and may_run(products, context.numerics):
                _replace(graph, group, body, context)
                return True
        return False


def _scores(softmax: Softmax, last: Node) -> list[Node] | None:
    """The nodes that compute the scores, the product among them; None where one of the core's values is read elsewhere.

    What is computed on the product's result belongs to them; other operands (masks, biases) do where they are views, or
    computed from counters alone.
    """
    shape = softmax.argument.type.shape
    found: list[Node] = []
    waiting = [softmax.argument]
    product: Node | None = None
    while waiting:
        v = waiting.pop()
        node = v.producer
        if node is None or node in found:
            continue
        if node.op.name == "dot" and product is None and v.type.shape == shape and _depends_only(node, found, softmax):
            product = node
            found.append(node)
        elif _is_counted(node) or node.op.name in VIEWS:
            found.append(node)
            waiting += [x for x in node.operands if x.producer is not None and _is_free(x.producer)]
        elif "elementwise" in node.op.traits and v.type.shape == shape and _depends_only(node, found, softmax):
            found.append(node)
            waiting += node.operands
    inside = {*found, *softmax.nodes, last}
    own = [n for n in (*found, *softmax.nodes) if not _is_free(n)]
    closed = all(u in inside for n in own for r in n.results for u in r.users) and not any(
        r.is_output for n in own for r in n.results
    )
    return found if product is not None and closed else None


def _depends_only(node: Node, found: Sequence[Node], softmax: Softmax) -> bool:
    """Whether nothing but nodes of the attention reads the node's results."""
    inside = {*found, *softmax.nodes}
    return all(u in inside for r in node.results for u in r.users) and not any(r.is_output for r in node.results)


def _is_free(node: Node) -> bool:
    """Whether the node costs nothing where it is copied: a view, a literal, or what counters alone give."""
    return node.op.name in VIEWS or _is_counted(node)


def _is_counted(node: Node) -> bool:
    """Whether the node's value follows from the place of an element alone: a literal, a counter, or computed from them."""
    if node.op.name == "constant":
        return bool(node["value"].is_literal)
    if node.op.name == "iota":
        return True
    works = "elementwise" in node.op.traits or node.op.name == "broadcast"
    return works and all(v.producer is not None and _is_counted(v.producer) for v in node.operands)


def _views_around(core: set[Node], last: Node) -> tuple[Sequence[Node], Sequence[Node]]:
    """(views that operands of the products are read through, views and casts of the result up to its last transpose or cast)."""
    before: list[Node] = []
    for product in (n for n in core if n.op.name == "dot"):
        waiting = [v.producer for v in product.operands]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in core and node.op.name in VIEWS:
                before.append(node)
                waiting += [v.producer for v in node.operands]
    after: list[Node] = []
    value = last.result
    while len(value.uses) == 1 and value.users and value.users[0].op.name in ("reshape", "transpose", "cast"):
        (user,) = value.users
        after.append(user)
        value = user.result
    while after and after[-1].op.name == "reshape":
        after.pop()
    return before, after


def _body(group: Sequence[Node]) -> Graph:
    """The nodes as a closed graph, which returns the last one's result; literals are among them."""
    inside = set(group)
    body = Graph("body")
    mapping: dict[Value, Value] = {}
    for node in group:
        for v in node.operands:
            if v not in mapping and v.producer not in inside:
                mapping[v] = body.add_input(v.name, v.type)
    inference = Inference()
    for node in group:
        Graph.copy_node(node, body, mapping)
        node.op.infer(inference, [v.type for v in node.operands], node.attributes)
    body.guards = list(dict.fromkeys(inference.guards))
    body.set_outputs([mapping[group[-1].result]])
    return body


def _replace(graph: Graph, group: Sequence[Node], body: Graph, context: PassContext) -> None:
    inside = set(group)
    last = group[-1]
    inputs = dict.fromkeys(v for n in group for v in n.operands if v.producer not in inside)
    layers = tuple(dict.fromkeys(o for n in group if not _is_free(n) for o in n.origin))
    builder = Builder(graph, before=last, origin=layers)
    result = builder.op("fusion", *inputs, body=body, kind="tile")
    context.replace(graph, last.result, result)
    for node in reversed(group):
        if not any(v.uses for v in node.results):
            graph.erase(node)
