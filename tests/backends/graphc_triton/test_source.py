"""The source of kernels reads as if written by hand: golden files, one a family. GRAPHC_UPDATE_GOLDEN=1 writes them."""

import os
from pathlib import Path

import pytest

import graphc
from graphc.errors import UnsupportedOpError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32
from graphc.testing.body_cases import BODY_CASES

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = (
    "transposed sum",
    "half precision",
    "softmax",
    "softmax over a dynamic axis",
    "layer norm",
    "pooled",
    "dense",
    "product of f16",
    "batched scores",
    "strided convolution",
    "looked up",
)


def source(graph: Graph) -> str:
    executable = graphc.compile(graph, "triton", target="interpreter", cache=False)
    return executable.text("triton")


@pytest.mark.parametrize("name", FAMILIES)
def test_golden(name: str) -> None:
    path = GOLDEN / f"{name.replace(' ', '_')}.txt"
    text = source(BODY_CASES[name].graph())
    if os.environ.get("GRAPHC_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_equal_loops_have_equal_source_whatever_dims_are_called() -> None:
    def text(dim: str, output: str) -> str:
        b = Builder()
        return source(b.returns(b.op("tanh", b.input(output, f32, (symbol(dim), 3)))))

    assert text("batch", "x") == text("length", "y")


def test_all_reasons_come_at_once() -> None:
    b = Builder()
    x = b.input("x", f32, (4, 4))
    layer = Builder(b.graph, origin=("running",))
    power = Builder(b.graph, origin=("power",))
    graph = b.returns(layer.op("cumsum", x, axis=0), power.op("pow", x, x), *b.ops("sort", x, axis=0, descending=False))
    with pytest.raises(UnsupportedOpError) as e:
        source(graph)
    assert "the triton backend" in str(e.value)
    found = {u.layer: u.reason for u in e.value.unsupported}
    assert "in order" in found["running"]
    assert "no form" in found["power"]
    assert len(found) == 3


def test_importing_graphc_does_not_import_triton() -> None:
    import subprocess
    import sys

    code = "import graphc, graphc_triton.backend, sys; assert 'triton' not in sys.modules; assert 'cuda' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
