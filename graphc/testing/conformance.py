"""The conformance suite: for each operator and element type, what inference, text, decomposition and a backend owe.

    @pytest.mark.parametrize("case", cases(), ids=str)
    def test_backend(case):
        check_backend(case, "llvm")

All samples of a case stand in one graph, so that a backend compiles once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphc.driver import compile as compile_model
from graphc.errors import NumericError, ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.opdef import Inference, OpDef, Sample
from graphc.ir.parser import parse_graph
from graphc.ir.symbolic import evaluate, symbol
from graphc.ir.text import constants_of, print_graph, print_node
from graphc.ir.types import DTYPES, DType, TensorType, dtype_of
from graphc.ir.verifier import verify
from graphc.ops import core_operators
from graphc.ops.scalar_functions import cast

TESTED = ("f32", "f64", "i32", "i64", "bool", "f16", "bf16", "i8", "u8")
"""The element types that samples are cast to, of those that the operator takes."""

REQUIRED_TYPES = ("f32", "i32", "i64", "bool")
"""The element types over which a backend must have every primitive."""

AS_GIVEN = "given"
"""The `dtype` of a case whose samples have no floating operands: they are taken as they are."""


@dataclass(frozen=True)
class Case:
    """An operator at one element type, with all its samples; prints as `add-f32`."""

    op: OpDef
    dtype: str
    samples: tuple[Sample, ...]

    def __str__(self) -> str:
        return f"{self.op.name}-{self.dtype}"

    def graph(self, *, symbolic: bool = False) -> tuple[Graph, list[np.ndarray]]:
        """One node per sample, each with inputs of its own and all results returned; and the inputs.

        With `symbolic`, inputs have symbols for sizes where the operator's inference accepts them.
        """
        b = Builder(Graph(self.op.name))
        arrays: list[np.ndarray] = []
        outputs: list[Value] = []
        for i, sample in enumerate(self.samples):
            types = _symbolic_types(self.op, sample) if symbolic else None
            types = types or _types(sample)
            operands = [b.input(f"x{i}_{j}", t.dtype, t.shape) for j, t in enumerate(types)]
            arrays += sample.operands
            outputs += b.emit(self.op, operands, **sample.attributes).results
        return b.returns(*outputs), arrays


def cases(operators: Iterable[OpDef] | None = None) -> list[Case]:
    """Every case of the given operators (default: the core's)."""
    return [c for op in (core_operators().values() if operators is None else operators) for c in _cases(op)]


def _cases(op: OpDef) -> Iterator[Case]:
    samples = list(op.samples())
    given = [s for s in samples if not any(_is_float(x) for x in s.operands)]
    if given:
        yield Case(op, AS_GIVEN, tuple(given))
    floating = [s for s in samples if any(_is_float(x) for x in s.operands)]
    for name in TESTED:
        if name in op.dtypes:
            at = tuple(c for s in floating if (c := cast_sample(s, DTYPES[name])) is not None)
            if at:
                yield Case(op, name, at)


def required(case: Case) -> Case | None:
    """The samples of a case that no backend may refuse: a primitive over REQUIRED_TYPES; None where there are none."""
    if not case.op.is_primitive:
        return None
    samples = tuple(s for s in case.samples if _dtypes(case.op, s) <= set(REQUIRED_TYPES))
    return replace(case, samples=samples) if samples else None


def _dtypes(op: OpDef, sample: Sample) -> set[str]:
    """The element types of a sample's operands, results and attributes."""
    types, attributes = _types(sample), op.complete(sample.attributes)
    found = {t.dtype.name for t in (*types, *op.infer(Inference(), types, attributes))}
    return found | {a.name for a in attributes.values() if isinstance(a, DType)}


def _types(sample: Sample) -> list[TensorType]:
    return [TensorType(dtype_of(x), x.shape) for x in sample.operands]


def _symbolic_types(op: OpDef, sample: Sample) -> list[TensorType] | None:
    """The operands' types with symbol `n3` for size 3, but for sizes of 1; None where inference needs the sizes."""
    types = [t.with_shape(symbol(f"n{d}", low=0) if d != 1 else 1 for d in t.shape) for t in _types(sample)]
    try:
        op.infer(Inference(), types, op.complete(sample.attributes))
    except (ShapeError, ValueError):
        return None
    return types


def _is_float(x: np.ndarray) -> bool:
    return dtype_of(x).is_float


def cast_sample(sample: Sample, dtype: DType) -> Sample | None:
    """The sample with floating operands of another element type; None where NaN or infinity has no counterpart there.

    Numbers become integers by truncation, negative ones wrap to unsigned; anything but zero becomes true.
    """
    if not dtype.is_float and not all(np.isfinite(x).all() for x in sample.operands if _is_float(x)):
        return None
    with np.errstate(all="ignore"):
        return replace(sample, operands=tuple(_cast_operand(x, dtype) for x in sample.operands))


def _cast_operand(x: np.ndarray, dtype: DType) -> np.ndarray:
    if not _is_float(x):
        return x
    return cast(x.astype(np.int64), dtype) if dtype.is_integer else cast(x, dtype)


# Checks


def check_inference(case: Case) -> None:
    """The reference's results have the inferred types (the interpreter compares), and the graph verifies."""
    graph, arrays = case.graph()
    verify(graph)
    outputs = interpret(graph, arrays)
    for value, array in zip(graph.outputs, outputs, strict=True):
        assert array.shape == value.type.shape, print_graph(graph)
        assert array.dtype == value.type.dtype.numpy, print_graph(graph)


def check_symbolic_inference(case: Case) -> None:
    """Where inference accepts symbols in place of sizes, it says at those sizes what it says without."""
    for i, sample in enumerate(case.samples):
        general = _symbolic_types(case.op, sample)
        if general is None:
            continue
        attributes, types, inference = case.op.complete(sample.attributes), _types(sample), Inference()
        expected = case.op.infer(Inference(), types, attributes)
        result = case.op.infer(inference, general, attributes)
        dims = {f"n{d}": d for t in types for d in t.shape if isinstance(d, int)}
        assert tuple(t.with_shape(t.concrete(dims)) for t in result) == expected, f"sample {i} of {case}: {result}"
        for guard in inference.guards:
            assert evaluate(guard.left, dims) == evaluate(guard.right, dims), f"sample {i} of {case}: {guard}"


def check_round_trip(case: Case) -> None:
    """The text of the graph reads back to the same graph."""
    graph, _ = case.graph()
    text = print_graph(graph)
    again = parse_graph(text, constants=constants_of(graph))
    verify(again)
    assert print_graph(again) == text


def check_decomposition(case: Case) -> None:
    """A composite's decomposition computes what its reference says, types included."""
    assert case.op.decompose is not None, f"{case.op.name} is a primitive"
    graph, arrays = case.graph()
    expected = interpret(graph, arrays)
    for node in graph.nodes:
        decompose_node(graph, node)
    verify(graph)
    _compare(case, expected, interpret(graph, arrays))


def decompose_node(graph: Graph, node: Node) -> None:
    """Replaces a composite by what it decomposes into."""
    assert node.op.decompose is not None
    results = node.op.decompose(Builder(graph, before=node, origin=node.origin), node)
    for old, new in zip(node.results, results, strict=True):
        assert old.type == new.type, f"{node.op.name} decomposes to {new.type}, not {old.type}"
        graph.replace_uses(old, new)
    graph.erase(node)


def check_backend(case: Case, backend: str, *, symbolic: bool = False, **options: Any) -> None:
    """An executable of the backend computes what the reference says; options go to `graphc.compile`."""
    graph, arrays = case.graph(symbolic=symbolic)
    outputs = compile_model(graph, backend, **{"cache": False, **options})(*arrays)
    _compare(case, interpret(graph, arrays), outputs if isinstance(outputs, tuple) else (outputs,))


# Failures


@dataclass(frozen=True)
class Failure:
    """A graph with inputs that have no result, and inputs that have one; prints as its name."""

    name: str
    graph: Graph
    bad: tuple[np.ndarray, ...]
    good: tuple[np.ndarray, ...]

    def __str__(self) -> str:
        return self.name


def failures() -> list[Failure]:
    """What a backend must refuse at run time: integer division without a value, bad indices, extremes of nothing."""
    one, low = np.array([1, 1, 1]), np.array([1, -(2**63), 1])
    found = [
        _failure(f"{op}_{name}", op, bad, (one, one))
        for op in ("div", "rem", "mod")
        for name, bad in (("by_zero", (one, np.array([1, 0, 1]))), ("overflow", (low, np.array([1, -1, 1]))))
    ]
    x, good = np.arange(3.0), np.array([0, 2])
    for at in (-1, 3, 2**62):
        bad = np.array([0, at])
        found.append(_failure(f"gather_at_{at}", "gather", (x, bad), (x, good), axis=0))
        found.append(_failure(f"take_along_at_{at}", "take_along", (x, bad), (x, good), axis=0))
        found.append(_failure(f"gather_nd_at_{at}", "gather_nd", (x, bad[:, None]), (x, good[:, None])))
        found.append(_failure(f"scatter_along_at_{at}", "scatter_along", (x, bad, x[:2]), (x, good, x[:2]), axis=0))
        found.append(_failure(f"scatter_nd_at_{at}", "scatter_nd", (x, bad[:, None], x[:2]), (x, good[:, None], x[:2])))
    nothing, something = np.zeros((0, 2)), np.ones((3, 2))
    extremes: Mapping[str, dict[str, Any]] = {
        "reduce_max": {"axes": (0,)}, "reduce_min": {"axes": (0,)}, "argmax": {"axis": 0}, "argmin": {"axis": 0},
    }  # fmt: skip
    return found + [_failure(f"{op}_of_nothing", op, (nothing,), (something,), **a) for op, a in extremes.items()]


def _failure(
    name: str, op: str, bad: tuple[np.ndarray, ...], good: tuple[np.ndarray, ...], **attributes: Any
) -> Failure:
    """Dims in which the good and the bad inputs differ are symbols."""
    b = Builder(Graph(name))
    operands = []
    for i, (x, y) in enumerate(zip(bad, good, strict=True)):
        shape = (
            p if p == q else symbol(f"n{axis}", 0) for axis, (p, q) in enumerate(zip(x.shape, y.shape, strict=True))
        )
        operands.append(b.input(f"x{i}", dtype_of(x), tuple(shape)))
    return Failure(name, b.returns(b.op(op, *operands, **attributes)), bad, good)


def check_failure(failure: Failure, backend: str, **options: Any) -> None:
    """An executable of the backend raises NumericError for the bad inputs, and runs on with the good ones."""
    executable = compile_model(failure.graph, backend, **{"cache": False, **options})
    (expected,) = interpret(failure.graph, failure.good)
    for _ in range(2):
        try:
            seen = executable(*failure.bad)
        except NumericError:
            pass
        else:
            raise AssertionError(f"{failure}: {seen!r} instead of NumericError")
        assert difference(executable(*failure.good), expected) is None, str(failure)


# Comparison


def _compare(case: Case, expected: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> None:
    graph, _ = case.graph()
    exact = bool(case.op.traits & {"elementwise", "view"}) and case.op.is_primitive  # a composite's formula may cancel
    for value, e, s in zip(graph.outputs, expected, seen, strict=True):
        problem = difference(s, e, exact_position=exact)
        assert problem is None, f"{problem}\n{print_node(value.producer) if value.producer else value}"


def difference(seen: np.ndarray, expected: np.ndarray, *, exact_position: bool = False) -> str | None:
    """What is wrong with `seen`, or None: integers and bools must be equal, floats close, NaN and infinity in place.

    Results of elementwise primitives (`exact_position`) may differ by 4 units in the last place of each element;
    others, whose order of summation is free, by 64 of the greatest element. Zeros of the former have their sign: a sum's or
    an extreme's is that of the order in which it was taken.
    """
    if seen.dtype != expected.dtype or seen.shape != expected.shape:
        return f"{seen.dtype}{list(seen.shape)} instead of {expected.dtype}{list(expected.shape)}"
    if not dtype_of(expected).is_float:
        return None if np.array_equal(seen, expected) else f"{_some(seen != expected, seen, expected)}"
    s, e = seen.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(e)
    with np.errstate(all="ignore"):
        magnitude = np.abs(np.where(finite, e, 0))
        ulps = 4 if exact_position else 64
        reach = magnitude if exact_position else np.full_like(magnitude, magnitude.max(initial=0))
        bound = ulps * (_EPSILON[dtype_of(expected).name] * reach + _SMALLEST[dtype_of(expected).name])
        same = (s == e) | (np.isnan(s) & np.isnan(e)) | (finite & (np.abs(s - e) <= bound))
        if exact_position:
            same &= (s != 0) | (e != 0) | (np.signbit(s) == np.signbit(e))
    return None if same.all() else _some(~same, seen, expected)


_EPSILON: Mapping[str, float] = {"f16": 2.0**-10, "bf16": 2.0**-7, "f32": 2.0**-23, "f64": 2.0**-52}
_SMALLEST: Mapping[str, float] = {"f16": 2.0**-24, "bf16": 2.0**-126, "f32": 2.0**-126, "f64": 2.0**-1022}


def _some(wrong: np.ndarray, seen: np.ndarray, expected: np.ndarray) -> str:
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{int(wrong.sum())} of {wrong.size} elements differ; at {list(at)}: {seen[at]!r} instead of {expected[at]!r}"
    )
