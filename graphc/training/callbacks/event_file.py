"""TensorBoard's event files: records of a length, a message and their checksums, all little-endian.

A record is u64 length, u32 masked CRC-32C of these 8 bytes, the message, u32 masked CRC-32C of it. A message is a protocol
buffer `Event`: wall_time (1, double), step (2, int64), file_version (3, string), summary (5): repeated value (1) with tag
(1, string) and simple_value (2, float). Source: tensorflow/core/util/event.proto and lib/io/record_writer.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

POLYNOMIAL = 0x82F63B78
"""Of CRC-32C (Castagnoli), bits reversed."""


def file_header(time: float) -> bytes:
    """The first record of a file: its version. `time` is in seconds since 1970."""
    return _record(_double(1, time) + _bytes(3, b"brain.Event:2"))


def event_record(time: float, step: int, values: Mapping[str, float]) -> bytes:
    """A record of scalars, by tag, at a step."""
    summary = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in values.items())
    return _record(_double(1, time) + _key(2, 0) + _varint(step) + _bytes(5, summary))


def crc32c(data: bytes) -> int:
    """The CRC-32C checksum. Source: RFC 3720, section 12.1."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_entry, range(256)))


def _record(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return length + _checksum(length) + message + _checksum(message)


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _varint(n: int) -> bytes:
    found = bytearray()
    while n > 0x7F:
        found.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes((*found, n))


def _double(field: int, value: float) -> bytes:
    return _key(field, 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _key(field, 5) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value
