"""Element types of operands, compared with what their operator allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx

from graphc.errors import ModelError
from graphc_onnx.imported import Item, Tensor

_NAMES = {
    "f16": "float16", "bf16": "bfloat16", "f32": "float", "f64": "double", "bool": "bool",
    **{f"{ours}{bits}": f"{theirs}{bits}" for ours, theirs in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Rule:
    """A parameter's name, the type variable that it shares with others ("" for none), and the types allowed."""

    name: str
    variable: str
    allowed: frozenset[str]


def check_types(op_type: str, opset: int, domain: str, operands: Sequence[Item | None], layer: str) -> None:
    """ModelError for an operand whose element type its operator doesn't take, or that differs where it mustn't."""
    rules = _rules(op_type, opset, domain)
    bound: dict[str, tuple[str, Tensor]] = {}
    for i, operand in enumerate(operands):
        if not isinstance(operand, Tensor):
            continue
        rule = rules[min(i, len(rules) - 1)]
        kind = f"tensor({_NAMES[operand.type.dtype.name]})"
        if rule.allowed and kind not in rule.allowed:
            raise ModelError(
                f"{op_type} doesn't take this element type for its operand {rule.name}", layer=layer, seen=operand.type
            )
        if not rule.variable:
            continue
        name, first = bound.setdefault(rule.variable, (rule.name, operand))
        if first.type.dtype != operand.type.dtype:
            raise ModelError(
                f"operands of {op_type} must have one element type", layer=layer,
                seen=f"{name}: {first.type}, {rule.name}: {operand.type}",
            )  # fmt: skip


@lru_cache(maxsize=1024)
def _rules(op_type: str, opset: int, domain: str) -> tuple[_Rule, ...]:
    schema = onnx.defs.get_schema(op_type, opset, domain)
    variables = {c.type_param_str for c in schema.type_constraints}
    return tuple(
        _Rule(p.name, p.type_str if p.type_str in variables and p.is_homogeneous else "", frozenset(p.types))
        for p in schema.inputs
    )
