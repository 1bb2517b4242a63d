"""Graphs written in other formats."""

from __future__ import annotations

import os
from typing import Protocol, cast

from graphc import plugins
from graphc.errors import GraphcError
from graphc.executable import Executable
from graphc.ir.graph import Graph
from graphc.ir.verifier import verify


class _Exporting(Protocol):
    """What the ONNX frontend offers besides import."""

    def export_file(self, graph: Graph, path: str | os.PathLike[str]) -> None: ...


def export_onnx(model: Graph | Executable, path: str | os.PathLike[str]) -> None:
    """Writes a graph, or that of an executable, as an ONNX model of opset 23.

    Inputs, outputs, dynamic dims and weights keep their names; more than 2 GB of weights go to `<path>.data`. Needs the
    frontend `onnx`. Raises UnsupportedOpError for all nodes at once that ONNX can't express.
    """
    if not isinstance(model, Graph | Executable):
        raise GraphcError(
            "only graphs and executables can be exported", seen=type(model).__name__,
            hint="of a TrainingStep, export step.inference(); of a model, graphc.import_model(model)",
        )  # fmt: skip
    graph = model.graph if isinstance(model, Executable) else model
    verify(graph)
    cast(_Exporting, plugins.find(plugins.FRONTENDS, "onnx")).export_file(graph, path)
