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
)
