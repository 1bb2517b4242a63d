"""PyTorch models to train: parameters are inputs, and so is what a forward pass writes, whose new contents are outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind

from graphc.errors import GraphcError, ModelError
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.ir.verifier import verify
from graphc.training.trainable import Arrays, Trainable
from graphc_torch.convert import Importer, convert
from graphc_torch.export import exported_program
from graphc_torch.randomness import Randomness
from graphc_torch.tensors import Memory, dtype_of, same_memory, tensor_data, torch_tensor


def import_training(
    model: Any,
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
) -> Trainable:
    """The training form of an nn.Module in the mode that it is in, or of an ExportedProgram as it is.

    Parameters have torch's names, tied ones that of the first. Those that don't require a gradient, and buffers that
    forward doesn't write, are constants; those that forward doesn't read are left out. Buffers that it writes are the
    state. Draws of random numbers come from the key: the distributions are torch's, the bits graphc's. Raises as
    `import_model` does.
    """
    program = exported_program(model, example_inputs, dynamic, training=True)
    importer = _TrainingImporter(program, dynamic, model)
    graph = importer.run()
    held = {name: tensor for name, (tensor, _) in (importer.learned | importer.state).items()}

    def inference(values: Arrays) -> Graph:
        _check_values(values, held)
        contents: dict[Memory, np.ndarray] = {same_memory(t): values[name] for name, t in held.items()}
        if isinstance(model, ExportedProgram):
            if importer.state or importer.randomness.key is not None:
                raise ModelError(
                    "a program exported in training mode has no form for inference",
                    hint="train the module that it was exported from",
                )
            found = convert(program, dynamic, contents)
        else:
            with _evaluating(model):
                found = convert(exported_program(model, example_inputs, dynamic), dynamic, contents)
        verify(found)
        return found

    def write_back(values: Arrays) -> None:
        _check_values(values, held)
        if isinstance(model, ExportedProgram):
            targets = held
        else:
            targets = dict(model.named_parameters(remove_duplicate=False)) | dict(
                model.named_buffers(remove_duplicate=False)
            )
        with torch.no_grad():
            for name in held:
                targets[name].copy_(torch_tensor(values[name]))

    return Trainable(
        graph,
        importer.data,
        {name: _initial(t) for name, (t, _) in importer.learned.items()},
        {name: _initial(t) for name, (t, _) in importer.state.items()},
        importer.randomness.key is not None,
        inference,
        write_back,
    )


class _TrainingImporter(Importer):
    """Parameters and written buffers, by torch's names, as inputs after the data; new contents of the latter as outputs."""

    randomness: Randomness

    def __init__(
        self,
        program: ExportedProgram,
        dynamic: Mapping[str, Mapping[int, Any]] | None,
        model: torch.nn.Module | ExportedProgram,
    ) -> None:
        super().__init__(program, dynamic or {}, {})
        self.randomness = Randomness(self.graph)
        self.learned: dict[str, tuple[torch.Tensor, Value]] = {}
        self.state: dict[str, tuple[torch.Tensor, Value]] = {}
        self.data = 0
        # Of tied parameters, export may name another than torch does.
        self.names: dict[Memory, str] = {}
        for name, tensor in model.named_parameters():
            self.names.setdefault(same_memory(tensor), name)
        specs = program.graph_signature.output_specs
        self.written = {s.target: s.arg.name for s in specs if s.kind is OutputKind.BUFFER_MUTATION}

    def run(self) -> Graph:
        graph = super().run()
        for name, (_, value) in list(self.learned.items()):
            if not value.uses:
                graph.remove_input(value)
                del self.learned[name]
        key = self.randomness.key
        if key is not None and not key.uses:
            graph.remove_input(key)
            self.randomness.key = None
        return graph

    def check_mutations(self) -> None:
        for spec in self.program.graph_signature.output_specs:
            if spec.kind is OutputKind.PARAMETER_MUTATION:
                raise ModelError(
                    "forward writes one of its parameters",
                    layer=spec.target,
                    hint="register what it writes as a buffer",
                )
        self.check_inputs_stay()

    def placeholder(self, node: fx.Node, spec: InputSpec) -> None:
        if spec.target is not None and spec.target in self.written:
            self.items[node] = self.held(self.state, spec.target, self.tensor(spec))
            return
        super().placeholder(node, spec)
        if spec.kind is InputKind.USER_INPUT:
            self.data = len(self.graph.inputs)

    def parameter(self, spec: InputSpec, tensor: Any) -> Value:
        if spec.kind is not InputKind.PARAMETER or not tensor.requires_grad or spec.target is None:
            return super().parameter(spec, tensor)
        key = same_memory(tensor)
        if key not in self.constants:
            self.constants[key] = self.held(self.learned, self.names.get(key, spec.target), tensor)
        return self.constants[key]

    def held(self, kind: dict[str, tuple[torch.Tensor, Value]], name: str, tensor: torch.Tensor) -> Value:
        """An input for a tensor of the module."""
        value = self.graph.add_input(name, TensorType(dtype_of(tensor.dtype), tuple(tensor.shape)))
        kind[name] = (tensor, value)
        return value

    def updates(self) -> list[tuple[str, Value]]:
        by_name = {node.name: item for node, item in self.items.items()}
        found = [(f"{name}.new", by_name[self.written[name]]) for name in self.state]
        return [(name, item) for name, item in found if isinstance(item, Value)]


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """The module in evaluation mode; each part's own mode comes back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _initial(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor's contents."""
    return np.array(tensor_data(tensor).array)


def _check_values(values: Arrays, held: Mapping[str, torch.Tensor]) -> None:
    """Raises GraphcError unless there is an array of the right type for each tensor of the model."""
    for name, tensor in held.items():
        expected = TensorType(dtype_of(tensor.dtype), tuple(tensor.shape))
        found = values.get(name)
        if found is None:
            raise GraphcError("values lack an entry", layer=name, expected=expected)
        if found.shape != expected.shape or found.dtype != expected.dtype.numpy:
            raise GraphcError("a value is of another type", layer=name, seen=f"{found.dtype}{list(found.shape)}",
                              expected=expected)  # fmt: skip
