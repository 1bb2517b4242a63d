"""The source of kernels reads as if written by hand: golden files, one a family. GRAPHC_UPDATE_GOLDEN=1 writes them."""

import os
from pathlib import Path

import pytest

import graphc
from graphc.errors import UnsupportedOpError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32, f64
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
    x = b.input("x", f64, (4, 4))
    first, second = (Builder(b.graph, origin=(name,)) for name in ("first", "second"))
    graph = b.returns(first.op("tan", x), second.op("pow", x, x))
    with pytest.raises(UnsupportedOpError) as e:
        source(graph)
    assert "the triton backend" in str(e.value)
    assert {u.layer: u.reason for u in e.value.unsupported} == dict.fromkeys(
        ("first", "second"), "on f64 it has no form in Triton's language"
    )


def test_importing_graphc_does_not_import_triton() -> None:
    import subprocess
    import sys

    code = "import graphc, graphc_triton.backend, sys; assert 'triton' not in sys.modules; assert 'cuda' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
