"""Lowering of elementwise operators and of tensors without operands."""

from __future__ import annotations

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import bool_, i64
from graphc.lowering.loop_body import Operand
from graphc.lowering.nest import Demand, Nest, Rule, carrier, unsupported
from graphc.ops.elementwise import OPERATORS

_EXACT = frozenset({"neg", "abs", "sign", "floor", "ceil", "round", "max", "min", "select"})
"""Operators whose result on f16 or bf16 operands needs no rounding."""


def elementwise(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The operator on the operands' elements at the same index; f16 and bf16 round after each operator."""
    node = v.producer
    assert node is not None
    dtype, name = v.type.dtype, node.op.name
    if demand.predicate and name in ("div", "rem", "mod") and dtype.is_integer:
        raise unsupported(node, "an integer division can't be guarded by padding")
    operands = [nest.value(x, demand.inner()) for x in node.operands]
    source = carrier(node.operands[-1].type.dtype)
    if name == "cast":
        if node.operands[0].type.dtype == dtype:
            return operands[0]
        result = nest.apply("cast", dtype, operands, source)
        return result if carrier(dtype) == dtype else nest.apply("cast", carrier(dtype), [result], dtype)
    result = nest.apply(name, carrier(dtype), operands, source)
    return result if name in _EXACT or dtype.is_bool else nest.rounded(result, dtype)


def constant(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The literal, for a tensor of one element."""
    assert v.producer is not None
    data: TensorData = v.producer["value"]
    if not data.is_literal:
        raise unsupported(v.producer, f"a constant of type {data.type} must be an operand of the fusion")
    element = data.array.reshape(()).item() if v.type.dtype.name != "bf16" else float(data.array.reshape(()))
    return element


def iota(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The index along the axis."""
    node = v.producer
    assert node is not None
    dtype, e = v.type.dtype, demand.index[node["axis"]]
    if dtype.is_integer:
        return nest.integer(e, dtype)
    result = nest.apply("cast", dtype, [nest.integer(e)], i64)
    return result if carrier(dtype) == dtype else nest.apply("cast", carrier(dtype), [result], dtype)


def dims(nest: Nest, v: Value, demand: Demand) -> Operand:
    """The expression at a known position; else a choice among all."""
    assert v.producer is not None
    values: tuple[Dim, ...] = v.producer["values"]
    (at,) = demand.index
    if isinstance(at, int):
        return nest.integer(values[at])
    result: Operand = 0
    for i, e in enumerate(values):
        here = nest.apply("eq", bool_, [nest.integer(at), i], i64)
        result = nest.integer(e) if i == 0 else nest.apply("select", i64, [here, nest.integer(e), result], i64)
    return result


RULES: dict[str, Rule] = {
    **{op.name: elementwise for op in OPERATORS},
    "constant": constant,
    "iota": iota,
    "dims": dims,
}
