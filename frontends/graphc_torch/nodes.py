"""The nodes of one of torch's graphs, a program's or a region's, converted one by one."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx

from graphc.errors import GraphcError, ModelError, Unsupported
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Guard, Value
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import TensorType
from graphc_torch.call import Call, Item, Results
from graphc_torch.convert_control import CONTROL, ControlCall
from graphc_torch.converters import IGNORED, REFUSED, find_converter
from graphc_torch.randomness import NoRandomness, Randomness
from graphc_torch.refused import Refused, Unknown
from graphc_torch.symbols import Symbols
from graphc_torch.tensors import Memory, dtype_of, same_memory, tensor_data


class NodeImporter:
    """A graph of torch's on its way to one of graphc's.

    contents: by a tensor's place in memory, numbers that a constant has in place of the tensor's own.
    randomness: where operators that draw numbers take them from; None for inference.
    path: the layer that a region belongs to.
    """

    randomness: Randomness | None = None

    def __init__(
        self,
        module: fx.GraphModule,
        graph: Graph,
        symbols: Symbols,
        contents: Mapping[Memory, np.ndarray],
        unsupported: list[Unsupported],
        path: str = "",
    ) -> None:
        self.module = module
        self.graph = graph
        self.symbols = symbols
        self.contents = contents
        self.unsupported = unsupported
        self.path = path
        self.items: dict[fx.Node, Item | None] = {}
        self.constants: dict[Memory, Value] = {}

    def nodes(self) -> None:
        """Converts all nodes but those that the graph begins and ends with."""
        for node in self.module.graph.nodes:
            if node.op == "call_function":
                self.attempt(node, lambda node=node: self.call(node))
            elif node.op == "get_attr":
                self.attempt(node, lambda node=node: self.attribute(node))

    def attempt(self, node: fx.Node, step: Any) -> None:
        """Runs one step; what it refuses is kept for the end."""
        self.items[node] = None
        try:
            step()
        except Unknown:
            pass
        except Refused as e:
            self.unsupported.append(Unsupported(_operator_name(node), self.layer(node), e.reason))
        except GraphcError as e:
            e.layer = e.layer or self.layer(node)
            raise

    def layer(self, node: fx.Node) -> str:
        """The path of the module that the node belongs to; the node's own name where that is the whole model."""
        stack = node.meta.get("nn_module_stack")
        name = (next(reversed(stack.values()))[0] if stack else "") or node.name
        return f"{self.path}/{name}" if self.path else name

    def assume(self, guards: list[Guard]) -> None:
        self.graph.guards += [g for g in guards if g not in self.graph.guards]

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
        """A tensor that the graph holds by itself; the modules that it holds are regions of operators."""
        held = self.held_by_module(str(node.target))
        if not isinstance(held, torch.nn.Module):
            self.items[node] = self.constant(held, str(node.target))

    def held_by_module(self, path: str) -> Any:
        found: Any = self.module
        for name in path.split("."):
            found = getattr(found, name)
        return found

    def drop_unused(self) -> None:
        """Erases nodes that no output needs."""
        for node in reversed(self.graph.nodes):
            if not any(v.uses for v in node.results):
                self.graph.erase(node)

    def call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            self.items[node] = self.element(node)
            return
        if not _has_tensor(node.meta.get("val")) and node.meta.get("val") is not None:
            return  # arithmetic of sizes: where one is read, its expression is taken
        name = _operator_name(node)
        control = CONTROL.get(name) if isinstance(node.target, torch._ops.HigherOrderOperator) else None
        if control is None and not isinstance(node.target, torch._ops.OpOverload):
            raise Refused(_reason(node))
        if name == "_assert_scalar.default":
            self.assume(self.symbols.guards(node.args[0]))
            return
        if name in IGNORED:
            return
        converter = find_converter(name)
        if converter is None and control is None:
            raise Refused(_reason(node))
        if any(self.items.get(n) is None and _has_tensor(n.meta.get("val")) for n in node.all_input_nodes):
            raise Unknown
        layer = self.layer(node)
        builder = Builder(self.graph, origin=(layer,))
        found: Results
        if control is not None:
            regions = partial(self.region, layer=layer)
            found = control(ControlCall(node, builder, self.items, self.symbols, regions))
        else:
            assert converter is not None
            found = converter(Call(node, layer, builder, self.items, self.symbols, self.randomness))
        results = found if isinstance(found, Value) else tuple(found)
        self.items[node] = results
        self.check(node, results)

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
                    f"{node.target} was converted to another type than torch gives", layer=self.layer(node),
                    seen=value.type, expected=f"{tensor.dtype} {list(tensor.shape)}",
                )  # fmt: skip
            if value.producer is not None and value.producer.origin == (self.layer(node),):
                self.graph.rename(value, f"{node.name}.{i}" if several else node.name)

    def region(self, node: fx.Node, operands: Sequence[TensorType | None], layer: str) -> Graph:
        """A module that the graph holds as a closed graph, with an input for each operand that is a tensor."""
        module = self.held_by_module(str(node.target))
        inner = NodeImporter(module, Graph(node.name), self.symbols, self.contents, self.unsupported, layer)
        if self.randomness is not None:
            inner.randomness = NoRandomness(inner.graph)
        placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        for placeholder, type in zip(placeholders, operands, strict=True):
            inner.items[placeholder] = None if type is None else inner.graph.add_input(placeholder.name, type)
        inner.nodes()
        (output,) = (n for n in module.graph.nodes if n.op == "output")
        returned = output.args[0] if isinstance(output.args[0], (tuple, list)) else [output.args[0]]
        if not all(isinstance(n, fx.Node) and _has_tensor(n.meta.get("val")) for n in returned):
            raise Refused("a region that returns a number isn't supported: make it a tensor")
        found = [inner.items.get(n) for n in returned]
        values = [v for v in found if isinstance(v, Value)]
        if len(values) < len(found):
            raise Unknown
        inner.graph.set_outputs(values)
        inner.drop_unused()
        return inner.graph


def _has_tensor(val: Any) -> bool:
    if isinstance(val, (tuple, list)):
        return any(_has_tensor(v) for v in val)
    return isinstance(val, torch.Tensor)


def _operator_name(node: fx.Node) -> str:
    """The operator as "add.Tensor", with its namespace where that isn't aten."""
    if node.op != "call_function":
        return {"placeholder": "input", "get_attr": "constant"}.get(node.op, node.op)
    return str(node.target).removeprefix("aten.")


def _reason(node: fx.Node) -> str:
    name = _operator_name(node)
    return REFUSED.get(name) or REFUSED.get(name.rpartition(".")[0]) or "there is no conversion for this operator"
