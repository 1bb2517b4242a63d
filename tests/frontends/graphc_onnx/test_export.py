"""Graphs as ONNX models: every operator there and back, and in onnxruntime; models, names, dims, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import graphc
from graphc.errors import GraphcError, UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.graph import Graph
from graphc.ops import core_operators
from graphc.testing.conformance import Case, cases
from graphc.testing.light_models import light_model
from graphc_onnx import export, export_model

IMPOSSIBLE = ("conv_weight_grad", "cumprod")
"""Primitives that ONNX has no operator for."""

REASONS = ("doesn't take this element type", "one axis at least", "gives no such size", "sorts along an axis")
"""Why single samples can't be written: ONNX's element types, windows over nothing, a size, a sort of rank 0."""

OPERATORS = [op.name for op in core_operators().values()]
TOLERANCE = {"f16": 2e-2, "bf16": 1e-1, "f32": 2e-5, "f64": 1e-9}


def singles(op: str, *dtypes: str) -> list[Case]:
    """The operator's samples, one a case."""
    found = cases([core_operators()[op]])
    return [replace(c, samples=(s,)) for c in found if not dtypes or c.dtype in dtypes for s in c.samples]


def written(graph: Graph) -> onnx.ModelProto | None:
    """The model of a graph, checked; None where a reason speaks against it that is known."""
    try:
        model = export_model(graph)
    except UnsupportedOpError as e:
        assert all(any(r in u.reason for r in REASONS) for u in e.unsupported), e
        return None
    onnx.checker.check_model(model, full_check=True)
    return model


def close(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape and f.dtype == e.dtype
        if e.dtype.kind in "iub":
            assert np.array_equal(f, e)
        else:
            f, e = f.astype(np.float64), e.astype(np.float64)
            # A query that sees no key gives NaN here and 0 in ONNX.
            np.testing.assert_allclose(np.where(np.isnan(e) & (f == 0), e, f), e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [o for o in OPERATORS if o not in IMPOSSIBLE])
def test_every_operator_there_and_back(name: str) -> None:
    count = 0
    for case in singles(name):
        graph, arrays = case.graph()
        model = written(graph)
        if model is not None:
            back = graphc.import_model(model)
            tolerance = max((TOLERANCE.get(v.type.dtype.name, 0) for v in graph.outputs), default=0)
            close(interpret(back, arrays), interpret(graph, arrays), tolerance)
            count += 1
    assert count


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_onnx_has_no_operator_for(name: str) -> None:
    graph, _ = singles(name)[0].graph()
    with pytest.raises(UnsupportedOpError, match="no such operator"):
        export_model(graph)


DIFFERENT = {
    "lrn": "even windows are refused",
    "resize": "coordinates on an edge are rounded",
    "random_bits": "unsigned 64-bit shifts",
}
"""Where onnxruntime itself is at odds with ONNX."""


def plain(case: Case, expected: list[np.ndarray]) -> bool:
    """Whether a sample holds what ONNX defines: no element missing, no NaN or infinity, nothing past an integer's range."""
    arrays = [*case.samples[0].operands, *expected]
    return all(x.size and (x.dtype.kind != "f" or np.isfinite(x).all()) for x in arrays) and not any(
        x.dtype.kind in "iu" and x.dtype.itemsize > 1 and (np.abs(x.astype(float)) > 2**30).any() for x in arrays
    )


@pytest.mark.parametrize("name", [o for o in OPERATORS if o not in IMPOSSIBLE and o not in DIFFERENT])
def test_onnxruntime_computes_the_same(name: str) -> None:
    for case in singles(name, "f32", "given", *(("f64",) if name in ("scan", "if", "while") else ())):
        graph, arrays = case.graph(symbolic=True)
        expected = interpret(graph, arrays)
        out_of_range = name == "cast" and any(not v.type.dtype.is_float for v in graph.outputs)
        if not plain(case, expected) or out_of_range or any(v.type.dtype.name == "bf16" for v in graph.outputs):
            continue
        model = written(graph)
        if model is None:
            continue
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString())
        except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
            continue  # onnxruntime lacks the operator for the type
        close(session.run(None, feed(session, arrays)), expected, 1e-4)


def feed(session: onnxruntime.InferenceSession, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip((i.name for i in session.get_inputs()), arrays, strict=True))


def run(path: Path, *arrays: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path))
    return list(session.run(None, feed(session, list(arrays))))


# Models


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_light_models(name: str, tmp_path: Path) -> None:
    source = light_model(name)
    graphc.export_onnx(graphc.import_model(source), tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    session = onnxruntime.InferenceSession(source.SerializeToString())
    (expected,) = session.run(None, feed(session, [x]))
    (found,) = run(tmp_path / "m.onnx", x)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_transformer_from_torch_at_several_lengths(tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Embedding(20, 8), nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), nn.GELU("tanh"), nn.Linear(8, 3)
    ).eval()
    x = torch.randint(0, 20, (2, 5))
    batch, length = graphc.Dim("batch", 1, 8), graphc.Dim("length", 1, 64)
    exe = graphc.compile(net, "reference", example_inputs=(x,), dynamic={"input": {0: batch, 1: length}})
    graphc.export_onnx(exe, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "length"]
    assert {"0.weight", "1.norm1.weight", "3.bias"} <= {t.name for t in model.graph.initializer}
    for size in ((2, 5), (1, 1), (3, 17)):
        x = torch.randint(0, 20, size)
        with torch.no_grad():
            expected = net(x).numpy()
        np.testing.assert_allclose(run(tmp_path / "m.onnx", x.numpy())[0], expected, rtol=1e-4, atol=1e-5)


# What a model is made of


def parsed(text: str) -> onnx.ModelProto:
    model = export_model(graphc.parse_graph(text))
    onnx.checker.check_model(model, full_check=True)
    return model


def operators(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def test_broadcasts_are_left_to_onnx() -> None:
    model = parsed("""
    graph @g(%x: f32[n,3,4], %b: f32[3]) {
      %two: f32[] = constant() {value=f32[] [2.0]}
      %twos: f32[n,3,4] = broadcast(%two) {shape=[n, 3, 4], axes=[]}
      %y: f32[n,3,4] = mul(%x, %twos) from "scale"
      %bs: f32[n,3,4] = broadcast(%b) {shape=[n, 3, 4], axes=[1]}
      %z: f32[n,3,4] = add(%y, %bs) from "shift"
      return %z
    }""")
    assert operators(model) == ["Mul", "Unsqueeze", "Add"]
    assert [n.name for n in model.graph.node if n.name] == ["scale", "shift"]
    assert [o.name for o in model.graph.output] == ["z"]


def test_a_narrow_result_is_expanded_where_it_is_returned() -> None:
    model = parsed("""
    graph @g(%x: f32[], %like: f32[n,3]) {
      %e: f32[n,3] = broadcast(%x) {shape=[n, 3], axes=[]}
      %y: f32[n,3] = exp(%e)
      %d: f32[3] = reduce_sum(%like) {axes=[0]}
      return %y, %d
    }""")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    y, _ = session.run(None, {"x": np.array(0, np.float32), "like": np.ones((2, 3), np.float32)})
    assert np.array_equal(y, np.ones((2, 3)))


def test_dims_are_computed_from_the_shapes_of_inputs() -> None:
    text = """
    graph @g(%x: f32[n,m]) {
      %d: i64[3] = dims() {values=[2*n + 3, (n*m - 7)//3, max(n, m)]}
      return %d
    }"""
    session = onnxruntime.InferenceSession(parsed(text).SerializeToString())
    for n, m in ((1, 1), (2, 3), (5, 4)):
        assert session.run(None, {"x": np.zeros((n, m), np.float32)})[0].tolist() == [
            2 * n + 3, (n * m - 7) // 3, max(n, m),
        ]  # fmt: skip


def test_bounds_are_one_clip() -> None:
    model = parsed("""
    graph @g(%x: f32[4]) {
      %low: f32[] = constant() {value=f32[] [0.0]}
      %lows: f32[4] = broadcast(%low) {shape=[4], axes=[]}
      %high: f32[] = constant() {value=f32[] [6.0]}
      %highs: f32[4] = broadcast(%high) {shape=[4], axes=[]}
      %m: f32[4] = max(%x, %lows)
      %y: f32[4] = min(%m, %highs)
      return %y
    }""")
    assert operators(model) == ["Clip"]


def test_outputs_that_are_inputs_or_stand_twice() -> None:
    b = graphc.Builder()
    x = b.input("x", graphc.parse_graph("graph @g(%a: f32[2]) {\n return %a\n}").inputs[0].type.dtype, (2,))
    y = b.op("neg", x)
    model = export_model(b.returns(x, y, y))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"x": np.array([1, 2], np.float32)})
    assert [f.tolist() for f in found] == [[1, 2], [-1, -2], [-1, -2]]


def test_a_weight_that_two_layers_read_is_stored_once() -> None:
    b = graphc.Builder()
    f32 = graphc.ir.types.f32
    w = b.constant(np.ones((4, 4), np.float32), "w")
    x = b.input("x", f32, (2, 4))
    y = b.op("dot", x, w, lhs_contract=(1,), rhs_contract=(1,))
    model = export_model(b.returns(b.op("matmul", y, w)))
    assert [t.name for t in model.graph.initializer] == ["w"]


def test_all_reasons_are_told_at_once() -> None:
    graph = graphc.parse_graph("""
    graph @g(%x: f32[4], %y: i8[4,2]) {
      %a: f32[4] = cumprod(%x) {axis=0} from "first"
      %b: i8[4] = reduce_sum(%y) {axes=[1]} from "second"
      return %a, %b
    }""")
    with pytest.raises(UnsupportedOpError) as error:
        export_model(graph)
    assert [(u.op, u.layer) for u in error.value.unsupported] == [("cumprod", "first"), ("reduce_sum", "second")]


def test_large_models_keep_their_constants_in_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LARGEST_MESSAGE", 1000)
    b = graphc.Builder()
    x = b.input("x", graphc.ir.types.f32, (2, 30))
    w = np.random.default_rng(0).normal(size=(30, 30)).astype(np.float32)
    graphc.export_onnx(b.returns(b.op("matmul", x, b.constant(w, "w"))), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size >= w.nbytes > (tmp_path / "m.onnx").stat().st_size
    np.testing.assert_allclose(run(tmp_path / "m.onnx", np.ones((2, 30), np.float32))[0][0], w.sum(0), rtol=1e-4)


def test_only_graphs_and_executables_are_exported(tmp_path: Path) -> None:
    with pytest.raises(GraphcError, match="only graphs and executables"):
        graphc.export_onnx("m.onnx", tmp_path / "m.onnx")  # type: ignore[arg-type]
