"""Exported programs as graphs: parameters and inputs, then node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from graphc.errors import ModelError, Unsupported, UnsupportedOpError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc_torch.nodes import NodeImporter
from graphc_torch.refused import Refused
from graphc_torch.symbols import Symbols
from graphc_torch.tensors import Memory, dtype_of

_PARAMETERS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def convert(
    program: ExportedProgram,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    contents: Mapping[Memory, np.ndarray] | None = None,
) -> Graph:
    """The graph of a functional program; `dynamic` names its dynamic dims; `contents`: see `NodeImporter`.

    Raises UnsupportedOpError for all nodes at once that it can't take, ModelError for a program that changes its
    buffers or inputs.
    """
    return Importer(program, dynamic or {}, contents or {}).run()


class Importer(NodeImporter):
    """A program on its way to a graph."""

    def __init__(
        self,
        program: ExportedProgram,
        dynamic: Mapping[str, Mapping[int, Any]],
        contents: Mapping[Memory, np.ndarray],
    ) -> None:
        super().__init__(program.graph_module, Graph("main"), Symbols(program.range_constraints), contents, [])
        self.program = program
        self.dynamic = dynamic

    def run(self) -> Graph:
        self.check_mutations()
        placeholders = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        specs = dict(zip(placeholders, self.program.graph_signature.input_specs, strict=True))
        self.check_names(specs)
        # What a run is called with comes first, whatever order torch has.
        for node, spec in sorted(specs.items(), key=lambda item: item[1].kind is not InputKind.USER_INPUT):
            self.attempt(node, lambda node=node, spec=spec: self.placeholder(node, spec))
        self.sizes(placeholders)
        self.nodes()
        outputs = self.named([*self.outputs(), *self.updates()]) if not self.unsupported else []
        if self.unsupported:
            raise UnsupportedOpError("graphc_torch", self.unsupported)
        self.graph.set_outputs(outputs)
        self.drop_unused()
        return self.graph

    # What a graph begins and ends with

    def check_names(self, specs: Mapping[fx.Node, InputSpec]) -> None:
        names = [s.arg.name for s in specs.values() if s.kind is InputKind.USER_INPUT]
        unknown = sorted(set(self.dynamic) - set(names))
        if unknown:
            raise ModelError("dynamic= names no input", seen=", ".join(unknown), expected=", ".join(names))

    def placeholder(self, node: fx.Node, spec: InputSpec) -> None:
        if spec.kind in _PARAMETERS:
            if node.users:
                self.items[node] = self.parameter(spec, self.tensor(spec))
            return
        if spec.kind is not InputKind.USER_INPUT:
            raise Refused(f"an input of kind {spec.kind.name.lower()} isn't supported")
        if isinstance(spec.arg, ConstantArgument):
            return
        tensor = node.meta["val"]
        if not isinstance(tensor, torch.Tensor):
            raise Refused(f"an input that is {type(tensor).__name__} isn't supported: make it a tensor")
        self.symbols.define(tensor.shape, spec.arg.name, self.dynamic.get(spec.arg.name, {}))
        shape = self.symbols.shape(tensor.shape)
        self.items[node] = self.graph.add_input(spec.arg.name, TensorType(dtype_of(tensor.dtype), shape))

    def sizes(self, placeholders: list[fx.Node]) -> None:
        """Takes over what torch assumed of the sizes of inputs."""
        tensors = [n.meta["val"] for n in placeholders if self.items.get(n) and isinstance(n.meta["val"], torch.Tensor)]
        try:
            self.assume(self.symbols.assumptions(d for t in tensors for d in t.shape))
        except Refused as e:
            self.unsupported.append(Unsupported("condition", "sizes of inputs", e.reason))

    def tensor(self, spec: InputSpec) -> Any:
        """What the program holds for a parameter or buffer."""
        target, program = spec.target or spec.arg.name, self.program
        return program.constants[target] if target in program.constants else program.state_dict[target]

    def parameter(self, spec: InputSpec, tensor: Any) -> Value:
        """The constant of a parameter or buffer; one for all names of the same memory."""
        return self.constant(tensor, spec.target or spec.arg.name)

    def outputs(self) -> list[tuple[str, Value]]:
        """What the model returns, by name."""
        (output,) = (n for n in self.program.graph.nodes if n.op == "output")
        specs = self.program.graph_signature.output_specs
        names = _output_names(self.program)
        returned: list[tuple[str, Value]] = []
        users = [(n, s) for n, s in zip(output.args[0], specs, strict=True) if s.kind is OutputKind.USER_OUTPUT]
        for name, (node, spec) in zip(names, users, strict=True):
            if isinstance(spec.arg, ConstantArgument) and spec.arg.value is None:
                continue  # None says that there is no such output
            found = self.items.get(node) if isinstance(node, fx.Node) else None
            if not isinstance(spec.arg, TensorArgument) or not isinstance(found, Value):
                reason = "an output that is no tensor isn't supported"
                self.unsupported.append(Unsupported("output", name, reason))
                continue
            returned.append((name, found))
        if not returned and not self.unsupported:
            raise ModelError("the model returns no tensor")
        return returned

    def updates(self) -> list[tuple[str, Value]]:
        """What else the graph returns, by name: nothing for inference."""
        return []

    def check_mutations(self) -> None:
        """Raises ModelError for a program that writes what outlives a call."""
        for spec in self.program.graph_signature.output_specs:
            if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
                raise ModelError(
                    "the model writes one of its buffers, and an inference program keeps no state", layer=spec.target,
                    hint="call .eval() on the module, or return the new contents as an output",
                )  # fmt: skip
        self.check_inputs_stay()

    def check_inputs_stay(self) -> None:
        """Raises ModelError for a program that writes what it is called with."""
        for spec in self.program.graph_signature.output_specs:
            if spec.kind is OutputKind.USER_INPUT_MUTATION:
                raise ModelError(
                    "the model writes one of its inputs", layer=f"input {spec.target!r}",
                    hint="let it work on a copy, or return the new contents as an output",
                )  # fmt: skip

    def named(self, returned: Sequence[tuple[str, Value]]) -> list[Value]:
        """The outputs under their own names; each is a value of its own."""
        b = Builder(self.graph)
        values: list[Value] = []
        for _, value in returned:
            own = value.producer is not None and value.producer.op.name != "constant" and value not in values
            values.append(value if own else b.op("reshape", value, shape=value.type.shape))
        for (name, _), value in zip(returned, values, strict=True):
            holder = next((v for v in self.graph.values() if v.name == name and v not in values), None)
            if holder is not None and holder.producer is not None:
                self.graph.rename(holder, f"{name}_inner")
            self.graph.rename(value, name)
        return values


def _output_names(program: ExportedProgram) -> list[str]:
    """A name for each output: its key in what forward returns, else "output", numbered where there are several."""
    spec = program.call_spec.out_spec
    count = spec.num_leaves
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(count)), spec))
    names = []
    for i, (path, _) in enumerate(paths):
        parts = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", "")))) for k in path]
        keyed = any(not isinstance(k, pytree.SequenceKey) for k in path)
        names.append("_".join(parts) if keyed else ("output" if count == 1 else f"output_{i}"))
    return names
