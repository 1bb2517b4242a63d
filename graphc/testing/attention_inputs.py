"""Inputs of graphs with attention."""

from __future__ import annotations

import numpy as np

from graphc.ir.graph import Graph


def attention_inputs(graph: Graph, seed: int = 0, **dims: int) -> list[np.ndarray]:
    """Seeded normal numbers for a graph's inputs, at given dims; masks are mostly true, and the first key of a row always."""
    rng = np.random.default_rng(seed)
    found = []
    for v in graph.inputs:
        x = rng.normal(size=v.type.concrete(dims))
        found.append(x > -0.5 if v.type.dtype.is_bool else x.astype(v.type.dtype.numpy))
        if v.type.dtype.is_bool:
            found[-1][..., 0] = True
    return found
