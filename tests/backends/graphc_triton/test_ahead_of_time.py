"""Cubins for sm_90 without a GPU, and what their code says of them: spills, tensor cores, wide loads, shared memory."""

import numpy as np
import pytest

import graphc
from graphc.errors import GraphcError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.types import DType, bf16, f16, f32
from graphc.testing.body_cases import BODY_CASES
from graphc_triton import compile as ahead_of_time
from graphc_triton.compile import Cubin
from graphc_triton.function import Function
from graphc_triton.segment import TritonSegment
from graphc_triton.static_facts import StaticFacts, static_facts
from graphc_triton.target import SHARED_MEMORY

Compiled = list[tuple[Function, Cubin]]


def compiled(graph: Graph, target: str = "sm_90", **options: str) -> Compiled:
    """Every function of a graph with its cubin."""
    segment = graphc.compile(graph, "triton", target=target, cache=False, **options)._segment
    assert isinstance(segment, TritonSegment)
    kernels = {k.key: k for code in (segment.prepare, segment.main) for k in code.kernels}
    return [x for key, cubins in segment.cubins.items() for x in zip(kernels[key].functions, cubins, strict=True)]


def facts(found: Compiled, template: str, target: str = "sm_90") -> list[StaticFacts]:
    """Of the functions of a template: there is at least one; none spills, and all have the shared memory they need."""
    chosen = [c for f, c in found if f.template == template]
    assert chosen
    assert all(c.shared <= SHARED_MEMORY[target] for c in chosen)
    told = [static_facts(c, target) for c in chosen]
    assert [t.spills for t in told] == [0] * len(told)
    return told


@pytest.mark.parametrize("name", BODY_CASES)
def test_every_family_compiles(name: str) -> None:
    for function, cubin in compiled(BODY_CASES[name].graph()):
        assert cubin.code[:4] == b"\x7fELF"
        assert cubin.warps == function.warps
        assert cubin.scratch == 0


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
def test_matrix_products_use_warpgroup_instructions(dtype: DType) -> None:
    b = Builder()
    x, w = b.input("x", dtype, (512, 768)), b.input("w", dtype, (768, 1024))
    found = compiled(b.returns(b.op("relu", b.op("matmul", x, w))))
    (told,) = facts(found, "matmul")
    assert told.count("HGMMA") > 0
    assert told.count("LDGSTS") > 0  # loads run ahead, past registers
    assert not told.serialized


def test_precision_bf16_multiplies_bf16() -> None:
    b = Builder()
    x, w = b.input("x", f32, (512, 768)), b.input("w", f32, (768, 1024))
    found = compiled(b.returns(b.op("relu", b.op("matmul", x, w))), precision="bf16")
    (told,) = facts(found, "matmul")
    assert told.count("HGMMA") > 0
    (ptx,) = [c.ptx for f, c in found if f.template == "matmul"]
    assert ".f32.bf16.bf16" in ptx and ".tf32" not in ptx


@pytest.mark.parametrize("dtype", [f32, f16], ids=str)
def test_convolutions_use_warpgroup_instructions(dtype: DType) -> None:
    b = Builder()
    x, w = b.input("x", dtype, (8, 28, 28, 64)), b.input("w", dtype, (3, 3, 64, 64))
    spec = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    y = b.op("conv", x, w, layout="channels_last", kernel_layout="io", **spec)
    (told,) = facts(compiled(b.returns(b.op("relu", y))), "matmul")
    assert told.count("HGMMA") > 0
    assert not told.serialized


@pytest.mark.parametrize("dtype", [f32, f16], ids=str)
def test_pointwise_work_moves_16_bytes_at_a_time(dtype: DType) -> None:
    b = Builder()
    x, y = (b.input(n, dtype, (64, 1024)) for n in "xy")
    bias = b.broadcast(b.input("b", dtype, (1024,)), (64, 1024), (1,))
    (told,) = facts(compiled(b.returns(b.op("tanh", b.op("add", b.op("mul", x, y), bias)))), "pointwise")
    assert told.count("LDG.E.128") == told.count("LDG") > 0
    assert told.count("STG.E.128") == told.count("STG") > 0


def test_row_work_reads_each_row_once() -> None:
    b = Builder()
    x = b.input("x", f32, (256, 1024))
    (told,) = facts(compiled(b.returns(b.op("softmax", x, axis=1))), "rows")
    assert told.count("LDG") == told.count("LDG.E.128") <= 2  # 2 rows of 1024 by 8 warps: 8 elements a thread


def test_strict_numerics_do_without_tensor_cores_and_contraction() -> None:
    b = Builder()
    x, w = b.input("x", f32, (64, 64)), b.input("w", f32, (64, 64))
    told = facts(compiled(b.returns(b.op("matmul", x, w)), numerics="strict"), "matmul")
    assert told[0].count("HGMMA") == told[0].count("HMMA") == 0


def test_older_architectures_are_targets_too() -> None:
    b = Builder()
    x, w = b.input("x", f16, (256, 128)), b.input("w", f16, (128, 256))
    (told,) = facts(compiled(b.returns(b.op("matmul", x, w)), "sm_80"), "matmul", "sm_80")
    assert told.count("HMMA") > 0


def test_equal_source_is_compiled_to_equal_bytes() -> None:
    graph = BODY_CASES["softmax"].graph()
    first, second = ([c.code for _, c in compiled(graph)] for _ in range(2))
    assert first == second


def test_too_much_shared_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_of_time, "SHARED_MEMORY", {"sm_90": 1024})
    b = Builder()
    x, w = b.input("x", f32, (64, 64)), b.input("w", f32, (64, 64))
    with pytest.raises(GraphcError, match="shared memory"):
        compiled(b.returns(b.op("matmul", x, w)))


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(GraphcError, match="no such target"):
        compiled(BODY_CASES["softmax"].graph(), "sm_1")


def test_without_a_driver_a_run_says_so() -> None:
    from graphc_triton.driver import capability

    if capability() is not None:
        pytest.skip("this machine has a GPU")
    b = Builder()
    executable = graphc.compile(b.returns(b.op("tanh", b.input("x", f32, (4,)))), "triton", cache=False)
    with pytest.raises(GraphcError, match="no NVIDIA driver"):
        executable(np.zeros(4, np.float32))
