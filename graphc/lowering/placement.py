"""Where values of a fused group lie in one frame of coordinates, as far as elements correspond one to one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from graphc.ir.graph import Node, Value
from graphc.ir.symbolic import Dim, Expr, free_symbols
from graphc.lowering.index_maps import Index, reshape_index
from graphc.ops.movement import inverse

REDUCTIONS = frozenset({"reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "argmax", "argmin"})
CONTRACTIONS = frozenset({
    "dot", "conv", "conv_input_grad", "conv_weight_grad", "winograd_conv", "window_max", "window_sum",
})  # fmt: skip


def reduced_axes(node: Node) -> tuple[int, ...]:
    """The axes that a reduction removes, in increasing order."""
    return (node["axis"],) if node.op.name in ("argmax", "argmin") else tuple(sorted(node["axes"]))


def reduces(node: Node, at: Sequence[Dim], inner: Sequence[Dim], coordinates: set[str]) -> bool:
    """Whether a reduction of an operand that is at `at` goes over exactly the coordinates `inner`, of all `coordinates`."""
    axes = reduced_axes(node)
    over, kept = [at[a] for a in axes], [e for i, e in enumerate(at) if i not in axes]
    if node.op.name in ("argmax", "argmin") and over != list(inner):
        return False  # its result is a position along the axis
    wanted = symbols(inner)
    return symbols(over) & coordinates == wanted and not symbols(kept) & wanted


def place(nodes: Iterable[Node], start: Value, index: Sequence[Dim], inner: Sequence[Dim] = ()) -> dict[Value, Index]:
    """The index, in frame coordinates, of the element of each value that belongs to a point of the frame.

    `start` is at `index`; from there it follows elementwise operators, reshapes, transposes and reversals of `nodes` both
    ways, and broadcasts backwards. A reduction over exactly the coordinates `inner` is followed forwards: its result, and
    what is computed from it alone, is at the other coordinates. The first place found for a value counts.
    """
    group, coordinates = set(nodes), symbols(index)
    placed: dict[Value, Index] = {start: tuple(index)}
    waiting = deque([start])

    def put(v: Value, at: Sequence[Dim]) -> None:
        if v not in placed:
            placed[v] = tuple(at)
            waiting.append(v)

    while waiting:
        v = waiting.popleft()
        at = placed[v]
        neighbours = [n for n in v.users if n in group]
        if v.producer in group:
            neighbours.insert(0, v.producer)
        for node in neighbours:
            forward = v.producer is not node
            name = node.op.name
            if "elementwise" in node.op.traits:
                for other in (*node.operands, *node.results):
                    put(other, at)
            elif name == "broadcast" and not forward:
                (x,) = node.operands
                put(x, [0 if d == 1 else at[a] for d, a in zip(x.type.shape, node["axes"], strict=True)])
            elif name in REDUCTIONS and forward:
                if inner and reduces(node, at, inner, coordinates):
                    put(node.result, [e for i, e in enumerate(at) if i not in reduced_axes(node)])
            elif name in ("reshape", "transpose", "reverse"):
                other = node.result if forward else node.operands[0]
                put(other, _moved(node, v, other, at, forward))
    return placed


def _moved(node: Node, v: Value, other: Value, at: Index, forward: bool) -> Sequence[Dim]:
    match node.op.name:
        case "reshape":
            return reshape_index(at, v.type.shape, other.type.shape)
        case "transpose":
            order = node["permutation"] if forward else inverse(node["permutation"])
            return [at[p] for p in order]
    return [d - 1 - i if k in node["axes"] else i for k, (i, d) in enumerate(zip(at, v.type.shape, strict=True))]


def symbols(index: Iterable[Dim]) -> set[str]:
    """The names of the coordinates (and dimensions) that an index depends on."""
    return {s.name for e in index if isinstance(e, Expr) for s in free_symbols(e)}
