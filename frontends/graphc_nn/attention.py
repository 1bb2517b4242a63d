"""Attention, transformer layers, and positions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from graphc.errors import GraphcError, ShapeError
from graphc_nn.activations import gelu
from graphc_nn.initializers import xavier
from graphc_nn.linear import Dropout, Linear
from graphc_nn.module import Module
from graphc_nn.normalization import LayerNorm
from graphc_nn.tensor import Tensor, concat, spread


class MultiHeadAttention(Module):
    """Attention of `heads` heads: queries (N, s, size), keys and values (N, t, size) to (N, s, size).

    `causal` hides later keys; `rotary` turns queries and keys by their positions. A mask, which broadcasts to
    (N, heads, s, t), says which keys are seen (bool), or is added to the scores. Source: Vaswani et al., 2017.
    """

    def __init__(self, size: int, heads: int, *, causal: bool = False, rotary: bool = False) -> None:
        if heads < 1 or size % heads:
            raise GraphcError("heads must divide the size", seen=f"{heads} of {size}")
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.query, self.key = Linear(size, size, weight=xavier()), Linear(size, size, weight=xavier())
        self.value, self.out = Linear(size, size, weight=xavier()), Linear(size, size, weight=xavier())

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if x.rank != 3:
            raise ShapeError("attention takes (N, length, size)", seen=x.value.type)
        memory = x if memory is None else memory
        if memory.rank != 3:
            raise ShapeError("attention takes a memory (N, length, size)", seen=memory.value.type)
        q, k, v = self._split(self.query(x)), self._split(self.key(memory)), self._split(self.value(memory))
        if self.rotary:
            q, k = rotary(q), rotary(k)
        depth = q.shape[3]
        assert isinstance(depth, int)
        scores = (*q.shape[:3], k.shape[2])
        masks = () if mask is None else (spread(mask, scores),)
        made = q.op("attention", k, v, *masks, scale=1 / math.sqrt(depth), causal=self.causal).transpose(0, 2, 1, 3)
        joined: Tensor = self.out(made.reshape(*x.shape))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        n, length, size = x.shape
        return x.reshape(n, length, self.heads, size // self.heads).transpose(0, 2, 1, 3)


class FeedForward(Module):
    """Two dense layers with an activation between them."""

    def __init__(self, size: int, inner: int, activation: Callable[[Tensor], Tensor] = gelu) -> None:
        self.first, self.second, self.activation = Linear(size, inner), Linear(inner, size), activation

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.second(self.activation(self.first(x)))
        return made


class TransformerEncoderLayer(Module):
    """Attention, then a feed-forward network, each behind a norm and around which the input goes: (N, length, size)."""

    def __init__(
        self, size: int, heads: int, inner: int | None = None, dropout: float = 0.0, *, causal: bool = False,
        rotary: bool = False,
    ) -> None:  # fmt: skip
        self.attention = MultiHeadAttention(size, heads, causal=causal, rotary=rotary)
        self.feed_forward = FeedForward(size, inner or 4 * size)
        self.norm1, self.norm2, self.dropout = LayerNorm(size), LayerNorm(size), Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), mask=mask))
        after: Tensor = x + self.dropout(self.feed_forward(self.norm2(x)))
        return after


class TransformerDecoderLayer(Module):
    """Causal attention, attention to an encoder's `memory`, and a feed-forward network, as in the encoder's layer."""

    def __init__(self, size: int, heads: int, inner: int | None = None, dropout: float = 0.0) -> None:
        self.attention, self.cross = MultiHeadAttention(size, heads, causal=True), MultiHeadAttention(size, heads)
        self.feed_forward = FeedForward(size, inner or 4 * size)
        self.norm1, self.norm2, self.norm3 = LayerNorm(size), LayerNorm(size), LayerNorm(size)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mask is of the memory's keys."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        x = x + self.dropout(self.cross(self.norm2(x), memory, mask))
        after: Tensor = x + self.dropout(self.feed_forward(self.norm3(x)))
        return after


class SinusoidalPositions(Module):
    """Adds sines and cosines of the position to (N, length, size), up to a length. Source: Vaswani et al., 2017."""

    def __init__(self, size: int, longest: int = 2048) -> None:
        if size % 2:
            raise GraphcError("sinusoidal positions need an even size", seen=size)
        angles = np.arange(longest)[:, None] / 10000 ** (np.arange(0, size, 2) / size)
        self.table = np.stack([np.sin(angles), np.cos(angles)], 2).reshape(longest, size)

    def forward(self, x: Tensor) -> Tensor:
        if x.rank != 3 or x.shape[2] != self.table.shape[1]:
            raise ShapeError(
                "positions are added to (N, length, size)", seen=x.value.type, expected=self.table.shape[1]
            )
        length = x.shape[1]
        if isinstance(length, int) and length > len(self.table):
            raise ShapeError("the sequence is longer than the positions", seen=length, expected=len(self.table))
        return x + x.constant(self.table.astype(x.dtype.numpy)).part(0, 0, length)


def rotary(x: Tensor, base: float = 10000.0) -> Tensor:
    """(N, heads, length, depth) with each pair of halves turned by the position. Source: Su et al., 2021."""
    if x.rank != 4:
        raise ShapeError("rotary positions are of (N, heads, length, depth)", seen=x.value.type)
    depth, length = x.shape[3], x.shape[2]
    if not isinstance(depth, int) or depth % 2:
        raise ShapeError("rotary positions need an even depth", seen=depth)
    builder = x.trace.builder
    places = Tensor(x.trace, builder.op("iota", dtype=x.dtype, shape=(length, depth // 2), axis=0))
    speeds = x.constant((base ** (-np.arange(0, depth, 2) / depth)).astype(x.dtype.numpy))
    angles = places * speeds
    cosine, sine = angles.op("cos"), angles.op("sin")
    first, second = x.part(3, 0, depth // 2), x.part(3, depth // 2, depth)
    return concat([first * cosine - second * sine, second * cosine + first * sine], 3)
