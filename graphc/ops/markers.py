"""Identities that mean something to a transformation of graphs, and nothing to a run."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from graphc.ir.opdef import OpDef, Sample
from graphc.ops.common import ALL
from graphc.ops.sampling import uniform


def _samples() -> Iterable[Sample]:
    for x in (uniform(2, 3), np.array(0.5), np.zeros((0, 2)), np.array([1, 2]), np.array([True, False])):
        yield Sample((x,), differentiable=False)


def _after_samples() -> Iterable[Sample]:
    for x in (uniform(2, 3), np.array(0.5), np.zeros((0, 2)), np.array([1, 2]), np.array([True, False])):
        yield Sample((x, uniform(2, seed=1)))


OPERATORS = (
    OpDef(
        name="stop_gradient",
        operands=("x",),
        infer=lambda _, types, a: (types[0],),
        reference=lambda x, a: (x[0],),
        vjp=lambda b, node, g: (None,),
        decompose=lambda b, node: node.operands,
        samples=_samples,
        dtypes=ALL,
        doc="x itself, a constant to autodiff: no cotangent passes through it.",
    ),
    OpDef(
        name="after",
        operands=("x", "event"),
        infer=lambda _, types, a: (types[0],),
        reference=lambda x, a: (x[0],),
        vjp=lambda b, node, g: (g[0], None),
        decompose=lambda b, node: node.operands[:1],
        samples=_after_samples,
        dtypes=ALL,
        doc="""x itself, but not before `event` (any tensor) is there: what is made of it is computed later.

        Rematerialization computes a value for the second time from operands behind an `after`: then no transformation takes
        both for the same, and no schedule puts them together. It costs nothing: the result lies where x lies.""",
    ),
)
