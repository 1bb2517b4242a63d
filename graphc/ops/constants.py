"""Tensors without operands: constants, counters, and dimensions as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import DTYPES, TensorType, i64
from graphc.ops.common import ALL, NUMBERS, check_axis, check_dtype


def _infer_iota(_: Inference, __: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    check_axis(a["axis"], len(a["shape"]))
    return (check_dtype(TensorType(a["dtype"], a["shape"]), NUMBERS, "result"),)


def _iota(_: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    along = [1] * len(a["shape"])
    along[a["axis"]] = a["shape"][a["axis"]]
    count = np.arange(along[a["axis"]], dtype=np.int64)
    return (np.broadcast_to(count.reshape(along), a["shape"]).astype(a["dtype"].numpy),)


def _constant_samples() -> Iterable[Sample]:
    for array in (
        np.array([[1.5, -2.0], [np.nan, np.inf]]),
        np.array(3.0, np.float32),
        np.zeros((0, 3), np.int64),
        np.arange(20, dtype=np.int8),
        np.array([True, False]),
        np.array([1.0, -0.0], DTYPES["bf16"].numpy),
    ):
        yield Sample((), {"value": TensorData(array)})


def _iota_samples() -> Iterable[Sample]:
    for shape, axis in (((5,), 0), ((2, 3), 1), ((2, 3), 0), ((0, 2), 0)):
        for dtype in ("i64", "i32", "f32", "f64", "f16"):
            yield Sample((), {"dtype": DTYPES[dtype], "shape": shape, "axis": axis})


OPERATORS = (
    OpDef(
        name="constant",
        operands=(),
        attributes={"value": Attribute("tensor")},
        infer=lambda _, __, a: (a["value"].type,),
        reference=lambda _, a: (a["value"].array,),
        vjp=lambda b, node, g: (),
        samples=_constant_samples,
        dtypes=ALL,
        doc="The tensor `value`.",
    ),
    OpDef(
        name="iota",
        operands=(),
        attributes={"dtype": Attribute("dtype"), "shape": Attribute("dims"), "axis": Attribute("int")},
        infer=_infer_iota,
        reference=_iota,
        vjp=lambda b, node, g: (),
        samples=_iota_samples,
        dtypes=NUMBERS,
        doc="y[i0, i1, ...] = i_axis: each element is its own index along `axis`.",
    ),
    OpDef(
        name="dims",
        operands=(),
        attributes={"values": Attribute("dims")},
        infer=lambda _, __, a: (TensorType(i64, (len(a["values"]),)),),
        reference=lambda _, a: (np.array(a["values"], np.int64),),
        vjp=lambda b, node, g: (),
        samples=lambda: (Sample((), {"values": (3, 0, -2)}), Sample((), {"values": ()})),
        dtypes=("i64",),
        doc="Dimension expressions as an i64 vector, so that a run can compute with the sizes of its inputs.",
    ),
)
