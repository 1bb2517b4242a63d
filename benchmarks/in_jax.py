"""A graph as a JAX function, so that XLA can compile the very computation that graphc does.

Only what the suite's models consist of is translated: the primitives below, in static shapes. JAX keeps its own formats'
conventions; no layout is chosen for it, since XLA chooses its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.graph import Graph, Node
from graphc.lowering.prepare import split_prepare
from graphc.pipeline import PassContext, PassManager, resolve_passes

Operands = Sequence[Any]
Attributes = Mapping[str, Any]
PRIMITIVES = (
    *("canonicalize", "fold-constants", "fold-batch-norm", "decompose", "channels-last"),
    *("canonicalize", "fold-constants", "cse", "dce"),
)
"""The passes before: XLA gets batch norms folded, and composites as primitives, as graphc's own lowering does."""


def jax_function(graph: Graph) -> tuple[Callable[..., list[Any]], list[Any]]:
    """A function of (weights, *inputs), and the weights; the graph is changed. Raises UnsupportedOpError.

    What depends on weights alone is computed here, as graphc does at load.
    """
    PassManager(resolve_passes(PRIMITIVES)).run(graph, PassContext())
    prepare, main, constants = split_prepare(graph)
    unknown = [n for n in main.nodes if n.op.name not in ("constant", "scan", *RULES)]
    unknown += [n for n in main.nodes if n.op.name in RULES and any(v.uses for v in n.results[1:])]
    if unknown:
        reasons = [Unsupported(n.op.name, ", ".join(n.origin), "it isn't translated to JAX") for n in unknown]
        raise UnsupportedOpError("the translation to JAX", reasons)
    weights = [jnp.asarray(w) for w in interpret(prepare, [c.array for c in constants])]
    return lambda weights, *inputs: evaluate(main, [*inputs, *weights]), weights


def evaluate(graph: Graph, inputs: Sequence[Any]) -> list[Any]:
    """The graph's outputs, traced."""
    values = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        operands = [values[v] for v in node.operands]
        if node.op.name == "constant":
            results = [node["value"].array]
        elif node.op.name == "scan":
            results = scan(operands, node)
        else:
            results = [RULES[node.op.name](operands, node.attributes)]
        values.update(zip(node.results, results, strict=False))  # a window's maximum comes without its place
    return [values[v] for v in graph.outputs]


def scan(operands: Operands, node: Node) -> list[Any]:
    body, carries, scanned = node["body"], node["carries"], node["scanned"]
    captures = operands[carries + scanned :]

    def step(carried: tuple[Any, ...], xs: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        found = evaluate(body, [*carried, *xs, *captures])
        return tuple(found[:carries]), tuple(found[carries:])

    sequences = tuple(operands[carries : carries + scanned])
    last, stacked = lax.scan(step, tuple(map(jnp.asarray, operands[:carries])), sequences, reverse=node["reverse"])
    return [*last, *stacked]


def conv(x: Operands, a: Attributes) -> Any:
    spatial = "DHW"[3 - len(a["strides"]) :]
    images = f"NC{spatial}" if a["layout"] == "channels_first" else f"N{spatial}C"
    kernels = f"OI{spatial}" if a["kernel_layout"] == "oi" else f"{spatial}IO"
    padding = list(zip(a["padding"][::2], a["padding"][1::2], strict=True))
    return lax.conv_general_dilated(
        x[0], x[1], a["strides"], padding, rhs_dilation=a["dilation"], feature_group_count=a["groups"],
        dimension_numbers=(images, kernels, images),
    )  # fmt: skip


def window_max(x: Operands, a: Attributes) -> Any:
    axes, rank = a["axes"], x[0].ndim

    def along(given: Sequence[int]) -> list[int]:
        return [given[axes.index(i)] if i in axes else 1 for i in range(rank)]

    padding = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        padding[axis] = a["padding"][2 * k], a["padding"][2 * k + 1]
    return lax.reduce_window(
        x[0], -np.inf, lax.max, along(a["window"]), along(a["strides"]), padding, window_dilation=along(a["dilation"])
    )


def broadcast(x: Operands, a: Attributes) -> Any:
    return lax.broadcast_in_dim(x[0], a["shape"], a["axes"])


def dot(x: Operands, a: Attributes) -> Any:
    contracted, batch = (a["lhs_contract"], a["rhs_contract"]), (a["lhs_batch"], a["rhs_batch"])
    return lax.dot_general(x[0], x[1], (contracted, batch))


RULES: dict[str, Callable[[Operands, Attributes], Any]] = {
    "add": lambda x, a: x[0] + x[1],
    "sub": lambda x, a: x[0] - x[1],
    "mul": lambda x, a: x[0] * x[1],
    "div": lambda x, a: x[0] / x[1],
    "max": lambda x, a: jnp.maximum(x[0], x[1]),
    "min": lambda x, a: jnp.minimum(x[0], x[1]),
    "lt": lambda x, a: x[0] < x[1],
    "logical_and": lambda x, a: x[0] & x[1],
    "select": lambda x, a: jnp.where(x[0], x[1], x[2]),
    "exp": lambda x, a: jnp.exp(x[0]),
    "erf": lambda x, a: lax.erf(jnp.asarray(x[0])),
    "tanh": lambda x, a: jnp.tanh(x[0]),
    "sigmoid": lambda x, a: jax.nn.sigmoid(x[0]),
    "rsqrt": lambda x, a: lax.rsqrt(jnp.asarray(x[0])),
    "reduce_sum": lambda x, a: jnp.sum(x[0], a["axes"]),
    "reduce_max": lambda x, a: jnp.max(x[0], a["axes"]),
    "reshape": lambda x, a: jnp.reshape(x[0], a["shape"]),
    "transpose": lambda x, a: jnp.transpose(x[0], a["permutation"]),
    "concat": lambda x, a: jnp.concatenate(x, a["axis"]),
    "slice": lambda x, a: x[0][tuple(map(slice, a["starts"], a["limits"], a["strides"]))],
    "gather": lambda x, a: jnp.take(x[0], x[1], a["axis"], mode="clip"),
    "broadcast": broadcast,
    "conv": conv,
    "dot": dot,
    "window_max": window_max,
}
"""Each primitive in JAX; a dot or convolution that may accumulate wider does so anyway, since all is f32."""
