"""Parses the text form of graphs (see `graphc.ir.text`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphc.errors import VerifyError
from graphc.ir.graph import Graph, Guard, Node, Value
from graphc.ir.opdef import OpDef
from graphc.ir.symbolic import Expr, parse_dim, symbol
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import DTYPES, TensorType

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<digest>(?:sha256|bits):[0-9a-f]*)
    | (?P<value>%[A-Za-z0-9_.]+)
    | (?P<graph>@[^\s(]+)
    | (?P<float>-?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|inf\b|nan\b))
    | (?P<int>-?\d+)
    | (?P<name>[A-Za-z_][A-Za-z0-9_.]*)
    | (?P<punct>==|<=|>=|//|[-+*%(){}\[\]=:,])
    )""",
    re.VERBOSE,
)

_BOOLS = {"true": True, "false": False}
_RANGE = re.compile(r"(\w+) (<=|>=) (-?\d+)")


def parse_graph(
    text: str, lookup: Callable[[str], OpDef] | None = None, constants: Mapping[str, TensorData] | None = None
) -> Graph:
    """The graph that `print_graph` printed. Raises VerifyError, with the line, on anything else.

    `constants` resolves digests; `lookup` resolves operators (default: the core's and installed plugins').
    """
    if lookup is None:
        from graphc.ops import find_operator

        lookup = find_operator
    parser = _Parser(text, lookup, constants or {})
    try:
        graph = parser.graph()
        parser.expect_end()
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as e:
        raise parser.fail("well-formed text") from e
    return graph


class _Parser:
    def __init__(self, text: str, lookup: Callable[[str], OpDef], constants: Mapping[str, TensorData]) -> None:
        self.text = text
        self.lookup = lookup
        self.constants = constants
        self.position = 0
        self.symbols: dict[str, Expr] = {}
        self.ranges: dict[str, dict[str, int]] = {}

    # Tokens

    def fail(self, expected: str) -> VerifyError:
        line = self.text.count("\n", 0, self.position) + 1
        seen = self.text[self.position : self.position + 40].strip().split("\n")[0]
        return VerifyError("graph text can't be parsed", seen=f"line {line}: {seen!r}", expected=expected)

    def peek(self) -> tuple[str, str]:
        match = _TOKEN.match(self.text, self.position)
        if match is None or match.lastgroup is None:
            return "end", ""
        return match.lastgroup, match.group(match.lastgroup)

    def take(self, kind: str, text: str | None = None) -> str:
        match = _TOKEN.match(self.text, self.position)
        if match is None or match.lastgroup != kind or (text is not None and match.group(kind) != text):
            raise self.fail(text or kind)
        self.position = match.end()
        return match.group(kind)

    def accept(self, text: str) -> bool:
        kind, seen = self.peek()
        if kind in ("punct", "name") and seen == text:
            self.take(kind, text)
            return True
        return False

    def expect_end(self) -> None:
        if self.text[self.position :].strip():
            raise self.fail("the end of the text")

    # Graphs

    def graph(self) -> Graph:
        outer = self.symbols, self.ranges
        self.symbols, self.ranges = {}, {}
        self.take("name", "graph")
        graph = Graph(self.take("graph")[1:])
        body, guards = self.read_where_ahead()
        values: dict[str, Value] = {}
        self.take("punct", "(")
        while not self.accept(")"):
            name = self.take("value")[1:]
            self.take("punct", ":")
            values[name] = self.define(graph.add_input(name, self.type()), name)
            self.accept(",")
        if self.accept("where"):
            graph.guards = [self.guard(g) for g in guards]
            self.position = body
        self.take("punct", "{")
        while not self.accept("return"):
            if self.accept("donate"):
                self.donations(graph, values)
            else:
                self.node(graph, values)
        outputs: list[Value] = []
        while self.peek()[0] == "value":
            outputs.append(self.value(values))
            self.accept(",")
        self.take("punct", "}")
        graph.set_outputs(outputs)
        self.symbols, self.ranges = outer
        return graph

    def donations(self, graph: Graph, values: dict[str, Value]) -> None:
        while True:
            given = self.value(values)
            self.take("name", "to")
            graph.donations.append((graph.inputs.index(given), int(self.take("int"))))
            if not self.accept(","):
                break

    def define(self, value: Value, name: str) -> Value:
        if value.name != name:
            raise self.fail(f"a value name that isn't taken, not %{name}")
        return value

    def read_where_ahead(self) -> tuple[int, list[str]]:
        """Reads the symbols' ranges, which stand after the types that use them; (where the body begins, the guards)."""
        body = self.text.find(" {\n", self.position)
        _, _, clauses = self.text[self.position : max(body, self.position)].partition(") where ")
        guards = []
        for clause in _split(clauses):
            match = _RANGE.fullmatch(clause)
            if match is None:
                guards.append(clause)
            else:
                self.ranges.setdefault(match[1], {})[match[2]] = int(match[3])
        return body, guards

    def guard(self, text: str) -> Guard:
        left, equals, right = text.partition(" == ")
        if not equals:
            raise self.fail(f"a range or an equality, not {text!r}")
        return Guard(self.dim(left), self.dim(right))

    def node(self, graph: Graph, values: dict[str, Value]) -> None:
        names, types = [], []
        while True:
            names.append(self.take("value")[1:])
            self.take("punct", ":")
            types.append(self.type())
            if not self.accept(","):
                break
        self.take("punct", "=")
        name = self.take("name")
        try:
            op = self.lookup(name)
        except KeyError as e:
            raise self.fail(f"a known operator, not {name}") from e
        self.take("punct", "(")
        operands: list[Value] = []
        while not self.accept(")"):
            operands.append(self.value(values))
            self.accept(",")
        attributes: dict[str, Any] = {}
        if self.accept("{"):
            while not self.accept("}"):
                key = self.take("name")
                self.take("punct", "=")
                attributes[key] = self.attribute(op, key)
                self.accept(",")
        if self.accept("["):
            while not self.accept("]"):
                key = self.take("name")
                self.take("punct", "=")
                attributes[key] = self.graph()
        origin: list[str] = []
        if self.accept("from"):
            while True:
                origin.append(json.loads(self.take("string")))
                if not self.accept(","):
                    break
        try:
            complete = op.complete(attributes)
        except TypeError as e:
            raise self.fail(str(e)) from e
        node = Node(op, operands, complete, types, [graph.fresh_name(n) for n in names], tuple(origin))
        for value, name in zip(node.results, names, strict=True):
            values[name] = self.define(value, name)
        graph.insert(node)

    def value(self, values: dict[str, Value]) -> Value:
        name = self.take("value")[1:]
        if name not in values:
            raise self.fail(f"a value defined above, not %{name}")
        return values[name]

    # Types and attributes

    def type(self) -> TensorType:
        name = self.take("name")
        if name not in DTYPES:
            raise self.fail("an element type")
        self.take("punct", "[")
        return TensorType(DTYPES[name], tuple(self.dim(d) for d in self.list_items()))

    def list_items(self) -> list[str]:
        """The texts between commas up to the closing bracket of a list just opened."""
        start, self.position = self.position, self.end_of(self.position, "]")
        items = _split(self.text[start : self.position])
        self.take("punct", "]")
        return items

    def end_of(self, start: int, closers: str) -> int:
        """Where the first of `closers` stands outside any bracket opened after `start`."""
        depth = 0
        for i in range(start, len(self.text)):
            c = self.text[i]
            if depth == 0 and c in closers:
                return i
            depth += (c in "([") - (c in ")]")
        raise self.fail(closers)

    def dim(self, text: str) -> int | Expr:
        for name in re.findall(r"[A-Za-z_]\w*", text):
            if name not in self.symbols and name not in ("min", "max"):
                bounds = self.ranges.get(name, {})
                self.symbols[name] = symbol(name, bounds.get(">=", 1), bounds.get("<="))
        try:
            return parse_dim(text, self.symbols)
        except ValueError as e:
            raise self.fail("an integer expression") from e

    def attribute(self, op: OpDef, key: str) -> Any:
        if key not in op.attributes:
            raise self.fail(f"an attribute of {op.name}")
        match op.attributes[key].kind:
            case "int":
                return int(self.take("int"))
            case "float":
                return self.float()
            case "bool":
                return _BOOLS[self.take("name")]
            case "str":
                return json.loads(self.take("string"))
            case "dtype":
                return DTYPES[self.take("name")]
            case "ints":
                self.take("punct", "[")
                return tuple(int(t) for t in self.list_items())
            case "floats":
                self.take("punct", "[")
                return tuple(float(t) for t in self.list_items())
            case "dims":
                self.take("punct", "[")
                return tuple(self.dim(t) for t in self.list_items())
            case "dim":
                start, self.position = self.position, self.end_of(self.position, ",}")
                return self.dim(self.text[start : self.position])
            case "tensor":
                return self.tensor()
        raise self.fail("an attribute value")

    def float(self) -> float:
        kind, text = self.peek()
        return float(self.take(kind if kind in ("float", "int") else "float", text))

    def tensor(self) -> TensorData:
        type = self.type()
        shape = type.concrete({})
        if self.peek()[0] == "digest":
            kind, _, content = self.take("digest").partition(":")
            if kind == "bits":
                return TensorData(np.frombuffer(bytes.fromhex(content), type.dtype.numpy).reshape(shape))
            if content not in self.constants:
                raise self.fail("a constant that lies beside the text")
            return self.constants[content]
        self.take("punct", "[")
        items = self.list_items()
        converters: dict[str, Callable[[str], Any]] = {"bool": _BOOLS.__getitem__, "float": float}
        convert = converters.get(type.dtype.kind, int)
        flat = np.array([convert(t) for t in items], dtype=object)
        return TensorData(flat.astype(type.dtype.numpy).reshape(shape))


def _split(text: str) -> list[str]:
    """The parts between the commas outside any bracket; none for blank text."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
        depth += (c in "([") - (c in ")]")
    return [p.strip() for p in (*parts, text[start:])] if text.strip() else []
