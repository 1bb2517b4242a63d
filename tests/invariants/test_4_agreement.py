"""4. Reference, inference and backend agree on zero-size, rank-0, NaN, integer edges and symbolic dims.

`test_conformance.py` holds every operator to it on its samples; here, that the samples hold those edges, and whole models.
"""

from typing import Any

import numpy as np
import pytest

import graphc
from graphc.interpreter import interpret
from graphc.ir.opdef import OpDef
from graphc.ir.types import dtype_of
from graphc.ops import core_operators
from graphc.testing.conformance import difference

ELEMENTWISE = [op for op in core_operators().values() if "elementwise" in op.traits and op.is_primitive]
PRIMITIVES = [op for op in core_operators().values() if op.is_primitive and op.operands]


@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: op.name)
def test_samples_of_elementwise_operators_hold_the_edges(op: OpDef) -> None:
    arrays = [x for s in op.samples() for x in s.operands]
    assert any(x.ndim == 0 for x in arrays)
    assert any(x.size == 0 for x in arrays)
    if "f32" in op.dtypes:
        assert any(dtype_of(x).is_float and np.isnan(x).any() for x in arrays)
        assert any(dtype_of(x).is_float and np.isinf(x).any() for x in arrays)
    if "i32" in op.dtypes and op.name not in ("select", "cast"):
        edges = [x for x in arrays if dtype_of(x).is_integer]
        assert any((x == np.iinfo(x.dtype).min).any() or (x == np.iinfo(x.dtype).max).any() for x in edges)


def test_every_primitive_has_a_sample_without_elements() -> None:
    zero = [op.name for op in PRIMITIVES if not any(x.size == 0 for s in op.samples() for x in s.operands)]
    assert not zero, f"no sample without elements: {zero}"


def test_backends_agree_on_models_at_every_size(model: Any) -> None:
    graph = model.build(0)
    native, reference = graphc.compile(graph), graphc.compile(graph, "reference")
    for dims in model.sizes:
        inputs = model.inputs(dims)
        expected = interpret(graph, inputs)
        for executable in (native, reference):
            outputs = executable(*inputs)
            for seen, want in zip(outputs if isinstance(outputs, tuple) else (outputs,), expected, strict=True):
                assert difference(seen, want) is None, f"{dims}: {difference(seen, want)}"


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_numbers_go_the_same_ways(models: Any, special: float) -> None:
    for model in models:
        graph = model.build(0)
        inputs = model.inputs(model.sizes[-1])
        if inputs[0].dtype != np.float32:
            continue
        inputs[0].reshape(-1)[3] = special
        outputs = graphc.compile(graph)(*inputs)
        for seen, want in zip(
            outputs if isinstance(outputs, tuple) else (outputs,), interpret(graph, inputs), strict=True
        ):
            assert difference(seen, want) is None, f"{model.name}: {difference(seen, want)}"
