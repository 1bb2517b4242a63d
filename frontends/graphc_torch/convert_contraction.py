"""Matrix products and linear layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim
from graphc_torch.call import Call, Converter
from graphc_torch.refused import Refused


def linear(c: Call, x: Value, w: Value, bias: Value | None) -> Value:
    """x w^T + bias over the last axis of x, for w [out, in]."""
    y = c.b.op("dot", x, w, lhs_contract=(x.type.rank - 1,), rhs_contract=(w.type.rank - 1,))
    return y if bias is None else c.b.op("add", y, c.broadcast(bias, y.type.shape))


def _linear(c: Call) -> Value:
    return linear(c, c.x("input"), c.x("weight"), c.x("bias") if c.has("bias") else None)


def matmul(c: Call, x: Value, y: Value) -> Value:
    """NumPy's matmul: vectors are rows on the left and columns on the right, batch axes broadcast."""
    row, column = x.type.rank == 1, y.type.rank == 1
    if row:
        x = c.b.reshape(x, (1, *x.type.shape))
    if column:
        y = c.b.reshape(y, (*y.type.shape, 1))
    if y.type.rank > 2:
        batch = _batch(x.type.shape[:-2], y.type.shape[:-2])
        x, y = (c.broadcast(v, (*batch, *v.type.shape[-2:])) for v in (x, y))
    result = c.b.op("matmul", x, y)
    shape = list(result.type.shape)
    if column:
        shape.pop()
    if row:
        shape.pop(-1 if column else -2)
    return c.b.reshape(result, shape)


def _batch(left: Sequence[Dim], right: Sequence[Dim]) -> tuple[Dim, ...]:
    """The batch axes of both, broadcast."""
    rank = max(len(left), len(right))
    pairs = zip((1,) * (rank - len(left)) + tuple(left), (1,) * (rank - len(right)) + tuple(right), strict=True)
    return tuple(b if a == 1 else a for a, b in pairs)


def _product(left: str, right: str) -> Converter:
    return lambda c: matmul(c, c.x(left), c.x(right))


def _add_product(left: str, right: str) -> Converter:
    """beta * self + alpha * (left right)."""

    def convert(c: Call) -> Value:
        y = matmul(c, c.x(left), c.x(right))
        alpha, beta = c.get("alpha", 1), c.get("beta", 1)
        if isinstance(alpha, fx.Node) or isinstance(beta, fx.Node):
            raise Refused("factors that are dynamic aren't supported")
        if alpha != 1:
            y = c.scaled("mul", y, alpha)
        if beta == 0:
            return y
        bias = c.x()
        if beta != 1:
            bias = c.scaled("mul", bias, beta)
        return c.b.op("add", y, c.broadcast(bias, y.type.shape))

    return convert


CONVERTERS: Mapping[str, Converter] = {
    "linear": _linear,
    "matmul": _product("self", "other"),
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "mv": _product("self", "vec"),
    "dot": _product("self", "tensor"),
    "addmm": _add_product("mat1", "mat2"),
    "baddbmm": _add_product("batch1", "batch2"),
    "addmv": _add_product("mat", "vec"),
}
