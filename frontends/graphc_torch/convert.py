"""Exported programs as graphs: parameters and inputs, then node by node."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from graphc.errors import GraphcError, ModelError, Unsupported, UnsupportedOpError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Guard, Value
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import TensorType
from graphc_torch.call import Call, Item
from graphc_torch.converters import IGNORED, REFUSED, find_converter
from graphc_torch.randomness import Randomness
from graphc_torch.refused import Refused
from graphc_torch.symbols import Symbols
from graphc_torch.tensors import Memory, dtype_of, same_memory, tensor_data

_PARAMETERS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class Unknown(Exception):
    """An operand comes from a node that was refused, so nothing can be said of this one."""


def convert(
    program: ExportedProgram,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    contents: Mapping[Memory, np.ndarray] | None = None,
) -> Graph:
    """The graph of a functional program; `dynamic` names its dynamic dims; `contents`: see `Importer`.

    Raises UnsupportedOpError for all nodes at once that it can't take, ModelError for a program that changes its
    buffers or inputs.
    """
    return Importer(program, dynamic or {}, contents or {}).run()


class Importer:
    """A program on its way to a graph.

    contents: by a tensor's place in memory, numbers that a constant has in place of the tensor's own.
    randomness: where operators that draw numbers take them from; None for inference.
    """

    randomness: Randomness | None = None

    def __init__(
        self,
        program: ExportedProgram,
        dynamic: Mapping[str, Mapping[int, Any]],
        contents: Mapping[Memory, np.ndarray],
    ) -> None:
        self.program = program
        self.dynamic = dynamic
        self.contents = contents
        self.graph = Graph("main")
        self.symbols = Symbols(program.range_constraints)
        self.items: dict[fx.Node, Item | None] = {}
        self.constants: dict[Memory, Value] = {}
        self.unsupported: list[Unsupported] = []

    def run(self) -> Graph:
        self.check_mutations()
        placeholders = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        specs = dict(zip(placeholders, self.program.graph_signature.input_specs, strict=True))
        self.check_names(specs)
        # What a run is called with comes first, whatever order torch has.
        for node, spec in sorted(specs.items(), key=lambda item: item[1].kind is not InputKind.USER_INPUT):
            self.attempt(node, lambda node=node, spec=spec: self.placeholder(node, spec))
        self.sizes(placeholders)
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.attempt(node, lambda node=node: self.call(node))
            elif node.op == "get_attr":
                self.attempt(node, lambda node=node: self.attribute(node))
        outputs = self.named([*self.outputs(), *self.updates()]) if not self.unsupported else []
        if self.unsupported:
            raise UnsupportedOpError("graphc_torch", self.unsupported)
        self.graph.set_outputs(outputs)
        self.drop_unused()
        return self.graph

    def attempt(self, node: fx.Node, step: Any) -> None:
        """Runs one step; what it refuses is kept for the end."""
        self.items[node] = None
        try:
            step()
        except Unknown:
            pass
        except Refused as e:
            self.unsupported.append(Unsupported(_operator_name(node), _layer(node), e.reason))
        except GraphcError as e:
            e.layer = e.layer or _layer(node)
            raise

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

    def assume(self, guards: list[Guard]) -> None:
        self.graph.guards += [g for g in guards if g not in self.graph.guards]

    def tensor(self, spec: InputSpec) -> Any:
        """What the program holds for a parameter or buffer."""
        target, program = spec.target or spec.arg.name, self.program
        return program.constants[target] if target in program.constants else program.state_dict[target]

    def parameter(self, spec: InputSpec, tensor: Any) -> Value:
        """The constant of a parameter or buffer; one for all names of the same memory."""
        return self.constant(tensor, spec.target or spec.arg.name)

    def constant(self, tensor: Any, name: str) -> Value:
        if not isinstance(tensor, torch.Tensor):
            raise Refused(f"a constant that is {type(tensor).__name__} isn't supported")
        key = same_memory(tensor)
        if key not in self.constants:
            b = Builder(self.graph, origin=(name,))
            data = TensorData(self.contents[key]) if key in self.contents else tensor_data(tensor)
            self.constants[key] = b.constant(data, name=name)
        return self.constants[key]

    def attribute(self, node: fx.Node) -> None:
        """A tensor that the graph holds by itself; modules that it holds belong to operators that are refused."""
        held = self.program.graph_module
        for name in str(node.target).split("."):
            held = getattr(held, name)
        if not isinstance(held, torch.nn.Module):
            self.items[node] = self.constant(held, str(node.target))

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

    def drop_unused(self) -> None:
        """Erases nodes that no output needs."""
        for node in reversed(self.graph.nodes):
            if not any(v.uses for v in node.results):
                self.graph.erase(node)

    # Nodes

    def call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            self.items[node] = self.element(node)
            return
        if not _has_tensor(node.meta.get("val")) and node.meta.get("val") is not None:
            return  # arithmetic of sizes: where one is read, its expression is taken
        if not isinstance(node.target, torch._ops.OpOverload):
            raise Refused(_reason(node))
        name = _operator_name(node)
        if name == "_assert_scalar.default":
            self.assume(self.symbols.guards(node.args[0]))
            return
        if name in IGNORED:
            return
        converter = find_converter(name)
        if converter is None:
            raise Refused(_reason(node))
        if any(self.items.get(n) is None and _has_tensor(n.meta.get("val")) for n in node.all_input_nodes):
            raise Unknown
        layer = _layer(node)
        builder = Builder(self.graph, origin=(layer,))
        call = Call(node, layer, builder, self.items, self.symbols, self.randomness)
        results = converter(call)
        self.items[node] = results if isinstance(results, Value) else tuple(results)
        self.check(node, results if isinstance(results, Value) else tuple(results))

    def element(self, node: fx.Node) -> Item | None:
        source, index = node.args
        found = self.items.get(source)  # type: ignore[arg-type]
        if found is None:
            raise Unknown
        assert isinstance(found, tuple) and isinstance(index, int)
        if found[index] is None:
            raise Refused(f"result {index} of {_operator_name(source)} isn't supported")  # type: ignore[arg-type]
        return found[index]

    def check(self, node: fx.Node, results: Item) -> None:
        """Names the results as torch does, and compares them with torch's types."""
        several = isinstance(results, tuple)
        expected = node.meta["val"] if several else (node.meta["val"],)
        for i, (value, tensor) in enumerate(
            zip(results if isinstance(results, tuple) else (results,), expected, strict=False)
        ):
            if not isinstance(value, Value):
                continue
            same = value.type.dtype == dtype_of(tensor.dtype) and value.type.rank == tensor.dim()
            sizes = zip(value.type.shape, tensor.shape, strict=True) if same else ()
            if not same or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes):
                raise ModelError(
                    f"{node.target} was converted to another type than torch gives", layer=_layer(node),
                    seen=value.type, expected=f"{tensor.dtype} {list(tensor.shape)}",
                )  # fmt: skip
            if value.producer is not None and value.producer.origin == (_layer(node),):
                self.graph.rename(value, f"{node.name}.{i}" if several else node.name)


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


def _has_tensor(val: Any) -> bool:
    if isinstance(val, (tuple, list)):
        return any(_has_tensor(v) for v in val)
    return isinstance(val, torch.Tensor)


def _operator_name(node: fx.Node) -> str:
    """The operator as "add.Tensor", with its namespace where that isn't aten."""
    if node.op != "call_function":
        return {"placeholder": "input", "get_attr": "constant"}.get(node.op, node.op)
    return str(node.target).removeprefix("aten.")


def _layer(node: fx.Node) -> str:
    """The path of the module that the node belongs to; the node's own name where that is the whole model."""
    stack = node.meta.get("nn_module_stack")
    path = next(reversed(stack.values()))[0] if stack else ""
    return path or node.name


def _reason(node: fx.Node) -> str:
    name = _operator_name(node)
    return REFUSED.get(name) or REFUSED.get(name.rpartition(".")[0]) or "there is no conversion for this operator"
