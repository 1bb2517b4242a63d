"""The demo's photograph, decoded with the standard library and prepared as ImageNet's models expect it."""

from __future__ import annotations

import struct
import zlib
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the red, green and blue of ImageNet's images."""


def photograph() -> np.ndarray:
    """The demo's image, f32[1,3,224,224]: colours scaled to [0, 1], less their mean, over their deviation."""
    import numpy as np

    pixels = decode_png(resources.files("graphc.cli").joinpath("data/china.png").read_bytes())
    scaled = (pixels / 255 - np.array(MEAN)) / np.array(DEVIATION)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)


def decode_png(content: bytes) -> np.ndarray:
    """The pixels, u8[height,width,3], of a PNG with a palette and unfiltered rows; ValueError for any other."""
    import numpy as np

    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind = content[at + 4 : at + 8]
        chunks[kind] = chunks.get(kind, b"") + content[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, *form = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8)
    if form != [8, 3, 0, 0, 0] or rows.size != height * (width + 1) or rows[:: width + 1].any():
        raise ValueError("only 8-bit palette images, not interlaced and with unfiltered rows, are read")
    palette = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
    return palette[rows.reshape(height, width + 1)[:, 1:]]
