"""Every operator that has a loop nest: its kernel gives what the interpreter gives."""

import numpy as np
import pytest

from graphc.errors import NumericError, ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.opdef import OpDef
from graphc.ir.types import DTYPES, dtype_of
from graphc.lowering.lower import lower
from graphc.lowering.rules import LOWERABLE
from graphc.ops import core_operators

OPERATORS = [core_operators()[n] for n in sorted(LOWERABLE) if n != "constant"]
TOLERANCE = {"f32": 4e-6, "f64": 1e-13, "f16": 2e-3, "bf16": 2e-2}


def cast(operands, name):
    with np.errstate(over="ignore"):
        return [x.astype(DTYPES[name].numpy) if x.dtype == np.float64 else x for x in operands]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("op", OPERATORS, ids=lambda o: o.name)
def test_kernel_equals_interpreter(op: OpDef, dtype: str, nest_kernel):
    for sample in op.samples():
        operands = cast(sample.operands, dtype)
        b = Builder()
        values = [b.input(f"x{i}", dtype_of(x), x.shape) for i, x in enumerate(operands)]
        try:
            results = b.ops(op, *values, **sample.attributes)
        except ShapeError as e:
            assert "element type" in str(e)
            continue
        graph = b.returns(*results)
        kernel = nest_kernel(lower(graph))
        outputs = [np.full(v.type.concrete({}), 77).astype(v.type.dtype.numpy) for v in graph.outputs]
        try:
            expected = interpret(graph, operands)
        except NumericError:
            assert kernel(operands, outputs) != 0
            continue
        assert kernel(operands, outputs) == 0
        for y, want in zip(outputs, expected, strict=True):
            compare(y, want, TOLERANCE[dtype] if dtype_of(want).is_float else 0)


def compare(y, want, tolerance):
    y, want = y.astype(np.float64), want.astype(np.float64)
    scale = float(np.max(np.abs(want[np.isfinite(want)]), initial=1.0))
    np.testing.assert_allclose(y, want, rtol=tolerance, atol=tolerance * scale)
