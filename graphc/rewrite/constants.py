"""What rules ask about constants."""

from __future__ import annotations

import numpy as np

from graphc.ir.graph import Node, Value

_MOVES = ("broadcast", "reshape", "transpose")


def is_constant(value: Value) -> bool:
    """Whether the value is a constant's."""
    return value.producer is not None and value.producer.op.name == "constant"


def is_weight(value: Value) -> bool:
    """Whether the value is a weight's: a constant whose numbers may change without new code."""
    return is_constant(value) and value.producer is not None and value.producer["value"].is_weight


def constant_of(value: Value) -> np.ndarray | None:
    """The array of a constant; None for anything else."""
    if not is_constant(value):
        return None
    assert value.producer is not None
    array: np.ndarray = value.producer["value"].array
    return array


def splat_of(value: Value) -> float | int | bool | None:
    """The number that every element is, for a constant or a view of one; None for anything else, or for no element.

    A weight has none, whatever its values are: code is made for all of its values.
    """
    while value.producer is not None and value.producer.op.name in _MOVES:
        value = value.producer.operands[0]
    array = constant_of(value)
    if array is None or array.size == 0 or is_weight(value):
        return None
    first = array.flat[0]
    if array.size > 1:
        bits = np.dtype(f"u{array.dtype.itemsize}")
        flat = array.reshape(-1).view(bits)  # bits: -0.0 and 0.0 are different numbers here
        if not bool((flat == flat[0]).all()):
            return None
    kind = value.type.dtype
    return bool(first) if kind.is_bool else float(first) if kind.is_float else int(first)


def depends_on_constants_alone(value: Value, limit: int = 10_000) -> bool:
    """Whether the value is computed from constants, without inputs: `prepare` will compute it once."""
    stack, seen = [value], set[Node]()
    while stack:
        producer = stack.pop().producer
        if producer is None:
            return False
        if producer in seen:
            continue
        seen.add(producer)
        if len(seen) > limit:
            return False
        stack.extend(producer.operands)
    return True
