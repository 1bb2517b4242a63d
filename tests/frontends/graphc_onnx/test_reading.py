"""Damaged, foreign and hostile files: read, or refused with a GraphcError, quickly."""

import os
import random
import time
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from graphc.errors import GraphcError, ModelError
from graphc_onnx.reading import read_model
from graphc_onnx.schemas import check_nodes, find_schema, node_attributes
from graphc_onnx.structure import ordered_nodes
from graphc_onnx.tensors import tensor_to_numpy

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))
SMALL = [path for path in LIGHT if path.stat().st_size < 20_000]


def small_model(opset: int = 20, ir_version: int = 9, domain: str = "") -> ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "act")], "small", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=ir_version)


def read_all(source: bytes | Path) -> None:
    """Everything that an importer asks of a model."""
    model = read_model(source)
    check_nodes(model)
    for node in ordered_nodes(model.proto.graph.node):
        schema = find_schema(node.op_type, model.opsets.get(node.domain, 0), node.domain)
        if schema is not None:
            node_attributes(node, schema)
    for tensor in model.proto.graph.initializer:
        tensor_to_numpy(tensor, model.base_dir)


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_real_models_are_read(path: Path) -> None:
    read_all(path)
    model = read_model(path)
    assert model.base_dir == path.parent
    assert model.opsets[""] >= 7
    assert check_nodes(model) == []


def test_a_path_bytes_and_a_proto_give_the_same(tmp_path: Path) -> None:
    proto = small_model()
    path = tmp_path / "small.onnx"
    path.write_bytes(proto.SerializeToString())
    for source in (path, str(path), path.read_bytes(), proto):
        model = read_model(source)
        assert model.proto == proto
        assert dict(model.opsets) == {"": 20}
    assert read_model(proto).proto is proto
    assert read_model(proto, base_dir=tmp_path).base_dir == tmp_path


def test_ai_onnx_is_another_name_of_the_empty_domain() -> None:
    assert dict(read_model(small_model(domain="ai.onnx")).opsets) == {"": 20}


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_truncated_files_are_refused_or_read(path: Path) -> None:
    data = path.read_bytes()
    cuts = random.Random(7).sample(range(len(data)), 150)
    refused = 0
    for cut in cuts:
        try:
            read_all(data[:cut])
        except GraphcError:
            refused += 1
    assert refused == len(cuts)  # the outputs and the opset come last, so that no part of these models is a model


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_bit_flips_are_refused_or_read(path: Path) -> None:
    data = path.read_bytes()
    dice = random.Random(11)
    refused = 0
    slowest = 0.0
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 1, 3, 20))):
            damaged[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        start = time.process_time()
        try:
            read_all(bytes(damaged))
        except GraphcError:
            refused += 1
        slowest = max(slowest, time.process_time() - start)
    assert refused > 40  # a flipped bit of a name or a weight can leave a model sound, but not always
    assert slowest < 2


@pytest.mark.parametrize("path", SMALL[:2], ids=lambda path: path.stem)
def test_moved_and_repeated_pieces_are_refused_or_read(path: Path) -> None:
    data = path.read_bytes()
    dice = random.Random(13)
    refused = 0
    for _ in range(200):
        start, end, place = sorted(dice.randrange(len(data)) for _ in range(3))
        piece = data[start:end]
        damaged = dice.choice((data[:start] + data[end:], data[:place] + piece + data[place:], piece))
        try:
            read_all(damaged)
        except GraphcError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"not a model", b"\xff" * 64, b"PK\x03\x04" + b"\0" * 40, b"<html></html>", b"\x08\x07"]
)
def test_what_is_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(ModelError):
            read_model(source)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    loop = tmp_path / "loop.onnx"
    loop.symlink_to(loop)
    for path in (tmp_path / "missing.onnx", tmp_path, pipe, loop, Path("/dev/zero"), Path("a\0b.onnx")):
        start = time.monotonic()
        with pytest.raises(ModelError):
            read_model(path)
        assert time.monotonic() - start < 2
    with pytest.raises(ModelError, match="isn't an ONNX model"):
        read_model(3)  # type: ignore[arg-type]


def test_a_file_larger_than_protobuf_takes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(ModelError, match="too large") as caught:
        read_model(path)
    assert "external data" in str(caught.value)


@pytest.mark.parametrize("opset", [-3, 0, 1, 6, 10_000, 2**62])
def test_opsets_that_are_too_old_or_too_new_are_refused(opset: int) -> None:
    with pytest.raises(ModelError, match=r"version of ai\.onnx"):
        read_model(small_model(opset))


def test_every_opset_from_7_on_is_read() -> None:
    for opset in range(7, onnx.defs.onnx_opset_version() + 1):
        assert read_model(small_model(opset)).opsets[""] == opset


def test_a_model_without_opset_graph_or_version_is_refused() -> None:
    for field in ("opset_import", "graph", "ir_version"):
        proto = small_model()
        proto.ClearField(field)
        with pytest.raises(ModelError):
            read_model(proto)
    with pytest.raises(ModelError, match="IR version"):
        read_model(small_model(ir_version=10_000))


def test_two_versions_of_one_domain_are_refused() -> None:
    proto = small_model()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    with pytest.raises(ModelError, match="two versions"):
        read_model(proto)


@pytest.mark.parametrize("text", [b"small", b"act", b"batch", b"Relu"])
def test_text_that_is_not_utf8_is_refused(text: bytes) -> None:
    data = small_model().SerializeToString()
    assert text in data
    with pytest.raises(ModelError, match="UTF-8"):
        read_model(data.replace(text, b"\xff" * len(text)))


def test_the_given_proto_stays_as_it_is() -> None:
    proto = small_model()
    proto.graph.node.insert(0, helper.make_node("Relu", ["y"], ["z"]))  # unordered
    before = proto.SerializeToString()
    model = read_model(proto)
    assert [node.op_type + node.output[0] for node in ordered_nodes(model.proto.graph.node)] == ["Reluy", "Reluz"]
    assert proto.SerializeToString() == before
