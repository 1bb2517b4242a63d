"""The onnx package's light models with weights that make them worth running.

The nine `light_*.onnx` files hold whole networks whose weights are filled with one number, so that their results are
constant. Here the weights are seeded random numbers, scaled by what they are for: the logits are finite and vary.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

RESIDUAL = 0.3
"""What a residual branch is multiplied by at its end, so that sums of many branches don't grow."""


def names() -> list[str]:
    """What `light_model` takes: "resnet50", "vgg19", ..."""
    return sorted(p.stem.removeprefix("light_") for p in _folder().glob("light_*.onnx"))


def light_model(name: str, seed: int = 0, *, logits: bool = True) -> ModelProto:
    """The light model of that name with seeded random weights as initializers; same name and seed, same bits.

    With `logits`, a softmax at the end is cut off. The only input is the image, f32[1,3,224,224].
    """
    import onnx

    model = onnx.load(str(_folder() / f"light_{name}.onnx"))
    graph = model.graph
    shapes = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    rng = np.random.default_rng(seed)
    filled = {n.output[0]: shapes[n.input[0]] for n in graph.node if n.op_type == "ConstantOfShape"}
    for weight, shape in filled.items():
        values = _values(graph, weight, tuple(int(d) for d in shape), rng)
        graph.initializer.append(onnx.numpy_helper.from_array(values, weight))
    _keep(graph.node, lambda n: n.op_type != "ConstantOfShape")
    for i, node in enumerate(graph.node):  # the files number their layers; their operators and weights say more
        node.name = next((x for x in node.input if x in filled), f"{node.op_type}_{i}")
    if logits and graph.node[-1].op_type == "Softmax":
        graph.output[0].name = graph.node[-1].input[0]
        del graph.node[-1]
    read = {x for n in graph.node for x in n.input}
    _keep(graph.initializer, lambda i: i.name in read)
    constants = {i.name for i in graph.initializer}
    _keep(graph.input, lambda i: i.name in read - constants)
    model.ir_version = max(model.ir_version, 4)  # from 4 on, an initializer need not be an input too
    return model


def _folder() -> Path:
    import onnx

    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def _keep(items, wanted) -> None:  # type: ignore[no-untyped-def]  # protobuf's repeated fields have no common type
    for i in reversed(range(len(items))):
        if not wanted(items[i]):
            del items[i]


def _values(graph: GraphProto, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Random values by the role of the first node that reads the weight."""
    node, index = next(_readers(graph, name))
    match node.op_type, index:
        case (("Conv" | "Gemm"), 1):
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            fan_in = shape[0] if node.op_type == "Gemm" and not transposed else int(np.prod(shape[1:]))
            return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
        case "BatchNormalization", 1:
            gain = RESIDUAL if any(r.op_type == "Sum" for r, _ in _readers(graph, node.output[0])) else 1.0
            return _around(gain, shape, rng)
        case ("BatchNormalization", 4) | ("Mul", _):
            return _around(1.0, shape, rng)
    return rng.standard_normal(shape, np.float32) * np.float32(0.1)  # biases and means


def _around(center: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return (center * rng.uniform(0.8, 1.2, shape)).astype(np.float32)


def _readers(graph: GraphProto, name: str) -> Iterator[tuple[NodeProto, int]]:
    """The nodes that read a value, with the operand's index; through an Unsqueeze."""
    for node in graph.node:
        for i, operand in enumerate(node.input):
            if operand == name:
                if node.op_type == "Unsqueeze":
                    yield from _readers(graph, node.output[0])
                else:
                    yield node, i
