"""The structure of an ONNX graph: names are unique and defined, no value depends on itself, functions end."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from graphlib import CycleError, TopologicalSorter

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TypeProto

from graphc.errors import ModelError

FunctionKey = tuple[str, str, str]

# Protobuf itself stops at about 30 graphs inside one another; a ModelProto made in memory has no such bound.
DEEPEST_NESTING = 64
# Functions that call functions can stand for exponentially many nodes.
MOST_NODES = 1_000_000
HIGHEST_RANK = 64
# What no address space holds can't be a tensor: 47 bits on today's machines.
LARGEST_TENSOR = 2**47


def function_key(domain: str, name: str, overload: str) -> FunctionKey:
    """How a node and the model-local function that it calls find each other."""
    return ("" if domain == "ai.onnx" else domain, name, overload)


def layer_name(node: NodeProto) -> str:
    """What errors and profiles call a node: its name, else its first result's, else its operator."""
    return node.name or next((name for name in node.output if name), node.op_type or "a node without an operator")


def subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs among a node's attributes (branches, loop bodies), each with its attribute's name."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
            yield attribute.name, attribute.g
        for graph in attribute.graphs:
            yield attribute.name, graph


def all_nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """`nodes` and all nodes of graphs inside them, outer ones first."""
    pending = list(reversed(nodes))
    while pending:
        node = pending.pop()
        yield node
        for _, graph in subgraphs(node):
            pending.extend(reversed(graph.node))


def free_names(graph: GraphProto) -> set[str]:
    """The names that a subgraph takes from the graphs around it."""
    used = {value.name for value in graph.output}
    for node in graph.node:
        used |= _reads(node)
    return used - _given(graph) - {name for node in graph.node for name in node.output} - {""}


def ordered_nodes(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes, moved only where one reads a later one's result (in a subgraph too); ModelError on a cycle."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [{producer[name] for name in _reads(node) if name in producer} for node in nodes]
    if all(need < index for index, before in enumerate(needs) for need in before):
        return list(nodes)
    try:
        TopologicalSorter(dict(enumerate(needs))).prepare()
    except CycleError as error:
        cycle = [layer_name(nodes[index]) for index in error.args[1]]
        shown = cycle if len(cycle) <= 8 else [*cycle[:4], "…", *cycle[-3:]]
        raise ModelError(
            "values of the model depend on themselves",
            layer=cycle[0],
            seen="a cycle: " + " -> ".join(shown),
            expected="a graph without cycles; loops are Loop or Scan nodes",
        ) from error
    users: list[list[int]] = [[] for _ in nodes]
    for index, before in enumerate(needs):
        for need in before:
            users[need].append(index)
    waiting = [len(before) for before in needs]
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    return order


def check_model_graph(graph: GraphProto) -> None:
    """ModelError unless the model's main graph is sound: its inputs, its names, the order of its nodes."""
    if not graph.output:
        raise ModelError("the model has no outputs", layer=graph.name or None, expected="at least one")
    initializers = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in initializers:
            _check_input_type(value.name, value.type)
    _check_graph(graph, (), "", 0)


def check_functions(functions: Mapping[FunctionKey, FunctionProto], graph: GraphProto) -> None:
    """ModelError unless functions' bodies are sound, none calls itself, and `graph` has a bounded size inlined."""
    calls = {key: _called(function.node, functions) for key, function in functions.items()}
    try:
        order = list(TopologicalSorter({key: set(called) for key, called in calls.items()}).static_order())
    except CycleError as error:
        names = [key[1] for key in error.args[1]]
        raise ModelError("a function of the model calls itself", layer=names[0], seen=" -> ".join(names[:8])) from error
    inlined: dict[FunctionKey, int] = {}
    for key in order:
        own = sum(1 for _ in all_nodes(functions[key].node))
        inlined[key] = min(own + sum(inlined[called] for called in calls[key]), MOST_NODES + 1)
    total = sum(inlined[called] for called in _called(graph.node, functions))
    if total > MOST_NODES:
        raise ModelError("the model's functions stand for too many nodes", expected=f"at most {MOST_NODES} nodes")
    for function in functions.values():
        where = f"function {function.name}"
        inputs = _unique(function.input, "input", where)
        _unique([*function.attribute, *(attribute.name for attribute in function.attribute_proto)], "attribute", where)
        _check_nodes(function.node, inputs, function.output, (), where, 0)


def _called(nodes: Sequence[NodeProto], functions: Mapping[FunctionKey, FunctionProto]) -> list[FunctionKey]:
    keys = (function_key(node.domain, node.op_type, node.overload) for node in all_nodes(nodes))
    return [key for key in keys if key in functions]


def _reads(node: NodeProto) -> set[str]:
    names = set(node.input)
    for _, graph in subgraphs(node):
        names |= free_names(graph)
    return names


def _given(graph: GraphProto) -> set[str]:
    """The names that a graph has before its first node."""
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    return names | {tensor.values.name for tensor in graph.sparse_initializer}


def _check_graph(graph: GraphProto, scopes: tuple[Set[str], ...], where: str, depth: int) -> None:
    if depth > DEEPEST_NESTING:
        raise ModelError("graphs are nested too deeply", layer=where, expected=f"at most {DEEPEST_NESTING} levels")
    _unique([value.name for value in graph.input], "input", where)
    tensors = [*graph.initializer, *(tensor.values for tensor in graph.sparse_initializer)]
    _unique([tensor.name for tensor in tensors], "initializer", where)
    _check_nodes(graph.node, _given(graph), [value.name for value in graph.output], scopes, where, depth)


def _check_nodes(
    nodes: Sequence[NodeProto],
    given: Set[str],
    outputs: Sequence[str],
    scopes: tuple[Set[str], ...],
    where: str,
    depth: int,
) -> None:
    """ModelError unless the nodes' names are sound; `where` says in which body they are, "" for the main graph."""
    producers: dict[str, str] = {}
    for node in nodes:
        layer = layer_name(node)
        if not node.op_type:
            raise ModelError("a node has no operator", layer=_inside(where, layer))
        for name in filter(None, node.output):
            if name in producers or name in given:
                also = f"a result of {producers[name]}" if name in producers else "an input or an initializer"
                raise ModelError(
                    "a value is defined twice",
                    layer=_inside(where, layer),
                    seen=f"{name!r}, which is also {also}",
                    expected="one definition of each name",
                )
            producers[name] = layer
    scopes = (*scopes, given | producers.keys())
    for node in nodes:
        layer = _inside(where, layer_name(node))
        for name in node.input:
            if name and not _defined(name, scopes):
                raise ModelError(
                    "an operand isn't defined",
                    layer=layer,
                    seen=repr(name),
                    expected="an input, an initializer or another node's result",
                    hint="was an initializer lost, or the model cut?",
                )
        for attribute, graph in subgraphs(node):
            _check_graph(graph, scopes, f"{layer}/{attribute}", depth + 1)
    for name in outputs:
        if not _defined(name, scopes):
            raise ModelError(
                "an output isn't defined", layer=where or None, seen=repr(name), expected="an input or a node's result"
            )
    ordered_nodes(nodes)


def _defined(name: str, scopes: tuple[Set[str], ...]) -> bool:
    return any(name in scope for scope in scopes)


def _inside(where: str, layer: str) -> str:
    return f"{where}/{layer}" if where else layer


def _unique(names: Sequence[str], what: str, where: str) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ModelError(f"an {what} has no name", layer=where or None)
        if name in seen:
            raise ModelError(f"an {what} is defined twice", layer=where or None, seen=repr(name))
        seen.add(name)
    return seen


def _check_input_type(name: str, type_: TypeProto) -> None:
    """ModelError for a tensor input whose element type isn't given or whose dims no tensor can have."""
    if not type_.HasField("tensor_type"):
        return  # a sequence, an optional or a map: what the importer supports is its own to say
    layer = f"input {name!r}"
    tensor = type_.tensor_type
    if tensor.elem_type == 0:
        raise ModelError("an input has no element type", layer=layer)
    if len(tensor.shape.dim) > HIGHEST_RANK:
        raise ModelError(
            "an input has too many dims", layer=layer, seen=len(tensor.shape.dim), expected=f"at most {HIGHEST_RANK}"
        )
    known = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
    check_dims(known, layer, hint="an unknown dim has a name (dim_param), or nothing, for its size")


def check_dims(dims: Sequence[int], layer: str, *, hint: str | None = None) -> int:
    """The product of `dims`; ModelError if one is negative, or if a tensor of them fits no address space."""
    if any(dim < 0 for dim in dims):
        raise ModelError("a dim is negative", layer=layer, seen=list(dims), expected="0 or more", hint=hint)
    if math.prod(dim for dim in dims if dim) > LARGEST_TENSOR:
        raise ModelError(
            "a tensor is too large for any memory", layer=layer, seen=list(dims), expected=f"at most {LARGEST_TENSOR}"
        )
    return math.prod(dims)
