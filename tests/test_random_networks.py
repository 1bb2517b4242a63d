"""Random networks of layers, and random graphs of integers, bools and half floats, against the interpreter."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.cones import widen
from graphc.errors import GraphcError, NumericError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import symbol
from graphc.ir.types import DTYPES, FLOATS, INTEGERS, TensorType, bool_, f32, i64

MAX_ELEMENTS = 40_000


class Network:
    """Layers at random over images, of a symbolic batch for odd seeds; all that nothing reads is returned."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = Builder(Graph("network"), origin=("layer",))
        channels = int(self.rng.choice([3, 4, 8, 16, 20]))
        batch = symbol("n") if seed % 2 else self.pick(1, 3)
        self.values = [self.b.input("x", f32, (batch, channels, self.pick(4, 10), self.pick(4, 10)))]
        layers: list[Callable[[Value], Value]] = [
            self.conv, self.conv, self.depthwise, self.grouped, self.transposed_conv, self.batch_norm, self.activation,
            self.pool, self.join, self.concat, self.softmax, self.norm, self.move, self.squeeze, self.cut, self.pad, self.dense,
            self.gather, self.attention, self.scan,
        ]  # fmt: skip
        for _ in range(self.pick(2, 12)):
            x = self.one_of(self.values)
            try:
                y = self.one_of(layers)(x)
            except GraphcError:  # sizes that this layer can't take
                continue
            if np.prod([d if isinstance(d, int) else 3 for d in y.type.shape]) <= MAX_ELEMENTS:
                self.values.append(y)
        self.graph = self.b.returns(*([v for v in self.values[1:] if not v.uses] or self.values[-1:]))

    def pick(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high))

    def one_of(self, items: Sequence[Any]) -> Any:
        return items[self.pick(0, len(items))]

    def weight(self, *shape: int) -> Value:
        return self.b.constant((self.rng.standard_normal(shape) * 0.3).astype(np.float32))

    def positive(self, *shape: int) -> Value:
        return self.b.constant(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def conv(self, x: Value) -> Value:
        k, step, spread = self.one_of([1, 2, 3, 5]), self.one_of([1, 1, 2]), self.one_of([1, 1, 2])
        w = self.weight(self.one_of([1, 5, 8, 16, 33]), int(str(x.type.shape[1])), k, k)
        padding = tuple(self.pick(0, k) for _ in range(4))
        return self.b.op("conv", x, w, strides=(step, step), padding=padding, dilation=(spread, spread))

    def depthwise(self, x: Value) -> Value:
        channels = int(str(x.type.shape[1]))
        w = self.weight(channels * self.pick(1, 3), 1, 3, 3)
        return self.b.op("conv", x, w, strides=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=channels)

    def grouped(self, x: Value) -> Value:
        groups = self.one_of([2, 4, 5])
        w = self.weight(2 * groups, max(1, int(str(x.type.shape[1])) // groups), 3, 3)
        return self.b.op("conv", x, w, strides=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=groups)

    def transposed_conv(self, x: Value) -> Value:
        _, channels, height, width = x.type.shape
        w = self.weight(int(str(channels)), self.one_of([3, 8]), 3, 3)
        size = (2 * height - 1, 2 * width - 1)
        return self.b.op("conv_input_grad", x, w, strides=(2, 2), padding=(1,) * 4, dilation=(1, 1), input_size=size)

    def batch_norm(self, x: Value) -> Value:
        c = int(str(x.type.shape[1]))
        return self.b.op("batch_norm", x, self.positive(c), self.weight(c), self.weight(c), self.positive(c))

    def activation(self, x: Value) -> Value:
        return self.b.op(self.one_of(["relu", "silu", "gelu", "tanh", "sigmoid", "leaky_relu", "softplus"]), x)

    def pool(self, x: Value) -> Value:
        form = {"axes": (2, 3), "window": (2, 3), "strides": (self.pick(1, 3),) * 2, "dilation": (1, 1)}
        if self.pick(0, 2):
            return self.b.op("max_pool", x, padding=(1, 0, 1, 1), **form)
        return self.b.op("average_pool", x, padding=(1, 0, 1, 1), count_include_pad=bool(self.pick(0, 2)), **form)

    def join(self, x: Value) -> Value:
        return self.b.op(
            self.one_of(["add", "mul", "max"]), x, self.one_of([v for v in self.values if v.type == x.type])
        )

    def concat(self, x: Value) -> Value:
        shape = x.type.shape
        return self.b.op("concat", x, self.one_of([v for v in self.values if v.type.shape[2:] == shape[2:]]), axis=1)

    def softmax(self, x: Value) -> Value:
        return self.b.op(self.one_of(["softmax", "log_softmax"]), x, axis=self.pick(1, 4))

    def norm(self, x: Value) -> Value:
        if self.pick(0, 2):
            n = int(str(x.type.shape[3]))
            return self.b.op("layer_norm", x, self.positive(n), self.weight(n), axis=3, epsilon=1e-5)
        c = int(str(x.type.shape[1]))
        return self.b.op("group_norm", x, self.positive(c), self.weight(c), groups=1 + (c % 2 == 0), epsilon=1e-5)

    def move(self, x: Value) -> Value:
        if self.pick(0, 2):
            return self.b.op("reverse", x, axes=(self.pick(1, 4),))
        return self.b.op("transpose", x, permutation=(0, *(int(a) + 1 for a in self.rng.permutation(3))))

    def squeeze(self, x: Value) -> Value:
        reduced = self.b.op(self.one_of(["reduce_sum", "reduce_max"]), x, axes=(2, 3))
        return self.b.broadcast(reduced, x.type.shape, (0, 1))

    def cut(self, x: Value) -> Value:
        n, c, h, w = x.type.shape
        return self.b.op("slice", x, starts=(0, 0, 1, 0), limits=(n, c, h, w), strides=(1, 1, self.pick(1, 3), 1))

    def pad(self, x: Value) -> Value:
        return self.b.op("pad", x, self.b.scalar(0.5, f32), low=(0, 0, 1, 0), high=(0, 1, 0, 2))

    def dense(self, x: Value) -> Value:
        n, c, h, w = x.type.shape
        y = self.b.op("matmul", self.b.reshape(x, (n, c * h, w)), self.weight(int(str(w)), self.one_of([4, 7, 16, 40])))
        return self.b.reshape(y, (n, c, h, y.type.shape[2]))

    def gather(self, x: Value) -> Value:
        return self.b.op("gather", x, self.b.constant(self.rng.integers(0, int(str(x.type.shape[1])), 5)), axis=1)

    def attention(self, x: Value) -> Value:
        return self.b.op("attention", x, x, x, scale=0.2, causal=bool(self.pick(0, 2)))

    def scan(self, x: Value) -> Value:
        return self.b.op("cumsum", x, axis=self.pick(1, 4))


@pytest.mark.parametrize("seed", range(30))
def test_networks(seed: int) -> None:
    """The error against a run in double precision is a small multiple of the interpreter's, or of rounding's."""
    graph = Network(seed).graph
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(graph.inputs[0].type.concrete({"n": int(rng.integers(1, 4))})).astype(np.float32)
    numerics = "strict" if seed % 5 == 0 else "fast"
    outputs = graphc.compile(graph, threads=1 + seed % 2, numerics=numerics, cache=False)(x)  # type: ignore[arg-type]
    exact = interpret(widen(graph), [x.astype(np.float64)])
    for value, seen, reference, truth in zip(graph.outputs, _tuple(outputs), interpret(graph, [x]), exact, strict=True):
        bound = 8 * np.abs(reference - truth).max(initial=0) + 3e-5 * (1 + np.abs(truth).max(initial=0))
        error = np.abs(seen - truth).max(initial=0)
        assert error <= bound, f"%{value.name} is off by {error} > {bound}\n{graphc.print_graph(graph)}"


class Mixture:
    """Operators on integers, bools and floats of every width at random; sizes are symbolic for odd seeds."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        b = self.b = Builder(Graph("mixture"), origin=("layer",))
        shape = (symbol("n", 0), symbol("m")) if seed % 2 else (self.pick(0, 5), self.pick(1, 20))
        dtypes = [self.one_of(INTEGERS), self.one_of(INTEGERS), self.one_of(FLOATS), bool_]
        self.values = [b.input(f"x{i}", dtype, shape) for i, dtype in enumerate(dtypes)]
        for _ in range(self.pick(2, 16)):
            x = self.one_of(self.values)
            y = self.one_of([v for v in self.values if v.type == x.type])
            try:
                self.values.append(self.node(x, y, x.type))
            except GraphcError:  # operands that this operator doesn't take
                continue
        self.values = [v for v in self.values if v.type.rank > 0]
        self.graph = b.returns(*([v for v in self.values[4:] if not v.uses] or self.values[-1:]))

    def pick(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high))

    def one_of(self, items: Sequence[Any]) -> Any:
        return items[self.pick(0, len(items))]

    def node(self, x: Value, y: Value, t: TensorType) -> Value:
        b, axis = self.b, self.pick(0, t.rank)
        arithmetic = (
            ("logical_and", "logical_or", "logical_xor") if t.dtype.is_bool else ("add", "sub", "mul", "max", "min")
        )
        bits = ("bitwise_and", "bitwise_or", "bitwise_xor", "shift_left", "shift_right")
        positive = b.op("max", y, b.full_like(1, y)) if t.dtype.is_integer else y
        made: list[Callable[[], Value]] = [
            lambda: b.cast(x, self.one_of(tuple(DTYPES.values()))),
            lambda: b.op(self.one_of(arithmetic), x, y),
            lambda: b.op(self.one_of(("eq", "ne", "lt", "le", "gt", "ge")), x, y),
            lambda: b.op("select", self.values[3], x, y),
            lambda: b.op(self.one_of(bits), x, y),
            lambda: b.op(self.one_of(("div", "rem", "mod")), x, positive),
            lambda: b.op(self.one_of(("floor", "ceil", "round", "abs", "neg", "sign", "logical_not")), x),
            lambda: b.op("cumsum", x, axis=axis, exclusive=bool(self.pick(0, 2)), reverse=bool(self.pick(0, 2))),
            lambda: self.one_of(b.ops("sort", x, axis=axis, descending=bool(self.pick(0, 2)))),
            lambda: b.op(self.one_of(("argmax", "argmin")), x, axis=1),
            lambda: b.op(self.one_of(("reduce_sum", "reduce_max")), x, axes=(1,)),
            lambda: b.op("reverse", x, axes=(axis,)),
            lambda: b.op("transpose", x, permutation=tuple(int(a) for a in self.rng.permutation(t.rank))),
            lambda: b.op("concat", x, y, axis=axis),
            lambda: b.op("gather", x, b.constant(np.zeros(3, np.int64)), axis=1),
            lambda: b.op("iota", dtype=self.one_of(INTEGERS), shape=t.shape, axis=axis),
            lambda: b.op("pad", x, b.scalar(1, t.dtype), low=(1,) * t.rank, high=(0,) * t.rank),
            lambda: b.op("take_along", x, b.op("iota", dtype=i64, shape=t.shape, axis=1), axis=1),
        ]  # fmt: skip
        return self.one_of(made)()

    def inputs(self) -> list[np.ndarray]:
        dims = {"n": self.pick(0, 6), "m": self.pick(1, 40)}
        return [self.array(v.type, v.type.concrete(dims)) for v in self.graph.inputs]

    def array(self, t: TensorType, shape: tuple[int, ...]) -> np.ndarray:
        """Edges of the type more often than not."""
        if t.dtype.is_bool:
            return self.rng.random(shape) > 0.5
        if t.dtype.is_integer:
            info = np.iinfo(t.dtype.numpy)
            return self.rng.choice(np.array([info.min, info.max, 0, 1, 2, 3, 7, info.max // 3], t.dtype.numpy), shape)
        special = [0.0, -0.0, 1.5, -2.5, np.nan, np.inf, -np.inf, 1e3, -0.3, 300.7]
        return self.rng.choice(np.array(special), shape).astype(t.dtype.numpy)


TOLERANCE = {"f16": 4e-3, "bf16": 4e-2, "f32": 1e-5, "f64": 1e-12}


@pytest.mark.parametrize("seed", range(60))
def test_integers_bools_and_floats(seed: int) -> None:
    """Integers and bools are equal; floats close; NaN and infinity where they belong; what has no value raises."""
    mixture = Mixture(seed)
    graph, inputs = mixture.graph, mixture.inputs()
    executable = graphc.compile(graph, threads=1, numerics="strict" if seed % 3 else "fast", cache=False)
    try:
        expected = interpret(graph, inputs)
    except NumericError:
        with pytest.raises(NumericError):
            executable(*inputs)
        return
    for value, seen, want in zip(graph.outputs, _tuple(executable(*inputs)), expected, strict=True):
        assert seen.dtype == want.dtype
        if not value.type.dtype.is_float:
            np.testing.assert_array_equal(seen, want, f"%{value.name}\n{graphc.print_graph(graph)}")
            continue
        wide = want.astype(np.float64)
        scale = 1 + np.abs(np.where(np.isfinite(wide), wide, 0)).max(initial=0)
        tolerance = TOLERANCE[value.type.dtype.name] * scale
        np.testing.assert_allclose(seen.astype(np.float64), wide, rtol=0, atol=tolerance, err_msg=f"%{value.name}")


def _tuple(outputs: Any) -> tuple[np.ndarray, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
