"""TensorBoard's files, read back by protobuf from the published message definitions."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import graphc
from graphc.training.callbacks import TensorBoardLog
from graphc.training.callbacks.event_file import crc32c


def test_checksum_is_that_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


def _event_class() -> Any:
    """The class of tensorflow's Event messages, as far as it is used here."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="t", syntax="proto3")
    messages: dict[str, list[tuple[str, int, int, int, str]]] = {
        "Value": [("tag", 1, field.TYPE_STRING, field.LABEL_OPTIONAL, ""),
                  ("simple_value", 2, field.TYPE_FLOAT, field.LABEL_OPTIONAL, "")],
        "Summary": [("value", 1, field.TYPE_MESSAGE, field.LABEL_REPEATED, ".t.Value")],
        "Event": [("wall_time", 1, field.TYPE_DOUBLE, field.LABEL_OPTIONAL, ""),
                  ("step", 2, field.TYPE_INT64, field.LABEL_OPTIONAL, ""),
                  ("file_version", 3, field.TYPE_STRING, field.LABEL_OPTIONAL, ""),
                  ("summary", 5, field.TYPE_MESSAGE, field.LABEL_OPTIONAL, ".t.Summary")],
    }  # fmt: skip
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, label, of in fields:
            added = message.field.add(name=field_name, number=number, type=kind, label=label)  # type: ignore[arg-type]
            if of:
                added.type_name = of
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))


def _events(path: Path) -> list[Any]:
    content, found, make = path.read_bytes(), [], _event_class()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        for data, at in ((content[:8], 8), (content[12 : 12 + length], 12 + length)):
            crc = crc32c(data)
            masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.unpack("<I", content[at : at + 4]) == (masked,)
        found.append(make.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_curves_of_epochs_and_batches(
    trainer: Callable[..., graphc.Trainer], arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    history = trainer([TensorBoardLog(tmp_path, batches=150)]).fit(arrays, epochs=30, batch_size=16)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    version, *events = _events(path)
    assert version.file_version == "brain.Event:2" and version.wall_time > 1.7e9
    points = [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in events]
    assert [(step, list(values)) for step, values in points if "batch_loss" in values] == [
        (150, ["batch_loss"]), (300, ["batch_loss"])
    ]  # fmt: skip
    curve = [(step, values["loss"]) for step, values in points if "loss" in values]
    assert [step for step, _ in curve] == list(range(1, 31))
    assert [value for _, value in curve] == pytest.approx([logs["loss"] for logs in history], rel=1e-6)
