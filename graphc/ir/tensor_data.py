"""Immutable tensor contents, known by their digest."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np

from graphc.ir.mapped import file_of, release
from graphc.ir.types import TensorType, dtype_of


class TensorData:
    """A read-only, C-contiguous, native-endian array; equal where type and bytes are equal (NaN payloads included)."""

    def __init__(self, array: np.ndarray) -> None:
        data = np.array(array, order="C") if array.flags.writeable else np.asarray(array, order="C")
        if data.dtype.byteorder not in "=|" or not data.dtype.isnative:
            data = data.astype(data.dtype.newbyteorder("="))
        self._array = data.view()
        self._array.flags.writeable = False
        self._file = file_of(self._array)
        self.type = TensorType(dtype_of(self._array), tuple(self._array.shape))

    @property
    def array(self) -> np.ndarray:
        """The contents. Raises GraphcError where they lie in a mapped file that was written to since."""
        if self._file is not None:
            self._file.check()
        return self._array

    @property
    def is_literal(self) -> bool:
        """Whether it is part of the program's structure wherever it stands: a single element."""
        return self._array.size == 1

    @property
    def is_weight(self) -> bool:
        """Whether its values may change without new code: floats, more than one. No pass looks at a weight's values."""
        return self._array.size > 1 and self.type.dtype.is_float

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of type and bytes."""
        h = hashlib.sha256(str(self.type).encode())
        h.update(self.array.reshape(-1).view(np.uint8).data)
        self.release()
        return h.hexdigest()

    def release(self) -> None:
        """Gives back the memory that contents from a mapped file take until they are read again."""
        release(self._array)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        return self is other or (self.type == other.type and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<{self.type} {self.digest[:12]}>"
