"""Operator definitions, a file per family, and their look-up by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from graphc.ir.opdef import OpDef
from graphc.ops import constants, contraction, convolution, elementwise, windows

FAMILIES = (constants, elementwise, contraction, convolution, windows)


@cache
def core_operators() -> Mapping[str, OpDef]:
    """Every operator of the core by name; raises ValueError where two families define the same one."""
    found: dict[str, OpDef] = {}
    for family in FAMILIES:
        for op in family.OPERATORS:
            if op.name in found:
                raise ValueError(f"operator {op.name} is defined twice")
            found[op.name] = op
    return found


def find_operator(name: str) -> OpDef:
    """The core's operator of that name, else a plugin's; raises KeyError where neither has it."""
    op = core_operators().get(name)
    if op is None:
        from graphc.plugins import find_plugin_operator

        op = find_plugin_operator(name)
    if op is None:
        raise KeyError(name)
    return op
