"""Loop bodies as C functions: `int name(void **p, const int64_t *d, void *scratch, int64_t begin, int64_t end)`."""

import math
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Node
from graphc.ir.symbolic import Dim, product, symbol
from graphc.ir.types import DType
from graphc.lowering import loop_body as lb
from graphc.lowering.contraction import address
from graphc.lowering.facts import dimensions, identity, loops, phases, scratch_sizes
from graphc.lowering.kernel import SourceKernel, function_name
from graphc.lowering.spell import Spelling

WHO = "the c backend"
PRELUDE = resources.files("graphc_c").joinpath("prelude.h").read_text()
TYPES = {"f32": "float", "f64": "double", "bool": "bool"}
TYPES |= {f"{u}{n}": f"{u.replace('i', '')}int{n}_t" for u in ("i", "u") for n in (8, 16, 32, 64)}
SAME = ("exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
        "erf", "expm1", "log1p", "sqrt", "floor", "ceil", "pow")  # fmt: skip
INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "rem": "%", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">",
    "ge": ">=", "logical_and": "&&", "logical_or": "||", "logical_xor": "!=", "bitwise_and": "&", "bitwise_or": "|",
    "bitwise_xor": "^",
}  # fmt: skip
FORMS = {
    **{op: f"{{0}} {sign} {{1}}" for op, sign in INFIX.items()}, **{op: f"{op}{{f}}({{a}})" for op in SAME},
    "neg": "-{0}", "abs": "{0} <= 0 ? 0 - {0} : {0}", "sign": "SIGN({0})", "logical_not": "!{0}", "bitwise_not": "~{0}",
    "max": "MAX({0}, {1})", "min": "MIN({0}, {1})", "select": "{0} ? {1} : {2}", "cast": "{0}", "is_nan": "{0} != {0}",
    "shift_left": "(uint64_t){1} < {bits} ? (uint64_t){0} << {1} : 0",
    "shift_right": "(uint64_t){1} < {bits} ? {0} >> {1} : -({0} < 0)",
}  # fmt: skip
FLOAT_FORMS = {
    "abs": "fabs{f}({0})", "rem": "fmod{f}({a})", "mod": "mod_f64({a})", "sigmoid": "sigmoid_f64({0})",
    "rsqrt": "1 / sqrt((double){0})", "round": "rint{f}({0})", "is_inf": "isinf({0}) != 0",
}  # fmt: skip
INTEGER_FORMS = {"mod": "{0} % {1} + ({0} % {1} && ({0} % {1} < 0) != ({1} < 0) ? {1} : 0)"}
COMBINED = {"set": "{1}", "sum": "{0} + {1}", "prod": "{0} * {1}", "max": "MAX({0}, {1})", "min": "MIN({0}, {1})"}
dim = Spelling("floor_div", "floor_mod", "min_i", "max_i")


def emit(body: lb.Body, name: str) -> str:
    """The function that runs a body whole."""
    kinds = {b.name: c_type(b.type.dtype) for b in body.buffers}
    given = [b.name for b in body.buffers if b.access != "scratch"]
    kept = [b.name for b in body.buffers if b.access == "scratch"]
    lines = [f"int64_t {s.name} = d[{i}];" for i, s in enumerate(dimensions(body))]
    lines += [f"{kinds[b]} *restrict b{b} = p[{i}];" for i, b in enumerate(given)]
    for i, b in enumerate(kept):
        lines.append(f"{kinds[b]} *b{b} = (void *)((char *)scratch + {dim(sum(scratch_sizes(body)[:i], 0))});")
    tile = () if isinstance(body, lb.LoopBody) else body.axes
    buffers = {b.name: b for b in body.buffers}
    inner = [line for loop in loops(body) for line in ("{", *Nest(loop, buffers).lines(), "}")]
    text = "\n".join(f"  {line}" for line in (*lines, *nested(tile, inner), "return 0;"))
    return f"int {name}(void **p, const int64_t *d, void *scratch, int64_t begin, int64_t end) {{\n{text}\n}}\n"


def c_type(dtype: DType) -> str:
    """The C type of an element type."""
    if dtype.name not in TYPES:
        raise UnsupportedOpError(WHO, [Unsupported("fusion", "", f"C has no arithmetic of {dtype}")])
    return TYPES[dtype.name]


def nested(axes: Sequence[lb.Axis], lines: list[str]) -> list[str]:
    """The lines inside a loop for each axis."""
    heads = [f"for (int64_t {a.name} = 0; {a.name} < {dim(a.extent)}; {a.name}++) {{" for a in axes]
    return [*heads, *lines, *("}" for _ in heads)]


class Nest:
    """Writes one nest."""

    def __init__(self, body: lb.LoopBody, buffers: Mapping[str, lb.Buffer]) -> None:
        self.body, self.buffers = body, buffers
        self.types = {s.value: s.dtype for s in body.statements if not isinstance(s, lb.Store)}
        self.position: Dim = 0
        for a in body.axes_of("reduction"):
            self.position = self.position * a.extent + symbol(a.name, 0)

    def lines(self) -> list[str]:
        order, body = phases(self.body), self.body
        before, during, after = (
            [x for s in p for x in self.statement(s)] for p in (order.before, order.during, order.after)
        )
        accumulators = [self.start(s) for s in order.during if isinstance(s, lb.Reduce)]
        inner = nested(body.axes_of("reduction") + body.axes_of("scan"), during) if during else []
        results = [] if body.axes_of("scan") else [result(s) for s in order.during if isinstance(s, lb.Reduce)]
        return nested(body.axes_of("parallel"), [*before, *accumulators, *inner, *results, *after])

    def statement(self, s: lb.Statement) -> list[str]:
        match s:
            case lb.Index():
                return [f"{c_type(s.dtype)} {s.value} = {dim(s.expression)};"]
            case lb.Apply():
                return apply(s)
            case lb.Reduce():
                return [self.step(s), *([result(s)] if self.body.axes_of("scan") else [])]
            case lb.Load():
                otherwise = f" else {s.value} = {literal(s.otherwise)};" if s.predicate else ""
                load = f"if ({holds(s.predicate)}) {{ {self.checks(s)}{s.value} = {self.place(s)}; }}{otherwise}"
                return [f"{c_type(s.dtype)} {s.value};", load]
        value = COMBINED[s.combine].format(self.place(s), literal(s.operand))
        return [f"if ({holds(s.predicate)}) {{ {self.checks(s)}{self.place(s)} = {value}; }}"]

    def place(self, s: lb.Load | lb.Store) -> str:
        return f"b{s.buffer}[{dim(address(self.buffers[s.buffer], s.index))}]"

    def checks(self, s: lb.Load | lb.Store) -> str:
        shape = self.buffers[s.buffer].type.shape
        return "".join(f"CHECK({dim(s.index[i])}, {dim(shape[i])}); " for i in s.checked)

    def start(self, s: lb.Reduce) -> str:
        """The declaration of an accumulator; sums of floats are kept in double."""
        if s.kind in ("argmax", "argmin"):
            return f"int64_t {s.value}_acc = -1; {c_type(self.types.get(str(s.operand), s.dtype))} {s.value}_best = 0;"
        return f"{'double' if s.dtype.name == 'f32' else c_type(s.dtype)} {s.value}_acc = {literal(identity(s))};"

    def step(self, s: lb.Reduce) -> str:
        """One point's part in a reduction."""
        x, v, best = literal(s.operand), f"{s.value}_acc", f"{s.value}_best"
        if s.kind not in ("argmax", "argmin"):
            return f"if ({holds(s.predicate)}) {v} = {COMBINED[s.kind].format(v, x)};"
        sign = ">" if s.kind == "argmax" else "<"
        better = f"{v} < 0 || ({best} == {best} && ({x} {sign} {best} || {x} != {x}))"
        return f"if (({holds(s.predicate)}) && ({better})) {{ {best} = {x}; {v} = {dim(self.position)}; }}"


def result(s: lb.Reduce) -> str:
    """The value of a reduction, once it is complete; in a scan, up to here."""
    return f"{c_type(s.dtype)} {s.value} = {s.value}_acc;"


def apply(s: lb.Apply) -> list[str]:
    """The statements of an elementwise operator."""
    source, result = s.operand_dtype, c_type(s.dtype)
    form = (FLOAT_FORMS if source.is_float else INTEGER_FORMS).get(s.op) or FORMS.get(s.op)
    if form is None:
        raise UnsupportedOpError(WHO, [Unsupported(s.op, "", f"it has no form in C for {source}")])
    x = [f"({c_type(source)}){literal(o)}" if not isinstance(o, str) else o for o in s.operands]
    if s.op == "cast" and source.is_float and s.dtype.is_integer:
        info = np.iinfo(s.dtype.numpy)
        form = f"TRUNCATED({result}, {{0}}, {literal(int(info.min))}, {literal(int(info.max))})"
    checks = []
    if s.op in ("div", "rem", "mod") and source.is_integer:
        checks = [f"DIVIDES({x[0]}, {x[1]}, {literal(int(np.iinfo(source.numpy).min))});"]
    text = form.format(*x, a=", ".join(x), f="f" if source.name == "f32" else "", bits=8 * source.bytes)
    return [*checks, f"{result} {s.value} = {text};"]


def holds(predicate: lb.Predicate) -> str:
    """The condition that a predicate is."""
    parts = [f"{dim(r.low)} <= {dim(r.expression)} && {dim(r.expression)} < {dim(r.high)}" for r in predicate]
    return " && ".join(parts) or "1"


def literal(x: lb.Operand) -> str:
    """A value's name, or a literal in C."""
    if isinstance(x, str):
        return x
    if isinstance(x, float):
        return x.hex() if math.isfinite(x) else "NAN" if x != x else "INFINITY" if x > 0 else "(-INFINITY)"
    return "INT64_MIN" if x == -(2**63) else f"{int(x)}{'ull' if x >= 2**63 else 'll'}"


def sort_kernel(node: Node) -> SourceKernel:
    """The kernel of `sort`, which serves all shapes of an element type."""
    x, axis = node.operands[0].type, node["axis"]
    text = f"{c_type(x.dtype)}, {int(node['descending'])}"
    name, n = function_name(f"sort {text}"), x.shape[axis]
    rows, stride = product((*x.shape[:axis], *x.shape[axis + 1 :])), product(x.shape[axis + 1 :])
    return SourceKernel(name, name, "sort", f"SORT({name}, {text})", "", (n, stride), rows, 16 * n, 0, 2 * x.bytes)
