"""Every operator that has loops: its body, run in NumPy, gives what the interpreter gives."""

from collections.abc import Sequence

import numpy as np
import pytest

from graphc.errors import NumericError, ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.opdef import OpDef, Sample
from graphc.ir.types import DTYPES, dtype_of, f32, i64
from graphc.lowering.lower import lower
from graphc.lowering.rules import LOWERABLE
from graphc.ops import core_operators
from graphc.testing.bodies import assert_close, run_body

OPERATORS = [core_operators()[n] for n in sorted(LOWERABLE) if n != "constant"]


def cast(sample: Sample, name: str) -> list[np.ndarray]:
    """The sample's operands, those of f64 as another element type."""
    with np.errstate(over="ignore"):
        return [x.astype(DTYPES[name].numpy) if x.dtype == np.float64 else x for x in sample.operands]


def build(op: OpDef, sample: Sample, operands: Sequence[np.ndarray]) -> Graph | None:
    """A graph of the one node; None where the operator doesn't take these types."""
    b = Builder()
    values = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate(operands)]
    try:
        return b.returns(*b.ops(op, *values, **sample.attributes))
    except ShapeError:
        return None


@pytest.mark.parametrize("op", OPERATORS, ids=lambda o: o.name)
@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
def test_body_equals_interpreter(op: OpDef, dtype: str):
    ran = 0
    for sample in op.samples():
        operands = cast(sample, dtype)
        graph = build(op, sample, operands)
        if graph is None:
            continue
        try:
            expected = interpret(graph, operands)
        except NumericError:
            continue  # bodies leave errors of values to backends
        for y, want in zip(run_body(lower(graph), graph, operands), expected, strict=True):
            assert_close(y, want)
        ran += 1
    assert ran or dtype not in op.dtypes


def test_an_index_out_of_range_raises():
    b = Builder()
    x, i = b.input("x", f32, (4, 2)), b.input("i", i64, (3,))
    graph = b.returns(b.op("gather", x, i, axis=0))
    with pytest.raises(NumericError, match="out of range"):
        run_body(lower(graph), graph, [np.zeros((4, 2), np.float32), np.array([0, 4, 1])])
