"""The two products of an attention, as contractions: the scores q k^T with what is computed on them, and weights times v.

    result = weights v,  weights = softmax(scores),  scores = f(q k^T)

A body of primitives is cut at the softmax. Each half is lowered like any other body, so views of q, k, v, of masks and of the
result are strides in its accesses, and what is computed element by element is its epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.errors import UnsupportedOpError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, product, symbol
from graphc.ir.types import bf16
from graphc.lowering.contraction import address, affine, names_in
from graphc.lowering.loop_body import Apply, Index, LoopBody, Operand, Store
from graphc.lowering.lower import lower
from graphc_llvm.contraction import Contraction, dense_along, match, product_of_loads, tile_height
from graphc_llvm.target import Target

MOST_FACTORS = 3
"""Of weights: dropout has two."""


@dataclass(frozen=True)
class Products:
    """scores: batch, rows (queries), column (keys); B is k where it lies, of any strides. result: the same, columns of v.

    Buffers of both are numbered as the body's operands and results, but for the weights, the result's A. pair: operands are
    bf16, and multiplied in pairs of neighbours along the sums. visible: how many keys, the first ones, a row's scores can
    be of without being -inf, by the row's place; None where all. rows: whether each row's highest score and the sum of its
    exp(score - highest) are results too, after the other one. scaled: whether the scores' body has a second result, what the
    weights are multiplied with.
    """

    scores: Contraction
    result: Contraction
    pair: bool = False
    visible: Dim | None = None
    rows: bool = False
    scaled: bool = False

    @property
    def batch(self) -> Dim:
        return product(a.extent for a in self.scores.batch)

    @property
    def keys(self) -> Dim:
        return self.scores.column.extent

    @property
    def flops(self) -> Dim:
        return self.scores.flops + self.result.flops


@dataclass(frozen=True)
class Factor:
    """What a node multiplies one operand with: `by`, a literal; or 1 where the bool `by` is set, and 0 elsewhere."""

    node: Node
    by: Value


@dataclass(frozen=True)
class Softmax:
    """A softmax along the last axis, in primitives: its argument, its value, what weighs, and its nodes.

    weights: the value, perhaps narrowed; or, as dropout leaves it, that times factors that depend on other things.
    """

    argument: Value
    value: Value
    weights: Value
    nodes: tuple[Node, ...]
    factors: tuple[Factor, ...] = ()

    @property
    def rows(self) -> tuple[Value, Value]:
        """Of each row, the highest argument, and the sum of exp(argument - highest)."""
        highest, total = (n.result for n in self.nodes if n.op.name.startswith("reduce_"))
        return highest, total


def find_softmax(weights: Value, most: int = MOST_FACTORS) -> Softmax | None:
    """exp(x - max x) / sum(exp(x - max x)), or that narrowed, or times factors, if `weights` is that."""
    found = _plain_softmax(weights)
    if found is not None:
        return found
    for factor, rest in factors_of(weights) if most else ():
        found = find_softmax(rest, most - 1)
        if found is not None and found.value.type == weights.type:
            nodes, factors = (*found.nodes, factor.node), (*found.factors, factor)
            return Softmax(found.argument, found.value, weights, nodes, factors)
    return None


def factors_of(v: Value) -> list[tuple[Factor, Value]]:
    """The ways to read a value as something times a factor of the same shape: a literal, or what a mask leaves."""
    node = v.producer
    if node is not None and node.op.name == "mul":
        x, y = node.operands
        return [(Factor(node, by), rest) for by, rest in ((x, y), (y, x)) if _literal(by) is not None]
    if node is not None and node.op.name == "select" and _literal(node.operands[2]) == 0:
        return [(Factor(node, node.operands[0]), node.operands[1])]
    return []


def _literal(v: Value) -> float | None:
    """The number that a value is everywhere, if it is a literal."""
    repeated = _made_by(v, "broadcast")
    node = _made_by(v if repeated is None else repeated.operands[0], "constant")
    return float(node["value"].array) if node is not None and node["value"].is_literal else None


def _plain_softmax(weights: Value) -> Softmax | None:
    rounding = _made_by(weights, "cast")
    quotient = _made_by(weights if rounding is None else rounding.operands[0], "div")
    power = quotient and _made_by(quotient.operands[0], "exp")
    difference = power and _made_by(power.operands[0], "sub")
    if quotient is None or power is None or difference is None:
        return None
    x = difference.operands[0]
    total = _reduced(quotient.operands[1], "reduce_sum", power.result)
    highest = _reduced(difference.operands[1], "reduce_max", x)
    if total is None or highest is None:
        return None
    last = (quotient,) if rounding is None else (quotient, rounding)
    return Softmax(x, weights, weights, (*highest, difference, power, *total, *last))


def _made_by(v: Value, op: str) -> Node | None:
    return v.producer if v.producer is not None and v.producer.op.name == op else None


def _reduced(v: Value, op: str, x: Value) -> tuple[Node, Node] | None:
    """The reduction of x along its last axis and its broadcast to the shape of x, if v is that."""
    repeated, last = _made_by(v, "broadcast"), x.type.rank - 1
    reduced = repeated and _made_by(repeated.operands[0], op)
    if repeated is None or reduced is None or reduced.operands[0] is not x or v.type.shape != x.type.shape:
        return None
    fits = reduced["axes"] == (last,) and repeated["axes"] == tuple(range(last))
    return (reduced, repeated) if fits else None


def is_weighted_sum(node: Node) -> bool:
    """Whether a node sums rows of its second operand, weighted by the first one's rows."""
    if node.op.name != "dot":
        return False
    last = node.operands[0].type.rank - 1
    return bool(node["lhs_contract"] == (last,) and node["lhs_batch"] == tuple(range(last - 1)))


def find_products(body: Graph, target: Target) -> Products | None:
    """The products of a body that is an attention and that the tiled kernel can run; None for any other."""
    found = [(n, s) for n in body.nodes if is_weighted_sum(n) and (s := find_softmax(n.operands[0])) is not None]
    if len(found) != 1 or not any(n.op.name == "dot" and n is not found[0][0] for n in body.nodes):
        return None
    ((_, softmax),) = found
    result_of_rows = len(body.outputs) > 1
    if result_of_rows and tuple(body.outputs[1:]) != softmax.rows:
        return None
    after, values = body.clone()
    after.set_outputs(after.outputs[:1])
    after.replace_uses(values[softmax.weights], after.add_input("weights", softmax.weights.type))
    try:
        halves = [lower(_before(body, softmax)), lower(needed(after))]
    except UnsupportedOpError:
        return None  # the halves have no common nest, so neither has the whole
    first, second = halves
    if not isinstance(first, LoopBody) or not isinstance(second, LoopBody):
        return None
    first_product, result = score_product(first, target), match(second, target)
    if first_product is None or result is None or result.a.buffer != str(len(body.inputs)):
        return None
    if not _agree(first_product, result):
        return None
    store, *_ = (s for s in first_product.epilogue if isinstance(s, Store) and s.buffer == str(len(body.inputs)))
    pair = target.bf16_pairs and _has_pairs(first_product, result)
    scaled = bool(softmax.factors)
    if result_of_rows and not _in_order(first_product):
        return None
    return Products(first_product, result, pair, visible(first_product, store.operand), result_of_rows, scaled)


def _before(body: Graph, softmax: Softmax) -> Graph:
    """What computes the scores, and, where the weights are multiplied with factors, what these make of 1."""
    before, values = body.clone()
    results = [values[softmax.argument]]
    if softmax.factors:
        b = Builder(before, before=values[softmax.factors[0].node.result].producer)
        one = b.full(1, softmax.value.type)
        (scores,) = results  # of these, for the eye of `lower`, so that both are in one nest
        before.replace_uses(values[softmax.value], b.op("select", b.op("eq", scores, scores), one, one))
        results.append(values[softmax.weights])
    before.set_outputs(results)
    return needed(before)


def _in_order(c: Contraction) -> bool:
    """Whether rows are numbered as their results lie in memory: batch, then row."""
    return c.body.axes_of("parallel") == (*c.batch, *c.rows, c.column)


def visible(scores: Contraction, value: Operand) -> Dim | None:
    """Keys that a causal mask leaves: `value` is select(i + c >= j, score, -inf) for the row's place i and the key j."""
    defined = {s.value: s for s in scores.epilogue if not isinstance(s, Store)}
    mask = defined.get(str(value))
    if not isinstance(mask, Apply) or mask.op != "select" or mask.operands[2] != float("-inf"):
        return None
    test = defined.get(str(mask.operands[0]))
    if not isinstance(test, Apply) or test.op not in ("ge", "gt", "le", "lt"):
        return None
    counted = [defined.get(str(o)) for o in test.operands]
    if not all(isinstance(x, Index) for x in counted):
        return None
    x, y = (x.expression for x in counted if isinstance(x, Index))
    ahead = (x - y if test.op in ("ge", "gt") else y - x) - (test.op in ("gt", "lt"))
    key = symbol(scores.column.name, 0, scores.column.extent - 1)
    seen = ahead + key + 1
    return seen if scores.column.name not in names_in(seen) else None


def _has_pairs(scores: Contraction, result: Contraction) -> bool:
    """Whether all operands are bf16, and neighbours along the depth lie in pairs; those along the keys can be laid out so."""
    dtypes = {scores.a_dtype, scores.b_dtype, result.a_dtype, result.b_dtype}
    along = {x.of(scores.inner.name) for x in (scores.a_address, scores.b_address)}
    return dtypes == {bf16} and along == {1} and scores.inner.extent % 2 == 0


def needed(graph: Graph) -> Graph:
    """The graph without the nodes whose results nobody reads."""
    for node in reversed(graph.nodes):
        if not any(v.uses for v in node.results):
            graph.erase(node)
    return graph


def _agree(scores: Contraction, result: Contraction) -> bool:
    """Whether both run over the same batch, queries and keys, in sizes that the kernel has room for."""
    same = [
        (product(a.extent for a in getattr(scores, k)), product(a.extent for a in getattr(result, k)))
        for k in ("batch", "rows")
    ]
    static = isinstance(scores.inner.extent, int) and isinstance(result.column.extent, int)
    weights = result.a_address.of(result.inner.name) == 1 and not result.taps and not result.a.predicate
    plain = result.pair is None and result.dtype == scores.dtype
    return static and weights and plain and all(a == b for a, b in same) and scores.column.extent == result.inner.extent


def score_product(body: LoopBody, target: Target) -> Contraction | None:
    """A body's q k^T as a contraction; k needs no dense columns, because the kernel packs it."""
    reduced = body.axes_of("reduction")
    core = product_of_loads(body, {a.name for a in reduced})
    if core is None or len(reduced) != 1 or any(a.extent == 0 for a in body.axes):
        return None
    reduce, *factors, rest = core
    axes, parallel = {a.name for a in body.axes}, body.axes_of("parallel")
    (inner,), column = reduced, parallel[-1]
    q, k = sorted(factors, key=lambda x: any(column.name in names_in(e) for e in x.index))
    q_address, k_address = (affine(address(body.buffer(x.buffer), x.index), axes) for x in (q, k))
    if q_address is None or k_address is None or any(x.predicate or x.checked for x in (q, k)):
        return None
    if q_address.of(column.name) != 0 or 1 not in (k_address.of(inner.name), k_address.of(column.name)):
        return None
    if not all(dense_along(body, s, column.name, axes) for s in rest):
        return None
    if any(isinstance(s, Store) and body.buffer(s.buffer).type.dtype != reduce.dtype for s in rest):
        return None  # the softmax is of another type
    rows = tuple(a for a in parallel if q_address.of(a.name) != 0 and k_address.of(a.name) == 0)
    batch = tuple(a for a in parallel if a not in (*rows, column))
    vectors = 4 if target.vector_registers >= 32 else 2
    height = tile_height(product(a.extent for a in rows), vectors, target)
    width = vectors * target.lanes(reduce.dtype.bytes)
    sums = q_address, k_address, reduce.value
    return Contraction(body, reduce.dtype, batch, rows, column, (), inner, q, k, *sums, rest, width, height)
