"""Stored tensors against onnx's own conversion, and what they must not get away with."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphc.errors import ModelError
from graphc_onnx.tensors import STORAGE, tensor_to_numpy, type_name


def sample(data_type: int, dims: tuple[int, ...]) -> np.ndarray[Any, Any]:
    count = int(np.prod(dims))
    values = np.random.default_rng(3).integers(0, 7, count)
    return values.astype(STORAGE[data_type].dtype).reshape(dims)


@pytest.mark.parametrize("dims", [(), (1,), (3, 5), (2, 0, 4)], ids=str)
@pytest.mark.parametrize("data_type", STORAGE, ids=type_name)
def test_bytes_and_typed_fields_are_read_as_onnx_reads_them(data_type: int, dims: tuple[int, ...]) -> None:
    array = sample(data_type, dims)
    raw = numpy_helper.from_array(array, "t")
    assert raw.data_type == data_type
    typed = helper.make_tensor("t", data_type, dims, array.reshape(-1).tolist())
    for tensor in (raw, typed):
        read = tensor_to_numpy(tensor)
        expected = numpy_helper.to_array(tensor)
        assert read.dtype == expected.dtype
        assert read.shape == dims
        assert read.tobytes() == expected.tobytes() == array.tobytes()


def test_negative_and_extreme_values_survive() -> None:
    for dtype in (np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64):
        limits = np.iinfo(dtype)
        array = np.array([limits.min, 0, limits.max], dtype)
        for tensor in (
            numpy_helper.from_array(array),
            helper.make_tensor("t", helper.np_dtype_to_tensor_dtype(array.dtype), [3], array.tolist()),
        ):
            np.testing.assert_array_equal(tensor_to_numpy(tensor), array)
    nibbles = np.array([-8, 7, -1], ml_dtypes.int4)
    np.testing.assert_array_equal(tensor_to_numpy(numpy_helper.from_array(nibbles)), nibbles)
    special = np.array([np.nan, np.inf, -0.0, 1e-45], np.float32)
    assert tensor_to_numpy(numpy_helper.from_array(special)).tobytes() == special.tobytes()


def test_bytes_that_are_no_bools_become_bools() -> None:
    tensor = TensorProto(dims=[3], data_type=TensorProto.BOOL, raw_data=b"\x00\x01\xfe")
    assert tensor_to_numpy(tensor).view(np.uint8).tolist() == [0, 1, 1]


REFUSED = {
    "negative dim": (TensorProto(dims=[-1], data_type=1, raw_data=b""), "negative"),
    "two negative dims": (TensorProto(dims=[-2, -2], data_type=1, raw_data=b"0" * 16), "negative"),
    "enormous dims": (TensorProto(dims=[2**40, 2**40], data_type=1, raw_data=b""), "too large"),
    "enormous beside zero": (TensorProto(dims=[0, 2**60], data_type=1, raw_data=b""), "too large"),
    "large dims, few bytes": (TensorProto(dims=[2**38], data_type=1, raw_data=b"0000"), "doesn't fill"),
    "few bytes": (TensorProto(dims=[2], data_type=1, raw_data=b"0000"), "doesn't fill"),
    "many bytes": (TensorProto(dims=[1], data_type=1, raw_data=b"0" * 8), "doesn't fill"),
    "no data": (TensorProto(dims=[1], data_type=1), "doesn't fill"),
    "few elements": (TensorProto(dims=[3], data_type=1, float_data=[1, 2]), "doesn't fill"),
    "two places": (TensorProto(dims=[1], data_type=1, float_data=[1], raw_data=b"0000"), "several places"),
    "foreign field": (TensorProto(dims=[1], data_type=1, int32_data=[1]), "isn't where FLOAT has it"),
    "too large for u8": (TensorProto(dims=[1], data_type=2, int32_data=[256]), "don't fit"),
    "negative u8": (TensorProto(dims=[1], data_type=2, int32_data=[-1]), "don't fit"),
    "too large for f16": (TensorProto(dims=[1], data_type=10, int32_data=[65536]), "don't fit"),
    "strings": (TensorProto(dims=[1], data_type=8, string_data=[b"a"]), "element type isn't supported"),
    "complex": (TensorProto(dims=[1], data_type=14, float_data=[1, 2]), "element type isn't supported"),
    "undefined": (TensorProto(dims=[1], data_type=0, raw_data=b"0"), "element type isn't supported"),
    "unknown": (TensorProto(dims=[1], data_type=77, raw_data=b"0"), "element type isn't supported"),
    "segment": (
        TensorProto(dims=[1], data_type=1, raw_data=b"0000", segment=TensorProto.Segment(begin=0, end=1)),
        "segments",
    ),
    "high rank": (TensorProto(dims=[1] * 70, data_type=1, raw_data=b"0000"), "too many dims"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_that_does_not_fit_is_refused(case: str) -> None:
    tensor, message = REFUSED[case]
    tensor.name = "weight"
    with pytest.raises(ModelError, match=message) as caught:
        tensor_to_numpy(tensor, Path.cwd())
    assert caught.value.layer == "tensor 'weight'"


def test_errors_name_the_given_layer() -> None:
    with pytest.raises(ModelError) as caught:
        tensor_to_numpy(TensorProto(dims=[2], data_type=1), layer="conv1")
    assert caught.value.layer == "conv1"
