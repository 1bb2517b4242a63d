"""Control flow that depends on data: cond, while_loop and scan, whose regions torch.export has closed already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc_torch.call import Item
from graphc_torch.refused import Refused
from graphc_torch.symbols import Symbols


@dataclass(frozen=True)
class ControlCall:
    """A node with regions under conversion. `region` makes a closed graph of one; None stands for what is no tensor."""

    node: fx.Node
    b: Builder
    items: Mapping[fx.Node, Item | None]
    symbols: Symbols
    region: Callable[[fx.Node, Sequence[TensorType | None]], Graph]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The node's arguments, as torch's graph has them."""
        return self.node.args

    def operands(self, nodes: Sequence[Any]) -> list[Value | None]:
        """What nodes stand for; None for a size of an input, which is the same symbol inside."""
        return [self.operand(n) for n in nodes]

    def operand(self, node: Any) -> Value | None:
        found = self.items.get(node) if isinstance(node, fx.Node) else None
        if isinstance(found, Value):
            return found
        if isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.SymInt):
            self.symbols.dim(node.meta["val"])
        return None


Control: TypeAlias = Callable[[ControlCall], Sequence[Value]]


def _cond(c: ControlCall) -> Sequence[Value]:
    """(condition, then, otherwise, operands)"""
    condition, *branches, nodes = c.arguments
    operands = c.operands(nodes)
    then, otherwise = (c.region(branch, _types(operands)) for branch in branches)
    for x, y in zip(then.outputs, otherwise.outputs, strict=True):
        if x.type != y.type:
            raise Refused(f"its branches give different types, {x.type} and {y.type}")
    captures = [v for v in operands if v is not None]
    return c.b.ops("if", _condition(c, condition), *captures, then=then, otherwise=otherwise)


def _condition(c: ControlCall, node: Any) -> Value:
    """A tensor of one bool, or a comparison of sizes."""
    value = c.operand(node)
    if value is not None:
        return c.b.reshape(value, ())
    said = node.meta["val"] if isinstance(node, fx.Node) else node
    comparison = said.node.expr if isinstance(said, torch.SymBool) else said
    for kind, op in _COMPARISONS.items():
        if isinstance(comparison, kind):
            x, y = (c.b.op("dims", values=(c.symbols.expression(e),)) for e in comparison.args)
            return c.b.reshape(c.b.op(op, x, y), ())
    raise Refused(f"the condition {comparison} isn't supported")


_COMPARISONS: Mapping[Any, str] = {
    sympy.Eq: "eq", sympy.Ne: "ne", sympy.Lt: "lt", sympy.Le: "le", sympy.Gt: "gt", sympy.Ge: "ge"
}  # fmt: skip


def _while_loop(c: ControlCall) -> Sequence[Value]:
    """(condition, body, carried, additional)"""
    condition, body, carried, additional = c.arguments
    carries = c.operands(carried)
    if None in carries:
        raise Refused("a number that a loop carries isn't supported: make it a tensor")
    operands = [*carries, *c.operands(additional)]
    asking, step = (c.region(r, _types(operands)) for r in (condition, body))
    _check_carries(step, carries)
    asking.set_outputs([Builder(asking, origin=c.b.origin).reshape(asking.outputs[0], ())])
    values = [v for v in operands if v is not None]
    return c.b.ops("while", *values, condition=asking, body=step, carries=len(carries))


def _scan(c: ControlCall) -> Sequence[Value]:
    """(body, initial, sequences, additional): states first, then what each step gives."""
    body, initial, sequences, additional = c.arguments
    carries, xs = c.operands(initial), c.operands(sequences)
    if None in carries or None in xs:
        raise Refused("a number that a scan carries isn't supported: make it a tensor")
    outside = c.operands(additional)
    rows = [t.with_shape(t.shape[1:]) for t in _types(xs) if t is not None]
    step = c.region(body, [*_types(carries), *rows, *_types(outside)])
    _check_carries(step, carries)
    values = [v for v in (*carries, *xs, *outside) if v is not None]
    return c.b.ops("scan", *values, body=step, carries=len(carries), scanned=len(xs))


def _types(values: Sequence[Value | None]) -> list[TensorType | None]:
    return [None if v is None else v.type for v in values]


def _check_carries(step: Graph, carries: Sequence[Value | None]) -> None:
    for before, after in zip(carries, step.outputs, strict=False):
        if before is not None and before.type != after.type:
            raise Refused(f"what it carries changes its type from {before.type} to {after.type}")


CONTROL: Mapping[str, Control] = {"cond": _cond, "while_loop": _while_loop, "scan": _scan}
