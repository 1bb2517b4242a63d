"""ONNX models as graphc graphs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphc.ir.graph import Graph
from graphc.training.trainable import Trainable
from graphc_onnx.convert import convert
from graphc_onnx.export import export_file, export_model
from graphc_onnx.reading import read_model
from graphc_onnx.symbols import Symbols
from graphc_onnx.training import import_training

if TYPE_CHECKING:
    from graphc_onnx.onnx_backend import OnnxBackend

__all__ = ["FRONTEND", "OnnxBackend", "OnnxFrontend", "export_file", "export_model", "import_model", "import_training"]


def import_model(
    model: Any,
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
) -> Graph:
    """The graph of an ONNX model: a path, the bytes of a file, or a ModelProto.

    dim_params become symbols; `dynamic` replaces dims: {"input": {0: graphc.Dim("batch", 1, 64)}}. ONNX says all that
    `example_inputs` could. Raises UnsupportedOpError for all nodes at once that can't be taken, ModelError for a model
    that is damaged or breaks ONNX's rules.
    """
    return convert(read_model(model), Symbols(dynamic))


class OnnxFrontend:
    """The plugin: takes paths of .onnx files and objects of the onnx package."""

    def import_model(
        self,
        model: Any,
        *,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    ) -> Graph:
        """See `graphc_onnx.import_model`."""
        return import_model(model, example_inputs=example_inputs, dynamic=dynamic)

    def import_training(
        self,
        model: Any,
        *,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    ) -> Trainable:
        """See `graphc_onnx.import_training`; ONNX says all that `example_inputs` could."""
        return import_training(model, dynamic=dynamic)

    def export_file(self, graph: Graph, path: str | os.PathLike[str]) -> None:
        """See `graphc_onnx.export_file`."""
        export_file(graph, path)


FRONTEND = OnnxFrontend()


def __getattr__(name: str) -> Any:
    # onnx.backend takes time to import, and only ONNX's own test suite needs it.
    if name == "OnnxBackend":
        from graphc_onnx.onnx_backend import OnnxBackend

        return OnnxBackend
    raise AttributeError(name)
