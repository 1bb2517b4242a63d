"""Random weights for models that are kept without theirs, such as the light models of the onnx package."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

# What stands between a weight and the node that says what it is for.
_VIEWS = ("Unsqueeze", "Reshape")
_JOINS = ("Sum", "Add")


def with_seeded_weights(model: ModelProto, seed: int = 0) -> ModelProto:
    """A copy of the model whose float weights are random: initializers, and ConstantOfShape nodes of stored shapes.

    Kernels are scaled as He et al. (2015) do, so that activations keep their size from layer to layer; what normalizes
    the end of a residual branch is small, so that they keep it from block to block. Each weight depends on its name and
    the seed alone.
    """
    result = ModelProto()
    result.CopyFrom(model)
    result.ir_version = max(result.ir_version, 4)  # before it, weights are inputs too
    graph = result.graph
    stored = {t.name: t for t in graph.initializer}
    users: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            users.setdefault(name, []).append((node, i))
    fills = [n for n in graph.node if n.op_type == "ConstantOfShape" and n.input[0] in stored]
    shapes = {n.output[0]: [int(d) for d in numpy_helper.to_array(stored[n.input[0]])] for n in fills}
    shapes |= {t.name: list(t.dims) for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    weights = {name: numpy_helper.from_array(_weight(name, shape, users, seed), name) for name, shape in shapes.items()}
    gone = {n.input[0] for n in fills} | set(weights)
    nodes = [n for n in graph.node if n.output[0] not in weights]
    kept = [t for t in graph.initializer if t.name not in gone]
    inputs = [i for i in graph.input if i.name not in stored]
    for field, values in ((graph.node, nodes), (graph.initializer, [*kept, *weights.values()]), (graph.input, inputs)):
        copies = list(values)
        del field[:]
        field.extend(copies)
    return result


def _weight(name: str, shape: list[int], users: dict[str, list[tuple[NodeProto, int]]], seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    node, operand = next(_uses(name, users), (None, 0))
    role = (node.op_type, operand) if node is not None else ("", 0)
    match role:
        case ("Conv", 1):
            values = rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
        case ("Gemm", 1):
            values = rng.normal(0, math.sqrt(2 / _rows(node, shape)), shape)
        case ("BatchNormalization", 1):
            values = rng.uniform(0.8, 1.2, shape) * (0.3 if _ends_branch(node, users) else 1)
        case ("BatchNormalization", 4) | ("Mul", _):
            values = rng.uniform(0.8, 1.2, shape)
        case _:
            values = rng.normal(0, 0.1, shape)
    return values.astype(np.float32)


def _uses(name: str, users: dict[str, list[tuple[NodeProto, int]]]) -> Iterator[tuple[NodeProto, int]]:
    """The nodes that read a weight, through views."""
    pending = [name]
    for _ in range(len(users) + 1):
        if not pending:
            return
        for node, operand in users.get(pending.pop(), ()):
            if node.op_type in _VIEWS:
                pending.append(node.output[0])
            else:
                yield node, operand


def _rows(node: NodeProto | None, shape: list[int]) -> int:
    """How many products a Gemm sums for one element, from the shape of its right operand."""
    transposed = node is not None and any(a.name == "transB" and a.i for a in node.attribute)
    return shape[-1] if transposed else shape[-2]


def _ends_branch(node: NodeProto | None, users: dict[str, list[tuple[NodeProto, int]]]) -> bool:
    """Whether the node's result is added to another branch."""
    return node is not None and any(u.op_type in _JOINS for u, _ in users.get(node.output[0], ()))
