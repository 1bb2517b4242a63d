"""All passes in a row, on random graphs, each held to its claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphc import plugins
from graphc.claims import Claim
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.parser import parse_graph
from graphc.ir.symbolic import symbol
from graphc.ir.text import constants_of, print_graph
from graphc.ir.types import f32
from graphc.pipeline import PassContext, PassManager, resolve_passes
from graphc.testing.random_graphs import graphs

PASSES = [
    "canonicalize", "fold-constants", "simplify-algebra", "lift", "fold-batch-norm", "decompose", "canonicalize",
    "fold-constants", "simplify-algebra", "reassociate", "channels-last", "canonicalize", "fold-constants", "cse", "dce",
]  # fmt: skip


def test_every_pass_resolves_under_its_name() -> None:
    names = plugins.names(plugins.PASSES)
    assert set(PASSES) <= set(names)
    for name in PASSES:
        (p,) = resolve_passes([name])
        assert p.name == name
        assert isinstance(p.claim, Claim)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_random_graphs(graph: Graph) -> None:
    PassManager(resolve_passes(PASSES), verify="sample").run(graph, PassContext())
    text = print_graph(graph)
    assert print_graph(parse_graph(text, constants=constants_of(graph))) == text


def _network(rng: np.random.Generator) -> Graph:
    """Convolutions, norms, pools, branches and residuals at random, over images of a symbolic batch."""
    b = Builder(Graph("network"), origin=("layer",))
    values = [b.input("x", f32, (symbol("n"), 4, 6, 6))]

    def weight(*shape: int) -> Value:
        return b.constant(rng.standard_normal(shape).astype(np.float32))

    def convolve(x: Value) -> Value:
        groups = int(rng.choice([1, 2, 4]))
        pad = int(rng.integers(2))
        size = 3 if pad else 1
        w = weight(4, 4 // groups, size, size)
        return b.op("conv", x, w, strides=(1, 1), padding=(pad,) * 4, dilation=(1, 1), groups=groups)

    def upsample(x: Value) -> Value:
        w = weight(4, 4, 3, 3)
        return b.op("conv_input_grad", x, w, strides=(1, 1), padding=(1,) * 4, dilation=(1, 1), input_size=(6, 6))

    def norm(x: Value) -> Value:
        return b.op("batch_norm", x, weight(4), weight(4), weight(4), b.constant(rng.uniform(0.5, 2, 4).astype(np.float32)))

    def bias(x: Value) -> Value:
        return b.op("add", x, b.broadcast(weight(4), x.type.shape, (1,)))

    def pool(x: Value) -> Value:
        kind = str(rng.choice(["max_pool", "average_pool"]))
        return b.op(kind, x, axes=(2, 3), window=(3, 3), strides=(1, 1), padding=(1,) * 4, dilation=(1, 1))

    def branch(x: Value) -> Value:
        y = b.op("concat", x, values[int(rng.integers(len(values)))], axis=1)
        return b.op("slice", y, starts=(0, 2, 0, 0), limits=(symbol("n"), 6, 6, 6), strides=(1,) * 4)

    def residual(x: Value) -> Value:
        return b.op("add", x, values[int(rng.integers(len(values)))])

    def gate(x: Value) -> Value:
        mean = b.op("reduce_sum", x, axes=(2, 3))
        return b.op("mul", x, b.broadcast(b.op("sigmoid", mean), x.type.shape, (0, 1)))

    def by_channel(x: Value) -> Value:
        y = b.transpose(x, (0, 2, 3, 1))
        y = b.op("layer_norm", y, weight(4), weight(4), axis=3)
        return b.transpose(y, (0, 3, 1, 2))

    def squash(x: Value) -> Value:
        return b.op("tanh", b.op("gelu", x))

    steps = (convolve, convolve, convolve, upsample, norm, norm, bias, pool, branch, residual, gate, by_channel, squash)
    for _ in range(int(rng.integers(3, 14))):
        x = values[int(rng.integers(max(0, len(values) - 3), len(values)))]
        values.append(steps[int(rng.integers(len(steps)))](x))
    values.append(b.op("reduce_max", values[-1], axes=(2, 3)))
    ends = [v for v in values if v.producer is not None and not v.uses]
    return b.returns(*ends)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_random_networks(seed: int) -> None:
    graph = _network(np.random.default_rng(seed))
    PassManager(resolve_passes(PASSES), verify="sample").run(graph, PassContext())


@pytest.mark.parametrize("numerics", ["fast", "strict"])
def test_pipeline_is_idempotent_and_deterministic(numerics: str) -> None:
    texts = set()
    for _ in range(2):
        graph = _network(np.random.default_rng(3))
        PassManager(resolve_passes(PASSES)).run(graph, PassContext(numerics=numerics))  # type: ignore[arg-type]
        texts.add(print_graph(graph))
    assert len(texts) == 1
    PassManager(resolve_passes(["canonicalize", "cse", "dce"])).run(graph, PassContext())
    assert print_graph(graph) in texts
