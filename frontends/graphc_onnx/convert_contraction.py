"""Matrix products: MatMul, Gemm and Einsum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim
from graphc_onnx.call import Call, Converter
from graphc_onnx.imported import Refused, broadcast_shape, broadcast_to


def matmul(c: Call, x: Value, y: Value) -> Value:
    """NumPy's matmul: vectors are rows on the left and columns on the right, batch axes broadcast."""
    if x.type.rank == 0 or y.type.rank == 0:
        raise c.wrong("a scalar can't be multiplied", f"{x.type} and {y.type}")
    row, column = x.type.rank == 1, y.type.rank == 1
    if row:
        x = c.b.reshape(x, (1, *x.type.shape))
    if column:
        y = c.b.reshape(y, (*y.type.shape, 1))
    if y.type.rank > 2 or x.type.rank > 2:
        x, y = _same_batch(c, x, y)
    result = c.b.op("matmul", x, y)
    shape = list(result.type.shape)
    if column:
        shape.pop()
    if row:
        shape.pop(-1 if column else -2)
    return c.b.reshape(result, shape)


def _same_batch(c: Call, x: Value, y: Value) -> tuple[Value, Value]:
    """Operands of the ranks that matmul takes: all batch axes equal, or none on the right."""
    if y.type.rank > 2 and all(d == 1 for d in y.type.shape[:-2]) and y.type.rank <= x.type.rank:
        y = c.b.reshape(y, y.type.shape[-2:])
    if y.type.rank == 2:
        return x, y
    batch = broadcast_shape([x.type.shape[:-2], y.type.shape[:-2]])
    return broadcast_to(c.b, x, (*batch, *x.type.shape[-2:])), broadcast_to(c.b, y, (*batch, *y.type.shape[-2:]))


def _gemm(c: Call) -> Value:
    """alpha * op(A) op(B) + beta * C."""
    x, y = c.x(0), c.x(1)
    if x.type.rank != 2 or y.type.rank != 2:
        raise c.wrong("A and B must be matrices", f"{x.type} and {y.type}")
    left, right = (0 if c.get("transA") else 1), (1 if c.get("transB") else 0)
    result = c.b.op("dot", x, y, lhs_contract=(left,), rhs_contract=(right,))
    alpha, beta = c.get("alpha"), c.get("beta")
    if alpha != 1:
        result = c.scaled("mul", result, alpha if result.type.dtype.is_float else int(alpha))
    if not c.has(2) or beta == 0:
        return result
    bias = c.x(2)
    if beta != 1:
        bias = c.scaled("mul", bias, beta if bias.type.dtype.is_float else int(beta))
    return c.b.op("add", result, broadcast_to(c.b, bias, result.type.shape))


def _einsum(c: Call) -> Value:
    """Contracts operands two at a time, from the left."""
    terms, output = _parsed(c, c.get("equation"))
    values = c.xs()
    if len(terms) != len(values):
        raise c.wrong("the equation has another number of operands", c.get("equation"), len(values))
    (term, value), *rest = [_diagonal(c, t, v) for t, v in zip(terms, values, strict=True)]
    for i, (other_term, other) in enumerate(rest):
        later = {a for t, _ in rest[i + 1 :] for a in t} | set(output)
        term, value = _contract(c, (term, value), (other_term, other), later)
    summed = tuple(i for i, a in enumerate(term) if a not in output)
    if summed:
        value = c.b.op("reduce_sum", value, axes=summed)
        term = [a for a in term if a in output]
    if sorted(term) != sorted(output):
        raise c.wrong("an output subscript isn't in any operand", c.get("equation"))
    return c.b.transpose(value, [term.index(a) for a in output])


def _parsed(c: Call, equation: str) -> tuple[list[list[str]], list[str]]:
    """Each operand's subscripts, and the output's; axes under an ellipsis are called by numbers."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    if len(texts) != len(c.operands):
        raise c.wrong("the equation has another number of operands", equation, len(c.operands))
    terms = [_subscripts(c, t, c.tensor(i).type.rank) for i, t in enumerate(texts)]
    widest = max((sum(a.isdigit() for a in t) for t in terms), default=0)
    dots = [str(i) for i in reversed(range(widest))]
    if arrow:
        output = [*right]
        if "..." in right:
            at = right.index("...")
            output = [*right[:at], *dots, *right[at + 3 :]]
    else:
        letters = [a for t in terms for a in t if not a.isdigit()]
        output = dots + sorted(a for a in set(letters) if letters.count(a) == 1)
    if len(set(output)) != len(output):
        raise c.wrong("the output repeats a subscript", equation)
    return terms, output


def _subscripts(c: Call, text: str, rank: int) -> list[str]:
    before, dots, after = text.partition("...")
    if not all(a.isascii() and a.isalpha() for a in before + after):
        raise c.wrong("the equation isn't one of letters", c.get("equation"))
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        raise c.wrong("subscripts don't fit the operand's rank", c.get("equation"), rank)
    return [*before, *(str(i) for i in reversed(range(hidden))), *after]


def _diagonal(c: Call, term: list[str], value: Value) -> tuple[list[str], Value]:
    """The operand with each subscript once: a repeated one takes the diagonal."""
    if len(set(term)) == len(term):
        return term, value
    raise Refused("an operand's diagonal in an equation isn't supported")


def _contract(
    c: Call, left: tuple[list[str], Value], right: tuple[list[str], Value], later: set[str]
) -> tuple[list[str], Value]:
    """One dot: shared subscripts that are read later are batch axes, others are summed."""
    lhs_term, lhs = left
    rhs_term, rhs = right
    shared = [a for a in lhs_term if a in rhs_term]
    for a in shared:  # an axis of size 1 under an ellipsis is broadcast
        d = broadcast_shape([(lhs.type.shape[lhs_term.index(a)],), (rhs.type.shape[rhs_term.index(a)],)])[0]
        lhs, rhs = _widened(c, lhs, lhs_term.index(a), d), _widened(c, rhs, rhs_term.index(a), d)
    batch = [a for a in shared if a in later]
    summed = [a for a in shared if a not in later]
    value = c.b.op(
        "dot", lhs, rhs,
        lhs_batch=_positions(lhs_term, batch), rhs_batch=_positions(rhs_term, batch),
        lhs_contract=_positions(lhs_term, summed), rhs_contract=_positions(rhs_term, summed),
    )  # fmt: skip
    return [*batch, *(a for a in lhs_term if a not in shared), *(a for a in rhs_term if a not in shared)], value


def _positions(term: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    return tuple(term.index(a) for a in names)


def _widened(c: Call, x: Value, axis: int, dim: Dim) -> Value:
    shape = (*x.type.shape[:axis], dim, *x.type.shape[axis + 1 :])
    return c.b.broadcast(x, shape, range(x.type.rank))


CONVERTERS: Mapping[str, Converter] = {
    "MatMul": lambda c: matmul(c, c.x(0), c.x(1)),
    "Gemm": _gemm,
    "Einsum": _einsum,
}
