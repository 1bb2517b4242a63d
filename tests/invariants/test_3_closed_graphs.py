"""3. No implicit broadcast or promotion; closed regions; use lists exact after every rewrite."""

from typing import Any

import pytest

from graphc.backend import CompileOptions
from graphc.errors import ShapeError, VerifyError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.opdef import OpDef
from graphc.ir.types import DTYPES, f32, f64
from graphc.ir.verifier import verify
from graphc.ops import core_operators
from graphc.pipeline import PassContext, PassManager, resolve_passes
from graphc.rewrite import engine
from graphc_llvm.backend import BACKEND

BINARY = [op for op in core_operators().values() if "elementwise" in op.traits and len(op.operands) == 2]


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.name)
def test_operands_of_elementwise_operators_have_equal_types(op: OpDef) -> None:
    names = op.dtypes
    for name in names:
        for shape, other in (((3,), (1,)), ((3,), ()), ((2, 3), (3,)), ((1, 3), (2, 3))):
            b = Builder()
            x, y = b.input("x", DTYPES[name], shape), b.input("y", DTYPES[name], other)
            with pytest.raises(ShapeError):
                b.op(op, x, y)
        for another in names:
            if another != name:
                b = Builder()
                x, y = b.input("x", DTYPES[name], (3,)), b.input("y", DTYPES[another], (3,))
                with pytest.raises(ShapeError):
                    b.op(op, x, y)


def test_regions_do_not_reach_outside() -> None:
    b = Builder()
    x, outside = b.input("x", f32, (4, 2)), b.input("outside", f32, (2,))
    inner = Builder(Graph("body"))
    row = inner.input("row", f32, (2,))
    body = inner.returns(inner.op("neg", row))
    node = b.emit("scan", (x,), body=body, carries=0, scanned=1)
    verify(b.returns(node.result))
    body.set_operand(body.nodes[0], 0, outside)
    with pytest.raises(VerifyError, match="outside"):
        verify(b.graph)


def test_use_lists_are_exact_after_every_rewrite(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    applied = 0
    apply = engine._apply

    def checked(graph: Graph, *arguments: Any) -> None:
        nonlocal applied
        apply(graph, *arguments)
        applied += 1
        for value in graph.values():
            seen = [
                u
                for u in value.uses
                if (u.user.outputs if isinstance(u.user, Graph) else u.user.operands)[u.index] is value
            ]
            assert len(seen) == len(value.uses)
        reads = sum(len(n.operands) for n in graph.nodes) + len(graph.outputs)
        assert sum(len(v.uses) for v in graph.values()) == reads

    monkeypatch.setattr(engine, "_apply", checked)
    names = [*BACKEND.pipeline(CompileOptions()), "fuse"]
    for model in models:
        PassManager(resolve_passes(names)).run(model.build(0), PassContext(backend=BACKEND))
    assert applied > 0


def test_types_are_never_changed_by_a_replacement() -> None:
    b = Builder()
    x = b.input("x", f32, (2,))
    y = b.op("cast", x, dtype=f64)
    graph = b.returns(y)
    with pytest.raises(VerifyError, match="can't be replaced"):
        PassContext().replace(graph, y, x)
