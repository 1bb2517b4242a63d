"""Small models of every kind, each with a way to make its inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import symbol
from graphc.ir.types import f32, i64
from graphc.testing.random_graphs import random_inputs

BATCH, LENGTH = symbol("batch", 1, 64), symbol("length", 1)


@dataclass(frozen=True)
class Model:
    """A graph for a seed of its weights, and the sizes of its symbols to try."""

    name: str
    build: Callable[[int], Graph]
    sizes: tuple[Mapping[str, int], ...] = ({},)

    def inputs(self, dims: Mapping[str, int], seed: int = 0) -> list[np.ndarray]:
        """Normally distributed floats; integers of 1 to 9."""
        graph = self.build(0)
        rng = np.random.default_rng(seed)
        arrays = random_inputs(graph, dims, seed)
        return [
            rng.integers(1, 10, x.shape) if v.type.dtype == i64 else x
            for v, x in zip(graph.inputs, arrays, strict=True)
        ]


class Weights:
    """Constants of a model, drawn from one seed."""

    def __init__(self, b: Builder, seed: int) -> None:
        self.b = b
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> Value:
        return self.b.constant((self.rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32))

    def positive(self, *shape: int) -> Value:
        return self.b.constant(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))


def layer(b: Builder, name: str) -> Builder:
    return Builder(b.graph, origin=(name,))


def dense(b: Builder, w: Weights, x: Value, n: int) -> Value:
    y = b.op("matmul", x, w(int(str(x.type.shape[-1])), n))
    return b.op("add", y, b.broadcast(w(n), y.type.shape, (y.type.rank - 1,)))


def mlp(seed: int) -> Graph:
    b = Builder(Graph("mlp"))
    w = Weights(b, seed)
    x = b.input("x", f32, (BATCH, 20))
    h = layer(b, "fc1").op("relu", dense(layer(b, "fc1"), w, x, 33))
    return b.returns(layer(b, "out").op("softmax", dense(layer(b, "fc2"), w, h, 7), axis=1), h)


def cnn(seed: int) -> Graph:
    b = Builder(Graph("cnn"))
    w = Weights(b, seed)
    x = b.input("image", f32, (2, 3, 12, 12))

    def conv(name: str, x: Value, outputs: int, kernel: int, groups: int = 1) -> Value:
        c = layer(b, name)
        channels = int(str(x.type.shape[1]))
        y = c.op(
            "conv", x, w(outputs, channels // groups, kernel, kernel), strides=(1, 1), padding=(kernel // 2,) * 4,
            dilation=(1, 1), groups=groups,
        )  # fmt: skip
        y = layer(b, f"{name}.bn").op("batch_norm", y, w.positive(outputs), w(outputs), w(outputs), w.positive(outputs))
        return layer(b, f"{name}.relu").op("relu", y)

    h = conv("stem", x, 16, 3)
    h = layer(b, "add").op("add", h, conv("expand.depthwise", conv("expand", h, 16, 1), 16, 3, groups=16))
    h = layer(b, "pool").op(
        "max_pool", h, axes=(2, 3), window=(3, 3), strides=(2, 2), padding=(1,) * 4, dilation=(1, 1)
    )
    mean = layer(b, "mean").op("div", b.op("reduce_sum", h, axes=(2, 3)), b.full(36.0, h.type.with_shape((2, 16))))
    return b.returns(dense(layer(b, "classifier"), w, mean, 10))


def transformer(seed: int) -> Graph:
    b = Builder(Graph("transformer"))
    w = Weights(b, seed)
    tokens = b.input("tokens", i64, (BATCH, LENGTH))
    x = layer(b, "embedding").op("gather", w(10, 16), tokens, axis=0)
    a = layer(b, "attention")
    h = a.op("layer_norm", x, w.positive(16), w(16), axis=2, epsilon=1e-5)

    def heads(name: str) -> Value:
        y = dense(layer(b, name), w, h, 16)
        return a.transpose(a.reshape(y, (BATCH, LENGTH, 2, 8)), (0, 2, 1, 3))

    y = a.op("attention", heads("query"), heads("key"), heads("value"), scale=8**-0.5, causal=True)
    x = a.op("add", x, a.reshape(a.transpose(y, (0, 2, 1, 3)), (BATCH, LENGTH, 16)))
    m = layer(b, "mlp")
    h = m.op("layer_norm", x, w.positive(16), w(16), axis=2, epsilon=1e-5)
    return b.returns(m.op("add", x, dense(m, w, m.op("gelu", dense(m, w, h, 32)), 16)))


def recurrent(seed: int) -> Graph:
    b = Builder(Graph("recurrent"))
    w = Weights(b, seed)
    x = b.input("x", f32, (LENGTH, 3, 9))
    zero = b.full(0.0, x.type.with_shape((3, 8)))
    r = layer(b, "lstm")
    return b.returns(*r.ops("lstm", x, w(32, 9), w(32, 8), w(32), zero, zero))


def scanning(seed: int) -> Graph:
    """A loop whose body holds a weight of its own, and passes one of its carries through."""
    inner = Builder(Graph("step"), origin=("step",))
    h, last, x = (inner.input(name, f32, (6,)) for name in ("h", "last", "x"))
    y = inner.op("tanh", inner.op("add", inner.op("mul", h, Weights(inner, seed)(6)), x))
    body = inner.returns(y, h, inner.op("sub", y, last))
    b = Builder(Graph("scanning"))
    x = b.input("x", f32, (LENGTH, 6))
    start = Weights(b, seed + 100)(6)
    return b.returns(*layer(b, "loop").ops("scan", start, start, x, body=body, carries=2, scanned=1))


def integers(seed: int) -> Graph:
    """Division, remainders, comparisons, sorting; a constant of integers, which is part of the structure."""
    b = Builder(Graph("integers"))
    x, y = b.input("x", i64, (LENGTH, 5)), b.input("y", i64, (LENGTH, 5))
    q = layer(b, "quotient").op("div", x, y)
    r = layer(b, "remainder").op("mod", x, y)
    order = layer(b, "order").ops("sort", b.op("add", q, r), axis=1)
    picked = layer(b, "picked").op("gather", x, b.constant(np.array([4, 0, 2])), axis=1)
    return b.returns(*order, picked, b.op("lt", x, y))


SEQUENCES = ({"length": 1}, {"length": 2}, {"length": 17})
MODELS = (
    Model("mlp", mlp, ({"batch": 1}, {"batch": 7}, {"batch": 64})),
    Model("cnn", cnn),
    Model(
        "transformer", transformer, ({"batch": 1, "length": 1}, {"batch": 2, "length": 5}, {"batch": 3, "length": 33})
    ),
    Model("recurrent", recurrent, SEQUENCES),
    Model("scanning", scanning, SEQUENCES),
    Model("integers", integers, SEQUENCES),
)


@pytest.fixture(scope="session")
def models() -> tuple[Model, ...]:
    """All of the models."""
    return MODELS


@pytest.fixture(params=MODELS, ids=lambda m: m.name)
def model(request: pytest.FixtureRequest) -> Model:
    """Each of the models."""
    found: Model = request.param
    return found
