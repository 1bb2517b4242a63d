"""What tests of passes share: a graph as text goes through passes, and is compared with the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import dedent

import numpy as np
import pytest

from graphc.checking import generate_inputs
from graphc.interpreter import interpret
from graphc.ir.graph import Graph
from graphc.ir.parser import parse_graph
from graphc.ir.text import print_graph
from graphc.pipeline import Pass, PassContext, PassManager

Run = Callable[..., "tuple[Graph, PassContext]"]


@pytest.fixture
def run_passes() -> Run:
    """run(graph or its text, *passes, numerics="fast", tolerance=1e-4): the graph after, and the context.

    Outputs are compared with the interpreter's on the graph before (bit for bit where tolerance is 0), at two sets of
    inputs, besides the manager's own check of each claim.
    """

    def run(
        source: str | Graph, *passes: Pass, tolerance: float = 1e-4, **options: object
    ) -> tuple[Graph, PassContext]:
        graph = parse_graph(dedent(source)) if isinstance(source, str) else source
        before, _ = graph.clone()
        context = PassContext(**options)  # type: ignore[arg-type]
        PassManager(passes, verify="full").run(graph, context)
        for seed in (7, 8):
            inputs = generate_inputs(before, seed)
            _compare(interpret(graph, inputs), interpret(before, inputs), tolerance)
        return graph, context

    return run


def _compare(seen: Sequence[np.ndarray], expected: Sequence[np.ndarray], tolerance: float) -> None:
    for a, b in zip(seen, expected, strict=True):
        if tolerance == 0 or b.dtype.kind in "?biu":
            np.testing.assert_array_equal(a, b)
        else:
            scale = float(np.abs(b.astype(np.float64)).max()) if b.size else 0.0
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=0, atol=tolerance * scale)


@pytest.fixture
def check_text(run_passes: Run) -> Callable[..., PassContext]:
    """check(before, after, *passes, ...): the text after the passes is `after`; gives the context."""

    def check(before: str, after: str, *passes: Pass, **options: object) -> PassContext:
        graph, context = run_passes(before, *passes, **options)
        assert print_graph(graph, origins=False) == dedent(after).lstrip("\n")
        return context

    return check
