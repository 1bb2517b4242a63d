"""PyTorch models as graphc graphs: torch.nn.Module and torch.export.ExportedProgram, for inference and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc.ir.graph import Graph
from graphc.training.trainable import Trainable
from graphc_torch.convert import convert
from graphc_torch.export import exported_program
from graphc_torch.training import import_training

__all__ = ["FRONTEND", "TorchFrontend", "import_model", "import_training"]


def import_model(
    model: Any,
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
) -> Graph:
    """The graph of an nn.Module or an ExportedProgram; parameters become constants over the same memory.

    example_inputs: what a module is called with, by position or (a mapping) by name; their values don't matter.
    dynamic: {"x": {0: graphc.Dim("batch", 1, 64)}} by the names of forward's parameters; torch.export.Dim works too. For
    an ExportedProgram it names dims that were exported as dynamic. Raises UnsupportedOpError for all nodes at once that
    can't be taken, ModelError where torch.export can't take the model or the model changes its buffers or inputs.
    """
    return convert(exported_program(model, example_inputs, dynamic), dynamic)


class TorchFrontend:
    """The plugin: takes objects whose class comes from the package torch."""

    def import_model(
        self,
        model: Any,
        *,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    ) -> Graph:
        """See `graphc_torch.import_model`."""
        return import_model(model, example_inputs=example_inputs, dynamic=dynamic)

    def import_training(
        self,
        model: Any,
        *,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    ) -> Trainable:
        """See `graphc_torch.import_training`."""
        return import_training(model, example_inputs=example_inputs, dynamic=dynamic)


FRONTEND = TorchFrontend()
