"""Which groups of nodes can be one kernel: one loop nest, or the nests of a tile of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphc.ir.graph import Node, Value
from graphc.ir.symbolic import Dim, Expr, free_symbols, symbol
from graphc.lowering.index_maps import Index
from graphc.lowering.placement import CONTRACTIONS, REDUCTIONS, place, reduced_axes, reduces, symbols
from graphc.lowering.rewriting import divisions
from graphc.lowering.rules import LOWERABLE, RUNNING, SCATTERS
from graphc.lowering.tile import DEAR
from graphc.ops.contraction import free_axes
from graphc.ops.convolution import ConvSpec

GATHERS = frozenset({"gather", "take_along", "gather_nd"})
MOVES = frozenset({"reshape", "transpose", "broadcast", "slice", "reverse"})
"""Views that ask for one element of their operand wherever they have one."""

ROW_MOVES = frozenset({"reshape", "transpose", "reverse"})
"""Views whose result has each element of the operand once."""

ALONE = SCATTERS | RUNNING | {"concat"}
"""Operators with nests of their own form."""

TEMPLATES = frozenset({"winograd_conv"})
"""Operators without a loop body, which only a backend that chose them has a template for."""

MOST_BUFFERS = 24
"""Operands and results of one kernel: each needs its address in a register."""

MOST_NODES = 128
"""A bound on the length of bodies, and so on the time that it takes to compile them."""


def is_view(node: Node) -> bool:
    """Whether the node only moves elements, so that its reader can do the moving."""
    return node.op.name in MOVES or node.op.name == "pad"


def is_widening(node: Node) -> bool:
    """Whether the node reads narrower floats: free for a reader to do, while its result would take more memory."""
    return (
        node.op.name == "cast"
        and node.operands[0].type.dtype.is_float
        and node.result.type.dtype.is_float
        and node.operands[0].type.dtype.bytes < node.result.type.dtype.bytes
    )


def is_literal(node: Node) -> bool:
    """Whether the node is a constant that is part of the code wherever it stands."""
    return node.op.name == "constant" and node["value"].is_literal


def is_source(node: Node) -> bool:
    """Whether the node is cheaper to compute at each reader than to read: it has no operands and is a counter."""
    return node.op.name in ("iota", "dims")


def is_fusible(node: Node) -> bool:
    """Whether the node can be in a fusion."""
    return node.op.name in LOWERABLE | TEMPLATES and node.op.name != "constant"


@dataclass(frozen=True)
class Group:
    """Nodes in topological order, with the values that they take from outside and those that are read outside."""

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @staticmethod
    def of(nodes: Iterable[Node]) -> Group:
        """The group of nodes that are given in topological order."""
        members = tuple(nodes)
        inside = set(members)
        inputs = dict.fromkeys(
            v for n in members for v in n.operands if v.producer not in inside and not _is_literal_value(v)
        )
        outputs = [v for n in members for v in n.results if v.is_output or any(u not in inside for u in v.users)]
        return Group(members, tuple(inputs), tuple(outputs))


def _is_literal_value(v: Value) -> bool:
    return v.producer is not None and is_literal(v.producer)


def kind_of(group: Group) -> str | None:
    """The kind of fusion that the group can be, "loop" or "tile"; None if it can't be one."""
    names = {n.op.name for n in group.nodes}
    if len(group.inputs) + len(group.outputs) > MOST_BUFFERS or len(group.nodes) > MOST_NODES:
        return None
    if len(group.nodes) == 1:
        return "loop"
    if names & ALONE or not _ends_at_materialize(group) or not _gathers_from_memory(group):
        return None
    if _divides_where_padded(group):
        return None
    contractions = [n for n in group.nodes if n.op.name in CONTRACTIONS]
    reductions = [n for n in group.nodes if n.op.name in REDUCTIONS]
    if len(contractions) > 1 or (contractions and reductions):
        return None
    if contractions:
        return "loop" if _is_contraction(group, contractions[0]) else None
    if reductions:
        return _row_kind(group, reductions)
    return "loop" if _is_elementwise(group) else None


def _ends_at_materialize(group: Group) -> bool:
    """Whether nothing in the group reads through a `materialize`, whose result is to be in memory."""
    inside = set(group.nodes)
    return not any(u in inside for n in group.nodes if n.op.name == "materialize" for u in n.result.users)


def _divides_where_padded(group: Group) -> bool:
    """Whether integers are divided for a reader that pads: there would be no divisor beyond the edges."""
    inside = set(group.nodes)
    division = {n for n in group.nodes if n.op.name in ("div", "rem", "mod") and n.result.type.dtype.is_integer}
    padding = [n for n in group.nodes if n.op.name == "pad" or n.op.name in CONTRACTIONS or "padding" in n.attributes]
    return bool(division) and any(division & _ancestors(v, inside) for n in padding for v in n.operands)


def _gathers_from_memory(group: Group) -> bool:
    """Whether what is gathered from is an operand of the group, and indices are cheap to compute at each element."""
    inside = set(group.nodes)
    for node in group.nodes:
        if node.op.name in GATHERS:
            x, indices = node.operands
            if x.producer in inside or any(n.op.name in DEAR for n in _ancestors(indices, inside)):
                return False
    return True


def _ancestors(v: Value, inside: set[Node]) -> set[Node]:
    found: set[Node] = set()
    stack = [v]
    while stack:
        node = stack.pop().producer
        if node in inside and node is not None and node not in found:
            found.add(node)
            stack += node.operands
    return found


# Contractions: plain loads under the sum, elementwise work on the result


def _is_contraction(group: Group, node: Node) -> bool:
    inside = set(group.nodes)
    before = set[Node]().union(*(_ancestors(v, inside) for v in node.operands))
    if any(n.op.name not in MOVES for n in before) or not _keeps_sums_whole(node, before):
        return False
    result = node.results[0]
    frame = _frame("i", result.type.shape)
    rest = [n for n in group.nodes if n not in before and n is not node]
    if node.op.name == "winograd_conv" and not (_reads_whole(node, inside) and all(map(_keeps_place, rest))):
        return False
    placed = place(rest, result, frame)
    placed.update({v: tuple(frame) for v in node.results})
    if not all(v in placed for v in group.outputs):
        return False
    columns = {n for e in _columns(node, frame) for n in _names(e)}
    if any(columns & _names(d.numerator) for v in group.outputs for e in placed[v] for d in divisions(e)):
        return False  # storing would cut the columns of the product
    return _compute_once(rest, placed, result.type.size)


def _reads_whole(node: Node, inside: set[Node]) -> bool:
    """Whether a product's first operand is read as it lies in memory."""
    return node.operands[0].producer not in inside


def _keeps_place(node: Node) -> bool:
    """Whether every element of the result is computed where its operands' elements lie, or one that repeats."""
    return "elementwise" in node.op.traits or node.op.name == "broadcast"


def _columns(node: Node, frame: Sequence[Dim]) -> Sequence[Dim]:
    """The coordinates of the result that only the second operand of a product has."""
    if node.op.name == "dot":
        rhs = node.operands[1]
        count = len(free_axes(rhs.type.rank, node["rhs_batch"], node["rhs_contract"]))
        return frame[len(frame) - count :]
    if node.op.name in ("conv", "conv_input_grad"):
        return [frame[ConvSpec.from_attributes(node.attributes).channel_axis]]
    if node.op.name == "conv_weight_grad":
        return [frame[ConvSpec.from_attributes(node.attributes).kernel_axes[0]]]
    if node.op.name == "winograd_conv":
        return [frame[3]]
    return ()


def _keeps_sums_whole(node: Node, before: set[Node]) -> bool:
    """Whether no view of an operand divides an index that the product sums over: that would cut the sum in pieces.

    Pairs of 16-bit floats are no pieces: instructions multiply two terms at once.
    """
    for position, v in enumerate(node.operands):
        index = _frame("k", v.type.shape)
        summed = {n for a in _summed_axes(node, position) for n in _names(index[a])}
        while v.producer in before and v.producer is not None:
            index = _operand_index(v.producer, index)
            v = v.producer.operands[0]
        whole = (2,) if v.type.dtype.is_float and v.type.dtype.bytes == 2 else ()
        if any(summed & _names(d.numerator) and d.divisor not in whole for e in index for d in divisions(e)):
            return False
    return True


def _summed_axes(node: Node, position: int) -> Sequence[int]:
    if node.op.name == "dot":
        contracted: Sequence[int] = node["lhs_contract"] if position == 0 else node["rhs_contract"]
        return contracted
    if node.op.name in ("conv", "conv_input_grad") and position == 1:
        spec = ConvSpec.from_attributes(node.attributes)
        out, per_group, window = spec.kernel_axes
        return (per_group, *window) if node.op.name == "conv" else (out, *window)
    if node.op.name == "conv_weight_grad":
        channels = ConvSpec.from_attributes(node.attributes).channel_axis
        return [a for a in range(node.operands[position].type.rank) if a != channels]
    if node.op.name == "winograd_conv" and position == 1:
        return (0, 1, 2)
    return range(node.operands[position].type.rank)


def _operand_index(node: Node, index: Sequence[Dim]) -> list[Dim]:
    """Where a view's operand is read, for an element of its result."""
    (x,) = node.operands
    match node.op.name:
        case "broadcast":
            return [0 if d == 1 else index[a] for d, a in zip(x.type.shape, node["axes"], strict=True)]
        case "slice":
            return [s + i * k for s, i, k in zip(node["starts"], index, node["strides"], strict=True)]
    return list(place([node], node.result, index)[x])


# Elementwise work, and rows


def _is_elementwise(group: Group) -> bool:
    first = group.outputs[0]
    placed = place(group.nodes, first, _frame("i", first.type.shape))
    return all(v in placed for v in group.outputs) and _compute_once(group.nodes, placed, first.type.size)


def _row_kind(group: Group, reductions: Sequence[Node]) -> str | None:
    anchor, axes = reductions[0].operands[0], reduced_axes(reductions[0])
    frame = _frame("i", anchor.type.shape)
    inner = [frame[a] for a in axes]
    whole = set[str]().union(*map(_names, inner))
    if not whole:
        return None  # dims of 1: nothing is reduced
    placed = place(group.nodes, anchor, frame, inner)
    operands = [placed.get(n.operands[0]) for n in reductions]
    if not all(
        at is not None and reduces(n, at, inner, symbols(frame)) for n, at in zip(reductions, operands, strict=True)
    ):
        return None
    if not all(v in placed for v in group.outputs):
        return None
    if not _compute_once(group.nodes, placed, anchor.type.size, reductions[0].result.type.size):
        return None
    after = _depending(group.nodes, reductions)
    if not _reads_own_row(group.nodes, placed, after):
        return None
    rows_only = all(not any(whole & _names(e) for e in placed[v]) for v in group.outputs)
    if rows_only and not any(x in after for n in reductions for x in n.operands):
        return "loop"
    trailing = axes == tuple(range(anchor.type.rank - len(axes), anchor.type.rank))
    return "tile" if trailing and not any(map(_moves_last_axis, group.nodes)) else None


def _moves_last_axis(node: Node) -> bool:
    """Whether rows read through the node would be scattered over memory, at every pass over them."""
    return node.op.name == "transpose" and node["permutation"][-1] != len(node["permutation"]) - 1


def _depending(nodes: Sequence[Node], reductions: Sequence[Node]) -> set[Value]:
    """The values that depend on a reduction's result."""
    found = {n.result for n in reductions}
    for node in nodes:
        if any(v in found for v in node.operands):
            found.update(node.results)
    return found


def _reads_own_row(nodes: Sequence[Node], placed: dict[Value, Index], after: set[Value]) -> bool:
    """Whether what depends on a reduction is read at its own place, never at another row's."""
    for node in nodes:
        if not any(v in after for v in node.operands):
            continue
        result = node.results[0]
        if result not in placed:
            return False
        if node.op.name == "broadcast":
            if tuple(_operand_index(node, placed[result])) != placed[node.operands[0]]:
                return False
        elif "elementwise" not in node.op.traits and node.op.name not in ROW_MOVES | REDUCTIONS:
            return False
    return True


def _compute_once(nodes: Sequence[Node], placed: dict[Value, Index], *sizes: Dim) -> bool:
    """Whether every computation of the group runs once for each of its elements, but for cheap ones on single elements.

    A value in the frame has as many elements as the frame (or as its rows); one outside of it is read once, through
    views that repeat nothing.
    """
    inside = set(nodes)
    for node in nodes:
        if is_view(node) and not _moves_in_place(node, placed, inside):
            return False
        if is_view(node) or is_source(node) or node.op.name in REDUCTIONS:
            continue
        result = node.results[0]
        if result.type.size == 1 and node.op.name not in DEAR:
            continue
        if result in placed:
            if result.type.size not in sizes or not _reads_in_place(node, placed, inside):
                return False
        elif not _read_once(result, placed, inside):
            return False
    return True


def _reads_in_place(node: Node, placed: dict[Value, Index], inside: set[Node]) -> bool:
    """Whether an elementwise node reads computed operands where they are in the frame, so that nothing is computed twice."""
    if "elementwise" not in node.op.traits:
        return True
    computed = [v for v in node.operands if v.producer is not None and v.producer in inside and not is_view(v.producer)]
    return all(placed.get(v) == placed[node.results[0]] for v in computed)


def _moves_in_place(node: Node, placed: dict[Value, Index], inside: set[Node]) -> bool:
    """Whether a view of something computed in the frame reads it where it is computed."""
    x, result = node.operands[0], node.results[0]
    if x.producer not in inside or x.producer is None or is_view(x.producer) or x not in placed or x.type.size == 1:
        return True
    if result not in placed or node.op.name == "pad":
        return False
    return tuple(_operand_index(node, placed[result])) == placed[x]


def _read_once(v: Value, placed: dict[Value, Index], inside: set[Node]) -> bool:
    while v not in placed:
        if len(v.uses) != 1 or not v.users or v.users[0] not in inside:
            return False
        (user,) = v.users
        if user.op.name in ("broadcast", *GATHERS):
            return user.op.name in GATHERS
        v = user.results[0]
    return True


def _frame(prefix: str, shape: Sequence[Dim]) -> list[Dim]:
    return [0 if d == 1 else symbol(f"{prefix}{n}", 0, d - 1) for n, d in enumerate(shape)]


def _names(e: Dim) -> set[str]:
    return {s.name for s in free_symbols(e)} if isinstance(e, Expr) else set()
