"""7. New weights change no code key; new origins or names change no kernel key."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.interpreter import interpret
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import free_symbols, substitute, symbol
from graphc.ir.types import TensorType
from graphc.testing.conformance import difference
from graphc_llvm.program_json import to_json


def programs(executable: graphc.Executable) -> list[Any]:
    compiled = executable._segment.compiled  # type: ignore[attr-defined]
    return [to_json(compiled.prepare.program), to_json(compiled.main.program)]


def kernel_keys(executable: graphc.Executable) -> list[str]:
    compiled = executable._segment.compiled  # type: ignore[attr-defined]
    return [*compiled.prepare.objects, *compiled.main.objects]


def test_new_weights_are_new_numbers_for_the_same_code(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    first = graphc.compile(model.build(1))
    entries = set((tmp_path / "native").iterdir())
    second = graphc.compile(model.build(2))
    assert not first.report.cached
    assert second.report.cached
    assert set((tmp_path / "native").iterdir()) == entries
    assert programs(first) == programs(second)
    fresh = graphc.compile(model.build(2), cache=False)
    assert programs(fresh) == programs(first)
    for dims in model.sizes:
        inputs = model.inputs(dims)
        outputs = second(*inputs)
        for seen, want in zip(
            outputs if isinstance(outputs, tuple) else (outputs,), interpret(model.build(2), inputs), strict=True
        ):
            assert difference(seen, want) is None


def renamed(graph: Graph) -> Graph:
    """The same computation with other names for graph, values, symbols and layers."""
    names = {s.name: symbol(f"another_{s.name}", s.low, s.high) for s in graph.symbols().values()}

    def other(e: Any) -> Any:
        return substitute(e, names) if not isinstance(e, int) and hasattr(e, "terms") and free_symbols(e) else e

    def type_of(t: TensorType) -> TensorType:
        return t.with_shape(other(d) for d in t.shape)

    def attribute(a: Any) -> Any:
        if isinstance(a, Graph):
            return copied(a)
        return tuple(other(d) for d in a) if isinstance(a, tuple) else other(a)

    def copied(g: Graph) -> Graph:
        copy = Graph("another")
        copy.guards = [type(x)(other(x.left), other(x.right)) for x in g.guards]
        mapping = {v: copy.add_input(f"another_{v.name}", type_of(v.type)) for v in g.inputs}
        for n in g.nodes:
            new = Node(
                n.op, [mapping[v] for v in n.operands], {k: attribute(a) for k, a in n.attributes.items()},
                [type_of(v.type) for v in n.results], [copy.fresh_name(f"other_{v.name}") for v in n.results],
                tuple(f"another {o}" for o in n.origin),
            )  # fmt: skip
            copy.insert(new)
            mapping.update(zip(n.results, new.results, strict=True))
        copy.set_outputs(mapping[v] for v in g.outputs)
        return copy

    return copied(graph)


def test_names_and_origins_change_no_kernel_key(model: Any) -> None:
    graph = model.build(0)
    first, second = graphc.compile(graph, cache=False), graphc.compile(renamed(graph), cache=False)
    assert kernel_keys(first) == kernel_keys(second)
    assert {o for k in first.kernels for o in k.origin} != {o for k in second.kernels for o in k.origin}
    inputs = model.inputs(model.sizes[-1])
    for a, b in zip(_tuple(first(*inputs)), _tuple(second(*inputs)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_program_from_the_cache_names_the_layers_of_the_model_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    text = 'graph @g(%x: f32[3]) {{\n  %y: f32[3] = exp(%x) from "{}"\n  return %y\n}}\n'
    for layer in ("first", "second", "first"):
        executable = graphc.compile(graphc.parse_graph(text.format(layer)))
        assert [k.origin for k in executable.kernels] == [(layer,)]
    assert executable.report.cached


def _tuple(outputs: Any) -> tuple[np.ndarray, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
