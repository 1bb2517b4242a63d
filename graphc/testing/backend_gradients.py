"""Gradients of each operator on a backend: what its VJP emits is computed as the interpreter does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.autodiff import grad
from graphc.driver import compile as compile_model
from graphc.errors import GraphcError, UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.opdef import OpDef
from graphc.ir.types import dtype_of, f32
from graphc.ops import core_operators
from graphc.testing.conformance import cast_sample, difference
from graphc.testing.gradients import gradient_samples


def gradient_graph(op: OpDef, samples: int) -> tuple[Graph, list[np.ndarray]]:
    """The gradients at the operator's first samples of randomly weighted sums of its outputs; and the inputs.

    In f32, but for operators with regions, whose types are given.
    """
    rng = np.random.default_rng(5)
    b = Builder(Graph(f"{op.name}_gradients"))
    arrays: list[np.ndarray] = []
    outputs: list[Value] = []
    for sample in gradient_samples(op)[:samples]:
        given = any(isinstance(a, Graph) for a in sample.attributes.values())
        narrow = sample if given else cast_sample(sample, f32)
        assert narrow is not None
        operands = []
        for x in narrow.operands:
            operands.append(b.input(f"x{len(arrays)}", dtype_of(x), x.shape))
            arrays.append(x)
        for y in b.emit(op, operands, **narrow.attributes).results:
            if y.type.dtype.is_float:
                weights = np.asarray(rng.uniform(0.5, 1.5, y.type.concrete({})), y.type.dtype.numpy)
                outputs.append(b.op("mul", y, b.constant(weights)))
    return grad(b.returns(*outputs)), arrays


def gradient_outcomes(names: Sequence[str], backend: str, samples: int) -> dict[str, str]:
    """By operator: "" where the backend's gradients agree, "refused: ..." or "failed: ..." with the reasons."""
    found: dict[str, str] = {}
    for name in names:
        graph, arrays = gradient_graph(core_operators()[name], samples)
        try:
            seen = compile_model(graph, backend, cache=False)(*arrays)
        except UnsupportedOpError as e:
            found[name] = "refused: " + "; ".join(sorted({f"{u.op}: {u.reason}" for u in e.unsupported}))
            continue
        except GraphcError as e:
            found[name] = f"failed: {e}"
            continue
        results = seen if isinstance(seen, tuple) else (seen,)
        pairs = zip(results, interpret(graph, arrays), strict=True)
        found[name] = next((f"failed: {p}" for s, e in pairs if (p := difference(s, e)) is not None), "")
    return found
