"""If and Loop that a run's data decides: against onnxruntime, interpreted and compiled; what is refused, and in time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

import graphc
from graphc.errors import ModelError, UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.graph import Graph
from graphc.ir.verifier import verify
from graphc_onnx import export_model, import_model

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Arrays = Mapping[str, np.ndarray]
node = helper.make_node
rng = np.random.default_rng(11)
NONE: Arrays = {}


def floats(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def integer(value: int) -> np.ndarray:
    return np.array(value, np.int64)


def infos(values: Mapping[str, tuple[int, Any]]) -> list[ValueInfoProto]:
    return [helper.make_tensor_value_info(name, *type) for name, type in values.items()]


def graph(
    name: str, nodes: Sequence[NodeProto], inputs: Mapping[str, Any], outputs: Mapping[str, Any], stored: Arrays = NONE
) -> GraphProto:
    return helper.make_graph(
        nodes, name, infos(inputs), infos(outputs), [numpy_helper.from_array(x, n) for n, x in stored.items()]
    )


def model(
    nodes: Sequence[NodeProto], inputs: Mapping[str, Any], outputs: Sequence[str], stored: Arrays = NONE
) -> ModelProto:
    made = graph("g", nodes, inputs, {}, stored)
    made.output.extend(ValueInfoProto(name=n) for n in outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def operators(g: Graph) -> list[str]:
    return [n.op.name for n in g.nodes]


def agree(made: ModelProto, *feeds: Arrays, tolerance: float = 1e-5) -> Graph:
    """The model's graph, which gives what onnxruntime does, interpreted and compiled, there and back in ONNX too."""
    found = import_model(made)
    verify(found)
    compiled = graphc.compile(found, cache=False)
    back = import_model(export_model(found))
    session = onnxruntime.InferenceSession(made.SerializeToString())
    for feed in feeds:
        expected = session.run(None, dict(feed))
        arrays = [feed[v.name] for v in found.inputs]
        for run in (lambda *xs: interpret(found, xs), compiled, lambda *xs: interpret(back, xs)):
            outputs = run(*arrays)
            outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
            for seen, wanted in zip(outputs, expected, strict=True):
                assert seen.dtype == wanted.dtype and seen.shape == wanted.shape
                np.testing.assert_allclose(seen, wanted, rtol=tolerance, atol=tolerance)
    return found


# If


def positive(of: str, name: str) -> list[NodeProto]:
    """Whether the sum of a tensor is above zero."""
    return [
        node("ReduceSum", [of], [f"{name}_sum"], keepdims=0),
        node("Greater", [f"{name}_sum", "zero"], [name]),
    ]


ZERO = {"zero": np.float32(0)}


def test_data_chooses_a_branch() -> None:
    """Branches of several layers that read weights, inputs and values from outside, one of them in both."""
    then = graph("then", [
        node("MatMul", ["hidden", "w"], ["product"]), node("Relu", ["product"], ["a"]), node("Neg", ["hidden"], ["b"]),
    ], {}, {"a": (FLOAT, None), "b": (FLOAT, None)})  # fmt: skip
    otherwise = graph("else", [
        node("Add", ["hidden", "bias"], ["c"]), node("Identity", ["y"], ["d"]),
    ], {}, {"c": (FLOAT, None), "d": (FLOAT, None)})  # fmt: skip
    nodes = [
        node("Tanh", ["x"], ["hidden"]),
        *positive("x", "flag"),
        node("If", ["flag"], ["p", "q"], name="gate", then_branch=then, else_branch=otherwise),
        node("Mul", ["p", "q"], ["r"]),
    ]
    inputs = {"x": (FLOAT, ["n", 4]), "y": (FLOAT, ["n", 4])}
    made = model(nodes, inputs, ["r", "p"], {"w": floats(4, 4), "bias": floats(4), **ZERO})
    x = np.abs(floats(3, 4))
    found = agree(made, {"x": x, "y": floats(3, 4)}, {"x": -x, "y": floats(3, 4)})
    gate = next(n for n in found.nodes if n.op.name == "if")
    assert gate.origin == ("gate",) and {o for n in gate["then"].nodes for o in n.origin} >= {"gate/product", "gate/a"}


def test_a_branch_within_a_branch() -> None:
    inner = node("If", ["second"], ["inner"], name="inner",
                 then_branch=graph("t2", [node("Exp", ["x"], ["e"])], {}, {"e": (FLOAT, None)}),
                 else_branch=graph("e2", [node("Sin", ["x"], ["s"])], {}, {"s": (FLOAT, None)}))  # fmt: skip
    outer = node("If", ["first"], ["y"], name="outer",
                 then_branch=graph("t1", [inner, node("Add", ["inner", "x"], ["t"])], {}, {"t": (FLOAT, None)}),
                 else_branch=graph("e1", [node("Neg", ["x"], ["m"])], {}, {"m": (FLOAT, None)}))  # fmt: skip
    made = model([outer], {"x": (FLOAT, [3]), "first": (BOOL, []), "second": (BOOL, [1])}, ["y"])
    x = floats(3)
    agree(
        made, *({"x": x, "first": np.array(a), "second": np.array([b])} for a in (False, True) for b in (False, True))
    )


def test_what_a_branch_captures_is_what_it_reads() -> None:
    """The shape of `x` alone is read in the branches: `x` isn't captured, and no input stands unused."""
    sized = [node("Shape", ["x"], ["shape"]), node("Expand", ["one", "shape"], ["full"])]
    choice = node("If", ["flag"], ["y"],
                  then_branch=graph("t", sized, {}, {"full": (FLOAT, None)}),
                  else_branch=graph("e", [node("Identity", ["z"], ["same"])], {}, {"same": (FLOAT, None)}))  # fmt: skip
    inputs = {"x": (FLOAT, ["n"]), "z": (FLOAT, ["n"]), "flag": (BOOL, [])}
    made = model([choice], inputs, ["y"], {"one": np.float32(1)})
    found = agree(made, *({"x": floats(3), "z": floats(3), "flag": np.array(f)} for f in (True, False)))
    assert [v.name for v in found.nodes[0].operands] == ["flag", "z"]


def test_branches_must_give_one_type() -> None:
    first = graph("t", [node("ReduceSum", ["x"], ["s"], keepdims=0)], {}, {"s": (FLOAT, None)})
    second = graph("e", [node("Neg", ["x"], ["m"])], {}, {"m": (FLOAT, None)})
    choice = node("If", ["flag"], ["y"], name="gate", then_branch=first, else_branch=second)
    with pytest.raises(UnsupportedOpError, match=r"of one type in both, not f32\[\] and f32\[3\] \(in gate\)"):
        import_model(model([choice], {"x": (FLOAT, [3]), "flag": (BOOL, [])}, ["y"]))


def test_branches_must_give_as_many_results() -> None:
    first = graph(
        "t", [node("Neg", ["x"], ["m"]), node("Abs", ["x"], ["a"])], {}, {"m": (FLOAT, None), "a": (FLOAT, None)}
    )
    second = graph("e", [node("Neg", ["x"], ["n"])], {}, {"n": (FLOAT, None)})
    choice = node("If", ["flag"], ["y"], name="gate", then_branch=first, else_branch=second)
    with pytest.raises(ModelError, match="both branches must give as many results") as raised:
        import_model(model([choice], {"x": (FLOAT, [3]), "flag": (BOOL, [])}, ["y"]))
    assert raised.value.layer == "gate"


def test_what_a_branch_cannot_do_is_told_with_its_layer() -> None:
    first = graph("t", [node("NonZero", ["x"], ["z"], name="where")], {}, {"z": (INT64, None)})
    second = graph("e", [node("NonZero", ["x"], ["z2"])], {}, {"z2": (INT64, None)})
    choice = node("If", ["flag"], ["y"], name="gate", then_branch=first, else_branch=second)
    with pytest.raises(UnsupportedOpError) as raised:
        import_model(model([choice], {"x": (FLOAT, [3]), "flag": (BOOL, [])}, ["y"]))
    assert {u.layer for u in raised.value.unsupported} == {"gate/where", "gate/z2", "gate"}


def test_the_gradient_goes_through_the_branch_taken() -> None:
    import torch

    then = graph("t", [node("MatMul", ["x", "w"], ["a"])], {}, {"a": (FLOAT, None)})
    otherwise = graph("e", [node("Sin", ["x"], ["s"])], {}, {"s": (FLOAT, None)})
    choice = node("If", ["flag"], ["y"], then_branch=then, else_branch=otherwise)
    w = floats(4, 4)
    made = model([*positive("x", "flag"), choice], {"x": (FLOAT, [2, 4])}, ["y"], {"w": w, **ZERO})
    gradient = graphc.compile(graphc.grad(import_model(made)), cache=False)
    for x in (np.abs(floats(2, 4)), -np.abs(floats(2, 4))):
        t = torch.from_numpy(x).requires_grad_()
        (t @ torch.from_numpy(w) if x.sum() > 0 else torch.sin(t)).sum().backward()
        np.testing.assert_allclose(gradient(x), t.grad, rtol=1e-5, atol=1e-6)


def test_a_model_with_a_branch_learns_the_weights_in_it() -> None:
    then = graph("t", [node("MatMul", ["x", "w"], ["a"])], {}, {"a": (FLOAT, None)})
    otherwise = graph("e", [node("MatMul", ["x", "v"], ["b"])], {}, {"b": (FLOAT, None)})
    choice = node("If", ["flag"], ["y"], then_branch=then, else_branch=otherwise)
    made = model(
        [*positive("x", "flag"), choice], {"x": (FLOAT, [2, 4])}, ["y"], {"w": floats(4, 3), "v": floats(4, 3)} | ZERO
    )
    x, y = np.abs(floats(2, 4)), floats(2, 3)
    step = graphc.compile_training(made, loss="mse", optimizer=graphc.SGD(0.1), example_inputs=(x, y))
    before = {k: np.array(v) for k, v in step.parameters.items()}
    first = float(step(x, y))
    assert float(step(x, y)) < first
    assert not np.array_equal(step.parameters["w"], before["w"]) and np.array_equal(step.parameters["v"], before["v"])


# Loop


def body(
    *nodes: NodeProto, state: Mapping[str, Any], collects: Mapping[str, Any] = NONE, counter: Sequence[int] = ()
) -> GraphProto:
    """A loop's body: `i` and `go`, then states; gives `more`, then for each state `name_next`, then what it collects."""
    inputs = {"i": (INT64, counter), "go": (BOOL, counter)} | dict(state)
    outputs = {"more": (BOOL, None)} | {f"{name}_next": type for name, type in state.items()} | dict(collects)
    return graph("body", nodes, inputs, outputs)


STATE = {"h": (FLOAT, [3])}
GOES_ON = node("Identity", ["go"], ["more"])
BELOW_TEN = [
    node("ReduceMax", ["h_next"], ["top"], keepdims=0),
    node("Less", ["top", "ten"], ["more"]),
]


@pytest.mark.parametrize("counter", [(), (1,)])
def test_data_says_how_many_steps_there_are(counter: Sequence[int]) -> None:
    step = body(
        node("Cast", ["i"], ["number"], to=FLOAT), node("Mul", ["h", "w"], ["scaled"]),
        node("Add", ["scaled", "number"], ["h_next"]), GOES_ON, state=STATE, counter=counter,
    )  # fmt: skip
    loop = node("Loop", ["trips", "", "x"], ["y"], body=step, name="repeat")
    inputs = {"x": (FLOAT, [3]), "w": (FLOAT, [3]), "trips": (INT64, [])}
    feeds = [{"x": floats(3), "w": floats(3), "trips": integer(t)} for t in (0, 1, 7, -2)]
    found = agree(model([loop], inputs, ["y"]), *feeds)
    assert operators(found).count("while") == 1


@pytest.mark.parametrize("bound", [None, 4, 2**63 - 1])
def test_a_condition_ends_a_loop(bound: int | None) -> None:
    """Doubling until the largest is at least ten; with a bound on the steps, and with a first condition that may not hold."""
    step = body(node("Add", ["h", "h"], ["h_next"]), *BELOW_TEN, state=STATE)
    loop = node("Loop", ["" if bound is None else "most", "begin", "x"], ["y"], body=step, name="double")
    stored = {"ten": np.float32(10)} | ({} if bound is None else {"most": integer(bound)})
    made = model([loop], {"x": (FLOAT, [3]), "begin": (BOOL, [])}, ["y"], stored)
    x = np.array([0.1, 0.05, -3], np.float32)
    found = agree(made, *({"x": s * x, "begin": np.array(b)} for s in (1, 50) for b in (True, False)))
    (loop,) = (n for n in found.nodes if n.op.name == "while")
    assert loop["max_trips"] == (4 if bound == 4 else -1)


def test_several_states_and_both_ends() -> None:
    """Data bounds the steps and a condition ends them earlier; an integer state and a matrix's, which a layer multiplies."""
    step = body(
        node("MatMul", ["h", "w"], ["h_next"]), node("Add", ["n", "i"], ["n_next"]),
        node("Less", ["n_next", "last"], ["more"]), state={"h": (FLOAT, [2, 3]), "n": (INT64, [])},
    )  # fmt: skip
    loop = node("Loop", ["trips", "", "x", "n0"], ["y", "n"], body=step)
    inputs = {"x": (FLOAT, [2, 3]), "trips": (INT64, [1]), "n0": (INT64, []), "last": (INT64, [])}
    made = model([loop], inputs, ["y", "n"], {"w": floats(3, 3) / 2})
    agree(
        made, *({"x": floats(2, 3), "trips": np.array([t]), "n0": integer(1), "last": integer(9)} for t in (3, 40, 0))
    )


def test_a_branch_in_a_loop_in_a_loop() -> None:
    """The longest of Collatz's sequences from a number up to `trips`."""
    halve = graph("half", [node("Div", ["n", "two"], ["half"])], {}, {"half": (INT64, None)})
    triple = graph(
        "odd", [node("Mul", ["n", "three"], ["t"]), node("Add", ["t", "one"], ["up"])], {}, {"up": (INT64, None)}
    )
    inner_step = body(
        node("Mod", ["n", "two"], ["rest"]), node("Equal", ["rest", "none"], ["even"]),
        node("If", ["even"], ["n_next"], then_branch=halve, else_branch=triple),
        node("Add", ["steps", "one"], ["steps_next"]), node("Greater", ["n_next", "one"], ["more"]),
        state={"n": (INT64, []), "steps": (INT64, [])},
    )  # fmt: skip
    outer_step = graph("outer", [
        node("Add", ["k", "one"], ["start"]), node("Greater", ["start", "one"], ["unfinished"]),
        node("Loop", ["", "unfinished", "start", "none"], ["end", "found"], body=inner_step),
        node("Max", ["longest", "found"], ["longest_next"]), node("Identity", ["on"], ["further"]),
    ], {"k": (INT64, []), "on": (BOOL, []), "longest": (INT64, [])},
    {"further": (BOOL, None), "longest_next": (INT64, None)})  # fmt: skip
    loop = node("Loop", ["trips", "", "none"], ["y"], body=outer_step, name="outer")
    stored = {"none": integer(0), "one": integer(1), "two": integer(2), "three": integer(3)}
    made = model([loop], {"trips": (INT64, [])}, ["y"], stored)
    agree(made, {"trips": integer(30)}, {"trips": integer(1)})


# Loops whose steps are a dim


def collecting(trips: str) -> NodeProto:
    """The running sum of rows of `x`, and what it was times `w`."""
    step = body(
        node("Gather", ["x", "i"], ["row"]), node("Add", ["h", "row"], ["h_next"]), node("Mul", ["h_next", "w"], ["seen"]),
        GOES_ON, state=STATE, collects={"seen": (FLOAT, [3])},
    )  # fmt: skip
    return node("Loop", [trips, "", "h0"], ["last", "all"], body=step, name="rows")


def test_as_many_steps_as_an_axis_is_long() -> None:
    nodes = [node("Shape", ["x"], ["n"], start=0, end=1), collecting("n")]
    made = model(nodes, {"x": (FLOAT, ["n", 3]), "h0": (FLOAT, [3]), "w": (FLOAT, [3])}, ["last", "all"])
    found = agree(made, *({"x": floats(n, 3), "h0": floats(3), "w": floats(3)} for n in (1, 6)))
    assert operators(found).count("scan") == 1 and str(found.outputs[1].type) == "f32[n,3]"


@pytest.mark.parametrize(("trips", "operator"), [(3, "concat"), (200, "scan"), (3000, "scan"), (0, "scan")])
def test_short_loops_are_unrolled_and_long_ones_scan(trips: int, operator: str) -> None:
    made = model([collecting("trips")], {"x": (FLOAT, [3000, 3]), "h0": (FLOAT, [3]), "w": (FLOAT, [3])}, ["last", "all"],
                 {"trips": integer(trips)})  # fmt: skip
    found = agree(made, {"x": floats(3000, 3), "h0": floats(3), "w": floats(3)}, tolerance=1e-4)
    assert operator in operators(found) and "while" not in operators(found)
    assert found.outputs[1].type.shape == (trips, 3)


def test_the_gradient_of_a_loop() -> None:
    import torch

    nodes = [node("Shape", ["x"], ["n"], start=0, end=1), collecting("n")]
    made = model(nodes, {"x": (FLOAT, ["n", 3]), "h0": (FLOAT, [3]), "w": (FLOAT, [3])}, ["last", "all"])
    gradient = graphc.compile(graphc.grad(import_model(made)), cache=False)
    arrays = [floats(5, 3), floats(3), floats(3)]
    x, h0, w = (torch.from_numpy(a).requires_grad_() for a in arrays)
    sums = h0 + torch.cumsum(x, 0)
    (sums[-1].sum() + (sums * w).sum()).backward()
    for seen, wanted in zip(gradient(*arrays), (x.grad, h0.grad, w.grad), strict=True):
        np.testing.assert_allclose(seen, wanted, rtol=1e-5, atol=1e-5)


# What is refused


def test_what_data_decides_the_size_of_is_refused() -> None:
    inputs = {"x": (FLOAT, [9, 3]), "h0": (FLOAT, [3]), "w": (FLOAT, [3]), "trips": (INT64, [])}
    with pytest.raises(UnsupportedOpError, match=r"Loop: data decides how many steps .* the size of all \(in rows\)"):
        import_model(model([collecting("trips")], inputs, ["last"]))
    unread = collecting("trips")
    unread.output[1] = ""
    x, h0 = floats(9, 3), floats(3)
    (last,) = interpret(
        import_model(model([unread], inputs, ["last"])), {"x": x, "h0": h0, "w": floats(3), "trips": integer(4)}
    )
    np.testing.assert_allclose(last, h0 + x[:4].sum(0), rtol=1e-5)


def test_what_no_memory_holds_is_no_model() -> None:
    inputs = {"x": (FLOAT, [9, 3]), "h0": (FLOAT, [3]), "w": (FLOAT, [3])}
    with pytest.raises(ModelError, match="too large"):
        import_model(model([collecting("trips")], inputs, ["last"], {"trips": integer(10**12)}))


def test_a_state_that_grows_is_refused() -> None:
    step = body(node("Concat", ["h", "h"], ["h_next"], axis=0), GOES_ON, state={"h": (FLOAT, ["k"])})
    loop = node("Loop", ["trips", "", "x"], ["y"], body=step, name="grow")
    with pytest.raises(UnsupportedOpError, match=r"h changes its type from f32\[2\] to f32\[4\].*\(in grow\)"):
        import_model(model([loop], {"x": (FLOAT, [2]), "trips": (INT64, [])}, ["y"]))
    made = model([loop], {"x": (FLOAT, [2])}, ["y"], {"trips": integer(3)})
    agree(made, {"x": floats(2)})


def test_a_loop_without_an_end_is_no_model() -> None:
    loop = node(
        "Loop", ["", "", "x"], ["y"], body=body(node("Neg", ["h"], ["h_next"]), GOES_ON, state=STATE), name="ever"
    )
    with pytest.raises(ModelError, match="the loop never ends") as raised:
        import_model(model([loop], {"x": (FLOAT, [3])}, ["y"]))
    assert raised.value.layer == "ever"


def test_no_loop_is_run_at_import_or_compilation() -> None:
    """A loop of constants that ends never, whatever the compiler folds."""
    step = body(
        node("Add", ["n", "one"], ["n_next"]), node("Greater", ["n_next", "one"], ["more"]), state={"n": (INT64, [])}
    )
    loop = node("Loop", ["", "", "one"], ["n"], body=step)
    made = model([loop, node("Add", ["x", "n"], ["y"])], {"x": (INT64, [3])}, ["y"], {"one": integer(1)})
    found = import_model(made)
    (loop,) = (n for n in found.nodes if n.op.name == "while")
    assert graphc.compile(found, cache=False).graph.inputs


def nested(depth: int, trips: int, grows: bool) -> NodeProto:
    """Loops in loops, each of so many steps; with `grows` none can be had as a region."""
    state = {f"s{depth}": (FLOAT, None)}
    source, result = f"s{depth}", f"s{depth}_next"
    if depth:
        inner = nested(depth - 1, trips, grows)
        inner.input[2] = source
        nodes = [inner, node("Neg", [inner.output[0]], [f"t{depth}"])]
    else:
        nodes = [node("Sin", [source], [f"t{depth}"])]
    joined = [f"t{depth}", f"t{depth}"] if grows else [f"t{depth}"]
    nodes += [node("Concat", joined, [result], axis=0), node("Identity", [f"g{depth}"], [f"m{depth}"])]
    inputs = {f"i{depth}": (INT64, []), f"g{depth}": (BOOL, [])} | state
    outputs = {f"m{depth}": (BOOL, None), result: (FLOAT, None)}
    return node(
        "Loop", ["trips", "", "x"], [f"r{depth}"], body=graph(f"b{depth}", nodes, inputs, outputs), name=f"l{depth}"
    )


@pytest.mark.parametrize("trips", [2, 250, 10**9])
@pytest.mark.parametrize("grows", [False, True])
def test_nested_loops_are_taken_or_refused_in_time(trips: int, grows: bool) -> None:
    made = model([nested(7, trips, grows)], {"x": (FLOAT, [3])}, ["r7"], {"trips": integer(trips)})
    start = time.thread_time()
    if grows:
        with pytest.raises((UnsupportedOpError, ModelError), match=r"too many|too large|steps|changes its type"):
            import_model(made)
    else:
        import_model(made)
    assert time.thread_time() - start < 6  # seconds of this thread's own; 2 are meant
