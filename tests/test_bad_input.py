"""Bad input of every kind: a GraphcError that names layer and cause, soon; never a crash, a hang or a half-written file."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc
from graphc.errors import ArtifactError, GraphcError, ModelError, NumericError, ShapeError, UnsupportedOpError

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
SECONDS = 2.0


@contextmanager
def soon() -> Iterator[None]:
    """What is refused is refused within the time that a person waits; CPU time, as other tests run beside this one."""
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def tensor(name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def weights(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(0).standard_normal(shape).astype(np.float32), name)


def mlp() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="fc1"),
        helper.make_node("Relu", ["h"], ["r"], name="relu1"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="fc2"),
        helper.make_node("Softmax", ["y"], ["p"], name="softmax", axis=-1),
    ]
    return model(
        nodes, [tensor("x", "batch", 6)], [tensor("p", "batch", 3)],
        [weights("w1", 6, 8), weights("b1", 8), weights("w2", 8, 3)],
    )  # fmt: skip


def cnn() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="bn"),
        helper.make_node("MaxPool", ["n"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["a"], name="mean"),
        helper.make_node("Flatten", ["a"], ["y"], name="flatten"),
    ]
    variance = numpy_helper.from_array(np.ones(4, np.float32), "v")
    return model(
        nodes, [tensor("x", 1, 2, 6, 6)], [tensor("y", 1, 4)],
        [weights("w", 4, 2, 3, 3), weights("s", 4), weights("b", 4), weights("m", 4), variance],
    )  # fmt: skip


def indexing() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embedding"),
        helper.make_node("Transpose", ["e"], ["t"], name="transpose", perm=[1, 0]),
        helper.make_node("Slice", ["t", "starts", "ends"], ["s"], name="slice"),
        helper.make_node("ReduceMean", ["s"], ["y"], name="mean", axes=[0], keepdims=0),
    ]
    bounds = [numpy_helper.from_array(np.array([v]), n) for v, n in ((1, "starts"), (4, "ends"))]
    return model(
        nodes, [tensor("ids", "n", dtype=TensorProto.INT64)], [tensor("y", "n")], [weights("table", 7, 5), *bounds]
    )


SMALL: dict[str, Callable[[], onnx.ModelProto]] = {"mlp": mlp, "cnn": cnn, "indexing": indexing}
INPUTS = {
    "mlp": {"x": np.ones((2, 6), np.float32)},
    "cnn": {"x": np.ones((1, 2, 6, 6), np.float32)},
    "indexing": {"ids": np.array([0, 6, 3])},
}


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with some bits flipped, cut short, or with a piece removed, repeated or moved."""
    found = bytearray(data)
    kind = rng.integers(4)
    if kind == 0:
        for at in rng.integers(len(found), size=int(rng.integers(1, 9))):
            found[at] ^= 1 << int(rng.integers(8))
        return bytes(found)
    a, b = sorted(int(i) for i in rng.integers(len(found), size=2))
    if kind == 1:
        return bytes(found[:a])
    if kind == 2:
        return bytes(found[:a] + found[b:])
    return bytes(found[:b] + found[a:])


# Damaged files


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("name", SMALL)
def test_damaged_models_are_refused_or_run(name: str, seed: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(mutated(SMALL[name]().SerializeToString(), np.random.default_rng(seed)))
    before = path.read_bytes()
    with soon():
        try:
            executable = graphc.compile(path, threads=1)
            inputs = INPUTS[name]
            if set(inputs) == set(executable.input_names):
                executable.run(None, inputs)
        except GraphcError as e:
            assert e.what
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "resnet50", "inception_v1"])
def test_damaged_files_of_real_models_are_refused_or_imported(name: str, tmp_path: Path) -> None:
    content = (LIGHT / f"light_{name}.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    refused = 0
    for seed in range(12):
        path.write_bytes(mutated(content, np.random.default_rng(seed)))
        with soon():
            try:
                graphc.import_model(path)
            except GraphcError as e:
                refused += 1
                assert e.what
    assert refused > 3


# Models that break the rules


def test_unknown_operators_and_domains_are_told_all_at_once() -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("Widget", ["b"], ["y"], name="second", domain="com.example"),
    ]
    m = model(nodes, [tensor("x", 3)], [tensor("y", 3)])
    m.opset_import.append(helper.make_opsetid("com.example", 1))
    with soon(), pytest.raises(UnsupportedOpError) as caught:
        graphc.compile(m)
    assert {u.layer for u in caught.value.unsupported} == {"first", "second"}
    assert {u.op.split(":")[-1].split(".")[-1] for u in caught.value.unsupported} == {"Frobnicate", "Widget"}


def test_a_cycle_is_told_with_its_layers() -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="other"),
    ]
    with soon(), pytest.raises(ModelError) as caught:
        graphc.compile(model(nodes, [tensor("x", 3)], [tensor("b", 3)]))
    assert "one" in str(caught.value) or "other" in str(caught.value)


def test_a_missing_initializer_is_named_with_the_layer_that_reads_it() -> None:
    m = mlp()
    del m.graph.initializer[2]
    with soon(), pytest.raises(ModelError) as caught:
        graphc.compile(m)
    assert "w2" in str(caught.value) and "fc2" in str(caught.value)


def test_weights_that_do_not_fit_name_the_layer() -> None:
    m = mlp()
    m.graph.initializer[2].CopyFrom(weights("w2", 9, 3))
    with soon(), pytest.raises(GraphcError) as caught:
        graphc.compile(m)
    assert "fc2" in str(caught.value)


@pytest.mark.parametrize("shape", [(-1,), (2**63 - 1,), (2**40, 2**40), (2**31, 2**31, 2**31), (3, -7)])
def test_impossible_dims_of_inputs(shape: tuple[int, ...]) -> None:
    m = model([helper.make_node("Relu", ["x"], ["y"], name="relu")], [tensor("x", *shape)], [tensor("y", *shape)])
    with soon(), pytest.raises(GraphcError) as caught:
        graphc.compile(m)
    assert "x" in str(caught.value)


@pytest.mark.parametrize("dims", [[-4], [2**62], [2**40, 2**40], [2**20]])
def test_impossible_dims_of_initializers(dims: list[int]) -> None:
    m = model([helper.make_node("Add", ["x", "w"], ["y"], name="sum")], [tensor("x", 1)], [tensor("y", "n")])
    w = m.graph.initializer.add()
    w.name, w.data_type, w.raw_data = "w", TensorProto.FLOAT, b"\0" * 16
    w.dims.extend(dims)
    with soon(), pytest.raises(ModelError) as caught:
        graphc.compile(m)
    assert "w" in str(caught.value)


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


ENORMOUS: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto]]] = {
    "expand": ([helper.make_node("Expand", ["x", "s"], ["y"], name="big")], [ints("s", 2**40, 2**40, 1)]),
    "constant of shape": (
        [helper.make_node("ConstantOfShape", ["s"], ["c"], name="big"), helper.make_node("Add", ["c", "x"], ["y"], name="sum")],
        [ints("s", 2**50, 2**30)],
    ),
    "tile": ([helper.make_node("Tile", ["x", "s"], ["y"], name="big")], [ints("s", 2**62)]),
    "pad": ([helper.make_node("Pad", ["x", "s"], ["y"], name="big")], [ints("s", 2**62, 2**62)]),
    "reshape": ([helper.make_node("Reshape", ["x", "s"], ["y"], name="big")], [ints("s", 2**40, -1)]),
    "range": (
        [
            helper.make_node("Range", ["a", "b", "c"], ["r"], name="big"),
            helper.make_node("Cast", ["r"], ["y"], name="cast", to=TensorProto.FLOAT),
        ],
        [numpy_helper.from_array(np.array(v), n) for v, n in ((0, "a"), (2**62, "b"), (1, "c"))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENORMOUS)
def test_enormous_results_are_refused_with_the_layer_or_when_run(name: str) -> None:
    nodes, initializers = ENORMOUS[name]
    rank = 3 if name == "expand" else 2 if name in ("constant of shape", "reshape") else 1
    m = model(nodes, [tensor("x", 3)], [tensor("y", *[f"d{i}" for i in range(rank)])], initializers, opset=13)
    with soon(), pytest.raises(GraphcError) as caught:
        graphc.compile(m)(np.ones(3, np.float32))
    assert "big" in str(caught.value)


BROADCAST = """graph @big(%x: f32[{x}]) {{
  %y: f32[{y}] = broadcast(%x) {{shape=[{y}], axes=[0]}} from "big"
  %z: f32[] = reduce_sum(%y) {{axes=[{axes}]}} from "sum"
  return {result}
}}"""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (BROADCAST.format(x="2", y="2, 1048576, 1048576", axes="0, 1, 2", result="%y"), "memory"),
        (BROADCAST.format(x="2", y="2, 1099511627776, 1099511627776", axes="0, 1, 2", result="%z"), "larger than any"),
        (BROADCAST.format(x="n", y="n, n, n, n", axes="0, 1, 2, 3", result="%z"), "more work"),
        (BROADCAST.format(x="n", y="n, n, n, n", axes="0, 1, 2, 3", result="%y"), "memory|more work"),
    ],
)
def test_more_than_any_machine_can_do_is_told_before_the_run(text: str, cause: str) -> None:
    with soon(), pytest.raises(GraphcError, match=cause):
        executable = graphc.compile(graphc.parse_graph(text))
        executable(np.ones(100_000 if "n" in str(executable.graph.inputs[0].type) else 2, np.float32))


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "missing.bin", ""])
def test_external_data_outside_its_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 400)
    folder = tmp_path / "models"
    folder.mkdir()
    m = mlp()
    w = m.graph.initializer[0]
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    entry = w.external_data.add()
    entry.key, entry.value = "location", location
    (folder / "model.onnx").write_bytes(m.SerializeToString())
    with soon(), pytest.raises(ModelError) as caught:
        graphc.compile(folder / "model.onnx")
    assert "w1" in str(caught.value)


def test_dims_with_the_names_of_loops_are_names_like_others() -> None:
    m = model(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")], [tensor("x", "i0", "v1")], [tensor("y", "i0", "v1")]
    )
    x = np.float32([[-1, 2, 3]])
    np.testing.assert_array_equal(graphc.compile(m)(x), np.maximum(x, 0))


# Bad calls


@pytest.fixture(scope="module")
def executable() -> graphc.Executable:
    return graphc.compile(mlp())


X = np.ones((2, 6), np.float32)


@pytest.mark.parametrize(
    ("inputs", "cause"),
    [
        ({}, "signature"),
        ({"z": X}, "signature"),
        ({"x": X, "z": X}, "signature"),
        ({"x": X.astype(np.float64)}, "input x has the wrong dtype"),
        ({"x": X.astype(np.complex64)}, "input x has the wrong dtype"),
        ({"x": X.astype("U3")}, "input x has the wrong dtype"),
        ({"x": np.array([[object()]])}, "input x has the wrong dtype"),
        ({"x": X[:, :5]}, "input x"),
        ({"x": X[0]}, "input x has the wrong shape"),
        ({"x": X[None]}, "input x has the wrong shape"),
        ({"x": X[:0]}, "input x"),
        ({"x": None}, "input x is no array"),
        ({"x": [[1.0] * 6]}, "input x is no array"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_named(executable: graphc.Executable, inputs: Any, cause: str) -> None:
    with soon(), pytest.raises(ShapeError, match=cause):
        executable.run(None, inputs)


def test_inputs_are_taken_however_they_lie(executable: graphc.Executable) -> None:
    base = np.random.default_rng(0).standard_normal((12, 12)).astype(np.float32)
    fitting = np.ascontiguousarray(base[:3, :6])
    overlapping = np.lib.stride_tricks.as_strided(base, (5, 6), (4, 4))
    for x in (
        base[:3, :6],
        base[:6, :3].T,
        base[::4, ::2],
        base[2::-1, 5::-1],
        overlapping,
        np.broadcast_to(base[0, :6], (4, 6)),
    ):
        np.testing.assert_array_equal(executable(x), executable(np.array(x, order="C")))
    np.testing.assert_array_equal(executable(fitting.astype(">f4")), executable(fitting))
    with pytest.raises(ShapeError, match="no such output"):
        executable.run(["q"], {"x": X})


def test_bad_indices_are_an_error_that_names_the_layer() -> None:
    gather = graphc.compile(indexing())
    for bad in (7, -8, 2**62, -(2**63)):
        with soon(), pytest.raises(NumericError) as caught:
            gather(np.array([0, bad]))
        assert "embedding" in str(caught.value)
    assert gather(np.array([0, 6])).shape == (2,)


# Damaged artifacts and caches


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "native"


def test_damaged_cache_entries_are_compiled_again(cache: Path) -> None:
    expected = graphc.compile(mlp())(X)
    entries = sorted(cache.iterdir())
    assert len(entries) >= 3
    whole = {p: p.read_bytes() for p in entries}
    rng = np.random.default_rng(0)
    for damage in (
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: mutated(b, rng),
        lambda b: b + b"\0",
        lambda b: b"x" * len(b),
    ):
        for p in entries:
            p.write_bytes(damage(whole[p]))
        with soon():
            np.testing.assert_array_equal(graphc.compile(mlp())(X), expected)
        assert {p: p.read_bytes() for p in sorted(cache.iterdir())} == whole


def test_a_lost_cache_entry_is_made_again(cache: Path) -> None:
    expected = graphc.compile(mlp())(X)
    for lost in sorted(cache.iterdir()):
        lost.unlink()
        np.testing.assert_array_equal(graphc.compile(mlp())(X), expected)
        assert lost.exists()


def test_a_program_in_the_cache_that_is_no_program_is_refused(cache: Path) -> None:
    """Its digest is right, so this is no accident: somebody wrote it."""
    from graphc_llvm.cache import Cache
    from graphc_llvm.store import restore

    graphc.compile(mlp())
    store = Cache(cache.parent)
    for content in (b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"main": 3}', b'{"main": {"program": {}}}'):
        put_program(store, content)
        with soon(), pytest.raises(ArtifactError, match="damaged"):
            restore("a key", store)


def put_program(store: Any, content: bytes) -> None:
    from graphc_llvm import store as module

    store.put(module._entry("a key"), content)


def test_a_cache_that_is_not_private_is_refused(cache: Path) -> None:
    graphc.compile(mlp())
    cache.chmod(0o777)
    with soon(), pytest.raises(ArtifactError, match="private"):
        graphc.compile(mlp())
    shutil.rmtree(cache)
    cache.write_text("in the way")
    with soon(), pytest.raises(ArtifactError, match="cache"):
        graphc.compile(mlp())
    np.testing.assert_array_equal(graphc.compile(mlp(), cache=False)(X).shape, (2, 3))


def test_damaged_artifacts_are_refused_or_run(tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    graphc.compile(mlp()).save(path)
    content = path.read_bytes()
    for seed in range(60):
        path.write_bytes(mutated(content, np.random.default_rng(seed)))
        with soon():
            try:
                loaded = graphc.load(path)
                if loaded.input_names == ["x"]:
                    loaded(X)
            except GraphcError as e:
                assert e.what
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_half_written(tmp_path: Path, executable: graphc.Executable) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    target = folder / "m.graphc"
    target.mkdir()  # in the way of the file
    with pytest.raises((GraphcError, OSError)):
        executable.save(target)
    assert list(folder.iterdir()) == [target]
    with pytest.raises(GraphcError):
        executable.save(tmp_path / "missing" / "m.graphc")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"backend": None}, "no backend"),
        ({"backend": ["reference", 3]}, "no backend"),
        ({"backend": []}, "one at least"),
        ({"dynamic": {"x": 0}}, "dynamic="),
        ({"dynamic": 3}, "dynamic="),
        ({"passes": "dce"}, "list"),
        ({"passes": 3}, "list"),
        ({"threads": "two"}, "threads"),
    ],
)
def test_options_of_the_wrong_kind_are_named(given: dict[str, Any], cause: str) -> None:
    with pytest.raises(GraphcError, match=cause):
        graphc.compile(mlp(), **{"backend": "reference", **given})


def test_run_by_name_says_what_it_takes(executable: graphc.Executable) -> None:
    run: Any = executable.run
    for names, inputs, cause in (
        (None, None, "by name"),
        (None, [1], "by name"),
        (["z"], {"x": np.ones((1, 6), "f4")}, "z"),
    ):
        with pytest.raises(ShapeError, match=cause):
            run(names, inputs)


@pytest.mark.parametrize(
    ("name", "low", "high", "cause"),
    [("n", 5, 4, "empty"), ("n", -1, None, "bound"), ("n", 1, 2.5, "bound"), ("n", None, 3, "bound"), ("a b", 1, 2, "name"),
     (3, 1, 2, "name"), ("n", True, 2, "bound")],
)  # fmt: skip
def test_dims_of_no_range_or_name(name: Any, low: Any, high: Any, cause: str) -> None:
    with pytest.raises(GraphcError, match=cause):
        graphc.Dim(name, low, high)
    assert str(graphc.Dim("n", 0, 0)) == "n"
