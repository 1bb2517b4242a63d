"""ONNX models to train: float initializers are inputs, and so are running statistics, whose new values are outputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from onnx import GraphProto, ModelProto, TensorProto

from graphc.errors import GraphcError
from graphc.ir.graph import Graph
from graphc.ir.verifier import verify
from graphc.training.trainable import Arrays, Trainable
from graphc_onnx.convert import Importer, convert
from graphc_onnx.learned import Learned, Mode
from graphc_onnx.reading import OnnxModel, read_model
from graphc_onnx.structure import layer_name
from graphc_onnx.symbols import Symbols

_LAYERS = frozenset({
    "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
    "GroupNormalization", "RMSNormalization", "PRelu", "RNN", "GRU", "LSTM",
})  # fmt: skip
"""Operators whose operands after the first are parameters even where they have one element."""

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def import_training(model: Any, *, dynamic: Mapping[str, Mapping[int, Any]] | None = None) -> Trainable:
    """The training form of an ONNX model, also of one that was exported for inference.

    Parameters are the float initializers that nodes read as tensors, by name: those of more than one element, or of one
    where they belong to a layer. What shapes depend on, and tensors with infinities (masks), stay constants. Each
    BatchNormalization normalizes by the batch, and moves its mean and variance, which are the state, as ONNX defines for
    training; each Dropout drops, unless its training_mode is given as false. Raises as `import_model` does.
    """
    read = _unshared(read_model(model))
    importer = Importer(read)
    learned = Learned(importer.graph, _candidates(read.proto.graph))
    importer.mode = Mode(learned)
    graph = importer.run(Symbols(dynamic), {})
    data, parameters, state = learned.separate()
    names = [*parameters, *state]

    def inference(values: Arrays) -> Graph:
        missing = [name for name in names if name not in values]
        if missing:
            raise GraphcError("values lack an entry", seen=", ".join(missing[:3]))
        found = convert(read, Symbols(dynamic), trained={name: values[name] for name in names})
        verify(found)
        return found

    def write_back(_: Arrays) -> None:
        raise GraphcError(
            "an ONNX model isn't changed in place",
            hint="graphc.export_onnx(step.inference(), path) writes the trained model, step.save(path) the values",
        )

    return Trainable(graph, data, parameters, state, learned.key is not None, inference, write_back)


def _candidates(graph: GraphProto) -> set[str]:
    """The initializers that may be parameters, by their types and sizes and by who reads them."""
    of_layers = {name for node in graph.node if node.op_type in _LAYERS for name in node.input[1:]}
    return {
        t.name
        for t in graph.initializer
        if t.data_type in _FLOATS and (math.prod(t.dims) > 1 or (t.dims and t.name in of_layers))
    }


def _unshared(model: OnnxModel) -> OnnxModel:
    """The model with statistics of its own for each BatchNormalization: exporters join equal initializers."""
    reads = Counter(name for node in model.proto.graph.node for name in node.input)
    places = [
        (i, k)
        for i, node in enumerate(model.proto.graph.node)
        if node.op_type == "BatchNormalization"
        for k in (3, 4)
        if k < len(node.input) and reads[node.input[k]] > 1
    ]
    at = {t.name: i for i, t in enumerate(model.proto.graph.initializer)}
    if not any(model.proto.graph.node[i].input[k] in at for i, k in places):
        return model
    proto, stored = ModelProto(), dict(model.stored)
    proto.CopyFrom(model.proto)
    for i, k in places:
        node = proto.graph.node[i]
        name = node.input[k]
        if name in at:
            own = f"{name}.{layer_name(node)}.{('mean', 'variance')[k - 3]}"
            if at[name] in stored:
                stored[len(proto.graph.initializer)] = stored[at[name]]
            proto.graph.initializer.add().CopyFrom(proto.graph.initializer[at[name]])
            proto.graph.initializer[-1].name = own
            node.input[k] = own
    return replace(model, proto=proto, stored=MappingProxyType(stored))
