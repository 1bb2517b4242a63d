"""External data is mapped where it lies in the model's folder, and nowhere else."""

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphc.errors import ModelError
from graphc_onnx.reading import read_model
from graphc_onnx.tensors import tensor_to_numpy

WEIGHTS = np.arange(6, dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with weights in it, and a secret beside it."""
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    (inside / "weights.bin").write_bytes(WEIGHTS.tobytes())
    (inside / "sub" / "weights.bin").write_bytes(b"\0" * 3 + WEIGHTS.tobytes())
    return inside


def external(dims: list[int], **fields: object) -> TensorProto:
    tensor = TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_the_part_named_is_read(folder: Path) -> None:
    for tensor, expected in (
        (external([6], location="weights.bin"), WEIGHTS),
        (external([2], location="weights.bin", offset=8, length=8), WEIGHTS[2:4]),
        (external([2, 3], location="sub/weights.bin", offset=3), WEIGHTS.reshape(2, 3)),
        (external([0], location="weights.bin", offset=24), WEIGHTS[:0]),
    ):
        np.testing.assert_array_equal(tensor_to_numpy(tensor, folder), expected)


def test_data_is_mapped_and_not_copied(folder: Path) -> None:
    path = folder / "large.bin"
    with path.open("wb") as file:
        file.truncate(8 * 2**30)  # sparse: no machine would like a copy
    start = time.monotonic()
    array = tensor_to_numpy(external([2**31], location="large.bin"), folder)
    assert array.shape == (2**31,)
    assert array[-1] == 0
    assert not array.flags.writeable
    assert time.monotonic() - start < 2


def test_what_onnx_saves_is_read(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [6])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    path = tmp_path / "m.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    model = read_model(path)
    assert model.proto.graph.initializer[0].data_location == TensorProto.EXTERNAL
    np.testing.assert_array_equal(tensor_to_numpy(model.proto.graph.initializer[0], model.base_dir), WEIGHTS)


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "sub/../../secret.bin", "sub/../weights.bin", "{absolute}", "", "a\0b", "..\\secret.bin"],
)
def test_a_way_out_of_the_folder_is_refused(folder: Path, location: str) -> None:
    location = location.format(absolute=folder.parent / "secret.bin")
    with pytest.raises(ModelError, match="isn't inside the model's folder"):
        tensor_to_numpy(external([6], location=location), folder)


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(folder: Path) -> None:
    (folder / "out.bin").symlink_to("../secret.bin")
    (folder / "up").symlink_to("..")
    (folder / "in.bin").symlink_to("weights.bin")
    for location in ("out.bin", "up/secret.bin"):
        with pytest.raises(ModelError, match="isn't inside the model's folder"):
            tensor_to_numpy(external([6], location=location), folder)
    np.testing.assert_array_equal(tensor_to_numpy(external([6], location="in.bin"), folder), WEIGHTS)


def test_a_folder_reached_by_a_link_is_the_folder(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    np.testing.assert_array_equal(tensor_to_numpy(external([6], location="weights.bin"), link), WEIGHTS)


def test_what_is_no_file_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    for location in ("pipe", "loop", "sub", "missing.bin"):
        start = time.monotonic()
        with pytest.raises(ModelError, match="external data"):
            tensor_to_numpy(external([6], location=location), folder)
        assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"offset": 4}, "ends too early"),
        ({"offset": 2**63 - 1}, "ends too early"),
        ({"length": 20}, "wrong length"),
        ({"length": 28}, "wrong length"),
        ({"offset": -4}, "wrong offset"),
        ({"offset": "0x4"}, "wrong offset"),
        ({"length": "9" * 5000}, "wrong length"),
        ({"length": "²"}, "wrong length"),
    ],
    ids=str,
)
def test_offsets_and_lengths_outside_the_file_are_refused(
    folder: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        tensor_to_numpy(external([6], location="weights.bin", **fields), folder)
    assert caught.value.layer == "tensor 'w'"


def test_a_model_that_is_not_from_a_file_has_no_external_data() -> None:
    with pytest.raises(ModelError, match="no folder"):
        tensor_to_numpy(external([6], location="weights.bin"), None)
