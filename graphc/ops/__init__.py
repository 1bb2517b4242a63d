"""Operator definitions, a file per family, and their look-up by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from graphc import plugins
from graphc.errors import PluginError
from graphc.ir.opdef import OpDef
from graphc.ops import (
    activations,
    attention,
    batch_norm_training,
    branching,
    constants,
    contraction,
    control,
    convolution,
    elementwise,
    fusion,
    indexing,
    lrn,
    markers,
    movement,
    normalization,
    pooling,
    random,
    recurrent,
    reductions,
    resize,
    softmax,
    sorting,
    windows,
    winograd,
)

GROUP = "graphc.operators"

FAMILIES = (
    constants, elementwise, movement, reductions, indexing, sorting, contraction, convolution, windows, control, branching,
    random, markers, fusion, activations, softmax, normalization, batch_norm_training, attention, pooling, lrn, recurrent,
    resize, winograd,
)  # fmt: skip


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
    if op is not None:
        return op
    if name not in plugins.names(GROUP):
        raise KeyError(name)
    found = plugins.find(GROUP, name)
    if not isinstance(found, OpDef) or found.name != name:
        raise PluginError(f"the entry point {name} of {GROUP} isn't an operator of that name", seen=repr(found))
    return found
