"""Arithmetic on floats that takes an instruction or two: sign, abs, min, max."""

from __future__ import annotations

import math

import llvmlite.ir as ir

from graphc_llvm.math.lanes import Lanes, where


def sign(x: Lanes) -> Lanes:
    """-1, 0 or 1; NaN for NaN, and 0 for either zero."""
    return where(x > 0.0, 1.0, where(x < 0.0, -1.0, where(x.equals(0.0), 0.0, x)))


def maximum(x: Lanes, y: Lanes) -> Lanes:
    """The larger; NaN if either is."""
    return choose(x, y, ">")


def minimum(x: Lanes, y: Lanes) -> Lanes:
    """The smaller; NaN if either is."""
    return choose(x, y, "<")


def choose(x: Lanes, y: Lanes, predicate: str) -> Lanes:
    """x where `x predicate y`, else y, as one machine instruction; a NaN in x takes a second test."""
    if is_number(x.value):
        x, y = y, x
    if is_number(y.value):
        return where(y.compare(predicate, x), y, x)
    return where(x.is_nan(), x, where(x.compare(predicate, y), x, y))


def is_number(value: ir.Value) -> bool:
    """Whether this is a constant with no NaN in it."""
    if not isinstance(value, ir.Constant) or value.constant in (None, ir.Undefined):
        return False
    lanes = value.constant if isinstance(value.type, ir.VectorType) else [value]
    return all(isinstance(lane.constant, int | float) and not math.isnan(lane.constant) for lane in lanes)
