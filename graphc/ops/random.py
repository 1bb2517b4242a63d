"""Random numbers from a counter: element i is a function of key, stream and i, whatever computes it and in what order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, NotDifferentiable, OpDef, Sample
from graphc.ir.symbolic import Dim, product
from graphc.ir.types import DType, TensorType, i64

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF

MANTISSA = {"f16": 11, "bf16": 8, "f32": 24, "f64": 32}
"""How many random bits a uniform number has: all multiples of that power of two are exact."""


def philox(counter: Sequence[npt.ArrayLike], key: Sequence[npt.ArrayLike]) -> list[np.ndarray]:
    """Philox4x32-10: four words from a counter of four and a key of two, integers below 2^32.

    Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c, k = [np.asarray(w, np.uint64) for w in counter], [np.asarray(w, np.uint64) for w in key]
    word, half = np.uint64(WORD), np.uint64(32)
    for r in range(ROUNDS):
        if r:
            k = [(w + np.uint64(step)) & word for w, step in zip(k, WEYL, strict=True)]
        first, second = (np.uint64(m) * w for m, w in zip(MULTIPLIERS, (c[0], c[2]), strict=True))
        c = [(second >> half) ^ c[1] ^ k[0], second & word, (first >> half) ^ c[3] ^ k[1], first & word]
    return c


def _infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    (key,) = types
    if key.dtype != i64 or key.rank != 1:
        raise ShapeError("a key is two integers", seen=key, expected="i64[2]")
    inference.equal(key.shape[0], 2, "the length of the key")
    if not 0 <= a["stream"] <= WORD:
        raise ShapeError("stream out of range", seen=a["stream"], expected="0 <= stream < 2^32")
    return (TensorType(i64, a["shape"]),)


def _reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    seed, step = operands[0].astype(np.uint64)
    word, half = np.uint64(WORD), np.uint64(32)
    index = np.arange(int(np.prod(a["shape"], dtype=np.int64)), dtype=np.uint64) & word
    counter = (index, np.uint64(a["stream"]), step & word, step >> half)
    bits = philox(counter, (seed & word, seed >> half))[0]
    return (bits.reshape(a["shape"]).astype(np.int64),)


def _decompose(b: Builder, node: Node) -> Sequence[Value]:
    """The rounds in i64, which every backend has; what depends on the key alone has rank 0."""
    shape = node["shape"]

    def number(value: int, like: Value) -> Value:
        return b.full_like(value, like)

    def low(x: Value) -> Value:
        return b.op("bitwise_and", x, number(WORD, x))

    def high(x: Value) -> Value:
        return low(b.op("shift_right", x, number(32, x)))

    def mixed(product: Value, word: Value, key: Value) -> Value:
        return b.op("bitwise_xor", b.op("bitwise_xor", high(product), word), b.broadcast(key, shape, ()))

    def key_word(i: int) -> Value:
        return b.reshape(b.op("slice", node.operands[0], starts=(i,), limits=(i + 1,), strides=(1,)), ())

    seed, step = key_word(0), key_word(1)
    size = product(shape)
    index = b.reshape(low(b.op("iota", dtype=i64, shape=(size,), axis=0)), shape)
    c = [index, number(node["stream"], index), b.broadcast(low(step), shape, ()), b.broadcast(high(step), shape, ())]
    k = [low(seed), high(seed)]
    for r in range(ROUNDS):
        if r:
            k = [low(b.op("add", w, number(step, w))) for w, step in zip(k, WEYL, strict=True)]
        first = b.op("mul", c[0], number(MULTIPLIERS[0], c[0]))
        second = b.op("mul", c[2], number(MULTIPLIERS[1], c[2]))
        if r == ROUNDS - 1:  # only the first word is asked for
            return (mixed(second, c[1], k[0]),)
        c = [mixed(second, c[1], k[0]), low(second), mixed(first, c[3], k[1]), low(first)]
    raise AssertionError("Philox has rounds")


def _samples() -> Iterable[Sample]:
    for key in ((0, 0), (1234, 5), (-1, -1), (2**40 + 17, 3 * 2**33)):
        yield Sample((np.array(key, np.int64),), {"shape": (3, 5), "stream": 2})
    for shape in ((), (0, 2), (70,), (2, 1, 3, 2)):
        yield Sample((np.array([7, 8], np.int64),), {"shape": shape, "stream": WORD})


OPERATORS = (
    OpDef(
        name="random_bits",
        operands=("key",),
        attributes={"shape": Attribute("dims"), "stream": Attribute("int", 0)},
        infer=_infer,
        reference=_reference,
        vjp=NotDifferentiable("it computes on integers"),
        decompose=_decompose,
        samples=_samples,
        dtypes=("i64",),
        doc="""Random integers in [0, 2^32): the first word of Philox4x32-10.

        The key i64[2] is (seed, step). Philox's key is the seed's low and high half; its counter is the element's row-major
        index (modulo 2^32), `stream`, and the step's low and high half. Each use of randomness in a model has a stream of
        its own; another step gives other numbers everywhere. Source: Salmon et al., SC 2011; Random123.""",
    ),
)


# What models draw.


def uniform(b: Builder, key: Value, shape: Sequence[Dim], dtype: DType, stream: int) -> Value:
    """Uniform numbers in [0, 1), all multiples of 2^-24 in f32 (2^-11 in f16, 2^-8 in bf16, 2^-32 in f64)."""
    mantissa = MANTISSA[dtype.name]
    bits = b.op("random_bits", key, shape=tuple(shape), stream=stream)
    if mantissa < 32:
        bits = b.op("shift_right", bits, b.full_like(32 - mantissa, bits))
    numbers = b.cast(bits, dtype)
    return b.op("mul", numbers, b.full_like(2.0**-mantissa, numbers))


def normal(b: Builder, key: Value, shape: Sequence[Dim], dtype: DType, stream: int) -> Value:
    """Normally distributed numbers of mean 0 and variance 1, by Box and Muller's transform of two uniform ones."""
    if dtype.bytes < 4:
        raise ValueError(f"draw in f32 and cast to {dtype}")
    shape = tuple(shape)
    both = uniform(b, key, (2, *shape), dtype, stream)

    def half(i: int) -> Value:
        limits = (i + 1, *shape)
        part = b.op("slice", both, starts=(i,) + (0,) * len(shape), limits=limits, strides=(1,) * len(limits))
        return b.reshape(part, shape)

    u, v = half(0), half(1)
    logarithm = b.op("log", b.op("sub", b.full_like(1, u), u))
    radius = b.op("sqrt", b.op("mul", b.full_like(-2, u), logarithm))
    return b.op("mul", radius, b.op("cos", b.op("mul", v, b.full_like(2 * np.pi, v))))


def dropout(b: Builder, x: Value, key: Value, rate: float, stream: int) -> Value:
    """x / (1 - rate) with probability 1 - rate (to 2^-32), else 0; x itself at rate 0. `rate` is in [0, 1].

    Its gradient draws the same bits again, which costs arithmetic but keeps no mask in memory.
    """
    if not 0 <= rate <= 1:
        raise ShapeError("a dropout rate is a probability", seen=rate, expected="0 <= rate <= 1")
    threshold = round(rate * 2**32)
    if threshold == 0:
        return x
    zeros = b.full_like(0, x)
    if threshold == 2**32:
        return zeros
    bits = b.op("random_bits", key, shape=x.type.shape, stream=stream)
    kept = b.op("ge", bits, b.full_like(threshold, bits))
    return b.op("select", kept, b.op("mul", x, b.full_like(1 / (1 - rate), x)), zeros)
