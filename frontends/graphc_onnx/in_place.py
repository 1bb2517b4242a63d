"""Large initializers left in the model's file: what is parsed is the model without their bytes.

Protobuf would copy each of them twice. The file's outer layers are walked here instead (the wire format: fields of a key,
number and kind, and a value), down to the initializers of the main graph. A file that isn't as exporters write it, or
is damaged, is for protobuf to judge: then nothing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

SMALLEST = 1 << 16
"""Bytes of a tensor from which on it is left in place."""


def _number(message: type, field: str) -> int:
    return int(message.DESCRIPTOR.fields_by_name[field].number)  # type: ignore[attr-defined]


_GRAPH = _number(ModelProto, "graph")
_INITIALIZER = _number(GraphProto, "initializer")
_RAW_DATA = _number(TensorProto, "raw_data")
_BESIDE_IT = frozenset(_number(TensorProto, name) for name in ("dims", "data_type", "name", "doc_string"))
_BYTES = 2  # the kind of value that is preceded by its length
_OTHER_KINDS = {1: 8, 5: 4}  # their sizes; kind 0 is a number of variable size


class _Irregular(Exception):
    pass


def without_large_tensors(file: np.ndarray) -> tuple[bytes, dict[int, np.ndarray]]:
    """The model's message without the bytes of large initializers, and these by the initializer's index."""
    try:
        return _model(file)
    except _Irregular:
        return file.tobytes(), {}


def _model(file: np.ndarray) -> tuple[bytes, dict[int, np.ndarray]]:
    data = file.data
    parts: list[bytes] = []
    stored: dict[int, np.ndarray] = {}
    graphs = 0
    for number, kind, begin, value, end in _fields(data, 0, len(data)):
        if number == _GRAPH and kind == _BYTES:
            graphs += 1
            parts.append(_field(_GRAPH, _graph(file, value, end, stored)))
        else:
            parts.append(bytes(data[begin:end]))
    if graphs > 1:  # protobuf merges them
        raise _Irregular
    return b"".join(parts), stored


def _graph(file: np.ndarray, start: int, stop: int, stored: dict[int, np.ndarray]) -> bytes:
    parts: list[bytes] = []
    index = 0
    for number, kind, begin, value, end in _fields(file.data, start, stop):
        if number == _INITIALIZER and kind == _BYTES:
            parts.append(_initializer(file, begin, value, end, index, stored))
            index += 1
        else:
            parts.append(bytes(file.data[begin:end]))
    return b"".join(parts)


def _initializer(
    file: np.ndarray, begin: int, start: int, stop: int, index: int, stored: dict[int, np.ndarray]
) -> bytes:
    fields = list(_fields(file.data, start, stop)) if stop - start >= SMALLEST else []
    raw = [(value, end) for number, kind, _, value, end in fields if number == _RAW_DATA and kind == _BYTES]
    others = [field for field in fields if field[0] != _RAW_DATA]
    if len(raw) != 1 or raw[0][1] - raw[0][0] < SMALLEST or not {f[0] for f in others} <= _BESIDE_IT:
        return bytes(file.data[begin:stop])
    stored[index] = file[slice(*raw[0])]
    return _field(_INITIALIZER, b"".join(bytes(file.data[b:e]) for _, _, b, _, e in others))


def _fields(data: memoryview, at: int, stop: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(number, kind, where its key begins, where its value begins, where it ends) of each field of a message."""
    while at < stop:
        begin = at
        key, at = _varint(data, at, stop)
        number, kind = key >> 3, key & 7
        value = at
        if kind == _BYTES:
            length, value = _varint(data, at, stop)
            at = value + length
        elif kind == 0:
            _, at = _varint(data, at, stop)
        elif kind in _OTHER_KINDS:
            at += _OTHER_KINDS[kind]
        else:
            raise _Irregular
        if at > stop or number == 0:
            raise _Irregular
        yield number, kind, begin, value, at


def _varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    result = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            break
        byte = data[at]
        at += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, at
    raise _Irregular


def _field(number: int, content: bytes) -> bytes:
    return _as_varint(number << 3 | _BYTES) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(g | 128 for g in groups[:-1]), groups[-1]])
