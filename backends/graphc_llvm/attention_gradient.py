"""Makes one kernel of each attention's gradient, so that a training step keeps no matrix of queries and keys.

    w = softmax(s), s = f(q k^T);  y = w v
    dv = w^T dy;  dw = dy v^T;  ds = f'(w * (dw - sum(dw * w)));  dq = ds k;  dk = ds^T q

What reads w, in the graph of a training step, is found from w on. It becomes a `fusion` around primitives, in which w is computed
again, as exp(s - l) with l = max s + log(sum(exp(s - max s))) of each row, and sum(dw * w), over keys, is read as the equal
sum(dy * y), over columns (Dao, "FlashAttention-2", 2023). Nothing else reads w then, so `fuse-attention` makes a kernel of the
attention itself, which returns max s and the sum beside y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim
from graphc.ir.types import TensorType
from graphc.pipeline import REASSOCIATES, Claim, PassContext, PassResult
from graphc_llvm.attention import (
    VIEWS,
    Attention,
    find_attention,
    is_free,
    plan_kernel,
    views_after,
    with_guards,
)
from graphc_llvm.attention_gradient_products import find_gradient
from graphc_llvm.attention_products import Softmax, factors_of, find_softmax, is_weighted_sum
from graphc_llvm.target import Target


@dataclass(frozen=True)
class FuseAttentionGradient:
    """Puts what reads an attention's weights in a training step into a `fusion` of kind "tile" that computes them again."""

    target: Target
    name: str = "fuse-attention-gradient"
    claim: Claim = REASSOCIATES

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        fused = 0
        for node in graph.nodes:
            softmax = find_softmax(node.operands[0]) if is_weighted_sum(node) else None
            if softmax is None or (softmax.weights.users == (node,) and not softmax.weights.is_output):
                continue
            try:
                self.fuse(graph, node, context)
                fused += 1
            except _Refused as refused:
                context.refuse(self.name, node, str(refused))
        return PassResult(bool(fused), {"fused": fused})

    def fuse(self, graph: Graph, last: Node, context: PassContext) -> None:
        """Fuses the gradient of the attention that a node ends; raises _Refused with the reason where it can't."""
        backward = find_backward(graph, last)
        attention = backward.attention
        if plan_kernel(graph, attention, self.target, context.numerics, rows=True) is None:
            raise _Refused("the attention itself has no kernel")
        for before, after in ((True, True), (False, True), (False, False)):
            fusion = _Body(graph, backward, before, after)
            if fusion.comes_late():
                raise _Refused("its operands are computed after the first of its results")
            if find_gradient(fusion.body, self.target) is not None:
                fusion.replace(context)
                return
        raise _Refused("its products have no common kernel: another element type, or rows that aren't dense")


class _Refused(Exception):
    """Why a gradient isn't fused."""


@dataclass(frozen=True)
class Backward:
    """What reads an attention's scores and weights.

    slopes: the product dy v^T. totals: the sums of slopes * weights over keys. elementwise: what is computed of all these, in
    order; sums: the products with their results, of operand `tile`.
    """

    attention: Attention
    slopes: Node
    totals: tuple[Node, ...]
    elementwise: tuple[Node, ...]
    sums: tuple[Node, ...]


def find_backward(graph: Graph, last: Node) -> Backward:
    """What reads the scores and weights of the attention that a node ends. Raises _Refused where it isn't its gradient."""
    weights = last.operands[0]
    shape = weights.type.shape
    softmax = find_softmax(weights)
    assert softmax is not None
    under = _under(softmax.argument, {})
    if not under:
        raise _Refused("its scores are no product")
    slopes, found = _readers({*under, *softmax.nodes, last}, last)
    attention = find_attention(last, frozenset(found))
    if attention is None:
        raise _Refused("scores or weights are read by something else")
    nodes = [n for n in graph.nodes if n in found and n not in attention.core]
    totals = [n for n in nodes if _is_row_sum(n, shape)]
    sums = [n for n in nodes if n.op.name == "dot"]
    elementwise = [n for n in nodes if n not in (*totals, *sums)]
    for n in elementwise:
        if "elementwise" not in n.op.traits and n.op.name != "broadcast":
            raise _Refused(f"%{n.results[0].name}, a {n.op.name}, reads what is of the scores' size")
    inside = {*nodes, *attention.core}
    for n in (*slopes, *totals, *elementwise):
        if n.results[0].is_output or any(u not in inside for u in n.results[0].users):
            raise _Refused(f"%{n.results[0].name} is read by something else")
    if len(slopes) != 1 or not sums:
        raise _Refused("one of the products of its gradient is missing")
    (product,) = slopes
    if not _is_slopes(product, last) or product.result.type.shape != shape:
        raise _Refused("the gradient of its weights isn't a product with what they weigh")
    for n in totals:
        if not _is_total(n, product, softmax):
            raise _Refused(f"%{n.result.name} is another sum than that of weights and their gradients")
    return Backward(attention, product, tuple(totals), tuple(elementwise), tuple(sums))


def _readers(forward: set[Node], last: Node) -> tuple[set[Node], set[Node]]:
    """(products that are read beside values of the attention, what is computed of these up to the first products and sums)."""
    shape = last.operands[0].type.shape
    slopes: set[Node] = set()
    found: set[Node] = set()
    visited: set[Node] = set()  # not `found`, where nodes above come without their readers: else the order would matter
    known: dict[Value, set[Node]] = {}
    waiting = [u for n in forward if n is not last for r in n.results for u in r.users if u not in forward]
    while waiting:
        node = waiting.pop()
        found.add(node)
        if node in visited or node.op.name == "dot":
            continue
        visited.add(node)
        scored = node.results[0].type.shape == shape
        if scored:
            other = [v for v in node.operands if v.producer not in forward | found]
            above = set().union(*(_under(v, known) for v in other if v.type.shape == shape))
            slopes |= {n for n in above if n.op.name == "dot"}
            found |= {n for n in above if n.op.name != "dot"}
        if scored or _is_row_sum(node, shape):
            waiting += [u for r in node.results for u in r.users]
    return slopes - forward - found, found


def _is_row_sum(node: Node, shape: Sequence[Dim]) -> bool:
    return node.op.name == "reduce_sum" and node["axes"] == (len(shape) - 1,) and node.operands[0].type.shape == shape


def _under(v: Value, known: dict[Value, set[Node]]) -> set[Node]:
    """The nodes between a product and a value of its shape, computed from it element by element; none where there is none."""
    if v not in known:
        node, known[v] = v.producer, set()
        if node is not None and node.op.name == "dot":
            known[v] = {node}
        elif node is not None and "elementwise" in node.op.traits:
            below = set().union(*(_under(x, known) for x in node.operands if x.type.shape == v.type.shape))
            known[v] = {node, *below} if below else set()
    return known[v]


def _is_slopes(product: Node, last: Node) -> bool:
    """Whether a product is dy v^T for the v that a node weighs."""
    v = last.operands[1]
    columns = tuple(i for i in range(v.type.rank) if i not in (*last["rhs_batch"], *last["rhs_contract"]))
    if product.operands[1] is not v or product["rhs_batch"] != last["rhs_batch"]:
        return False
    return len(columns) == 1 and product["rhs_contract"] == columns


def _is_total(total: Node, slopes: Node, softmax: Softmax) -> bool:
    """Whether a sum is that of slopes * weights over keys, the factors of the weights at one or the other."""
    product = total.operands[0].producer
    if product is None or product.op.name != "mul" or softmax.value not in product.operands:
        return False
    (v, *_) = (x for x in (*product.operands, softmax.value) if x is not softmax.value)
    left = {(f.node.op.name, f.by) for f in softmax.factors}
    while left:
        ways = [(f, rest) for f, rest in factors_of(v) if (f.node.op.name, f.by) in left]
        if not ways:
            return False
        ((factor, v), *_) = ways
        left.remove((factor.node.op.name, factor.by))
    return v is slopes.result


class _Body:
    """The fusion's body, and what its inputs are in the graph; before, after: whether views of operands, of results are taken in.

    results: what the fusion returns, by what it stands for, and the order of axes that makes that of it.
    """

    def __init__(self, graph: Graph, backward: Backward, before: bool, after: bool) -> None:
        self.graph, self.backward, self.views = graph, backward, before
        self.body = Graph("body")
        self.b = Builder(self.body)
        self.values: dict[Value, Value] = {}
        self.inputs: list[Value | None] = []
        a = backward.attention
        order = {n: i for i, n in enumerate(graph.nodes)}
        for n in sorted(a.scores, key=order.__getitem__):
            self.copy(n)
        self.b.origin = a.last.origin
        scores = self.take(a.softmax.argument, True)
        rows = TensorType(scores.type.dtype, scores.type.shape[:-1])
        self.logs = self.unknown("logs", rows)
        low = self.b.op("sub", scores, self.b.broadcast(self.logs, scores.type.shape, range(rows.rank)))
        self.values[a.softmax.value] = self.b.op("exp", low)
        for factor in a.softmax.factors:
            self.copy(factor.node)
        self.totals = [self.unknown("total", rows) for _ in backward.totals]
        self.values.update(zip((n.result for n in backward.totals), self.totals, strict=True))
        self.copy(backward.slopes)
        needed = self.needed()
        for n in backward.elementwise:
            if n in needed:
                self.copy(n)
        self.results: list[tuple[Value, Sequence[int]]] = []
        outputs = []
        for n in backward.sums:
            product, permutation = self.sum(n)
            views = views_after(n.result, ("reshape", "transpose")) if after else []
            if after:
                product = self.b.transpose(product, permutation)
                permutation = range(views[-1].result.type.rank if views else product.type.rank)
            self.values[n.result] = product
            for view in views:
                self.copy(view)
            self.results.append((views[-1].result if views else n.result, permutation))
            outputs.append(self.values[self.results[-1][0]])
        self.body.set_outputs(outputs)
        with_guards(self.body)

    def needed(self) -> set[Node]:
        """The nodes that the sums need, totals being given."""
        known = {n.result for n in self.backward.totals}
        found: set[Node] = set()
        waiting = [v for n in self.backward.sums for v in n.operands]
        while waiting:
            v = waiting.pop()
            if v.producer in self.backward.elementwise and v not in known and v.producer not in found:
                found.add(v.producer)
                waiting += v.producer.operands
        return found

    def unknown(self, name: str, type_: TensorType) -> Value:
        """An input of which it is told later what it is."""
        self.inputs.append(None)
        return self.body.add_input(name, type_)

    def copy(self, node: Node) -> None:
        views = self.views or node.op.name != "dot"
        mapping = {v: self.take(v, views) for v in node.operands}
        copy = Graph.copy_node(node, self.body, mapping)
        self.values.update(zip(node.results, copy.results, strict=True))

    def take(self, v: Value, views: bool) -> Value:
        """A value of the graph in the body: one that is there, or follows from what costs nothing, or an input."""
        if v not in self.values:
            node = v.producer
            if node is not None and views and is_free(node):
                self.copy(node)
            else:
                self.values[v] = self.body.add_input(v.name, v.type)
                self.inputs.append(v)
        return self.values[v]

    def sum(self, node: Node) -> tuple[Value, Sequence[int]]:
        """A sum as the product of a tile and an operand, [batch, row, column]; and the order that the node's axes have."""
        softmax = self.backward.attention.softmax
        known = {softmax.value, softmax.weights, *(n.result for n in self.backward.elementwise)}
        places = [i for i, v in enumerate(node.operands) if v in known]
        if len(places) != 1:
            raise _Refused(f"%{node.result.name} is the product of two matrices of the scores' size")
        (tile,) = places
        mine, other = ("lhs", "rhs") if tile == 0 else ("rhs", "lhs")
        rank = node.operands[tile].type.rank
        batch, contract = node[f"{mine}_batch"], node[f"{mine}_contract"]
        if sorted(batch) != list(range(rank - 2)) or node.result.type.rank != rank:
            raise _Refused(f"%{node.result.name} isn't a product of matrices in one batch")
        pairs = dict(zip(batch, node[f"{other}_batch"], strict=True))
        product = self.b.op(
            "dot", self.values[node.operands[tile]], self.take(node.operands[1 - tile], self.views),
            lhs_batch=tuple(range(rank - 2)), rhs_batch=tuple(pairs[i] for i in range(rank - 2)),
            lhs_contract=contract, rhs_contract=node[f"{other}_contract"],
        )  # fmt: skip
        return product, [*batch, *((rank - 2, rank - 1) if tile == 0 else (rank - 1, rank - 2))]

    def replace(self, context: PassContext) -> None:
        """Puts the fusion into the graph, in the place of all that it computes."""
        graph, backward = self.graph, self.backward
        a = backward.attention
        first = next(n for n in graph.nodes if n in backward.sums)
        origin = tuple(dict.fromkeys(o for n in (*backward.elementwise, *backward.sums) for o in n.origin))
        b = Builder(graph, before=first, origin=origin)
        highest, total = a.softmax.rows
        known = {self.logs: b.op("add", highest, b.op("log", total))}
        if self.totals:
            total = self.total(b)
            known.update(dict.fromkeys(self.totals, total))
        operands = [known[i] if v is None else v for i, v in zip(self.body.inputs, self.inputs, strict=True)]
        fusion = b.ops("fusion", *operands, body=self.body, kind="tile")
        for (old, permutation), new in zip(self.results, fusion, strict=True):
            context.replace(graph, old, b.transpose(new, permutation))
        gone = {backward.slopes, *backward.totals, *backward.elementwise, *backward.sums}
        gone |= {v.producer for v, _ in self.results if v.producer is not None}
        for node in reversed(graph.nodes):
            if (node in gone or node.op.name in VIEWS) and not any(v.uses for v in node.results):
                graph.erase(node)

    def comes_late(self) -> bool:
        """Whether an operand is computed after the first of the sums, where the fusion is to stand."""
        nodes = self.graph.nodes
        later = set(nodes[min(map(nodes.index, self.backward.sums)) :])
        return any(v is not None and v.producer in later for v in self.inputs)

    def total(self, b: Builder) -> Value:
        """sum(dy * y) over columns, read from y as it will lie in memory."""
        last, slopes = self.backward.attention.last, self.backward.slopes
        after = views_after(last.result, ("reshape", "transpose"))
        y = after[-1].result if after else last.result
        for view in reversed(after):
            if view.op.name == "reshape":
                y = b.reshape(y, view.operands[0].type.shape)
            else:
                permutation = view["permutation"]
                y = b.transpose(y, [permutation.index(i) for i in range(len(permutation))])
        dy = slopes.operands[0]
        free = [i for i in range(dy.type.rank) if i not in (*slopes["lhs_batch"], *slopes["lhs_contract"])]
        dy = b.transpose(dy, [*slopes["lhs_batch"], *free, *slopes["lhs_contract"]])
        return b.op("reduce_sum", b.op("mul", dy, y), axes=(y.type.rank - 1,))
