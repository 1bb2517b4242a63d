"""Models changed at random, field by field: each is imported and verifies, or is refused in time with a GraphcError."""

from __future__ import annotations

import random
import time
import traceback
import warnings
from collections import Counter
from functools import cache

import onnx
import pytest
from onnx import AttributeProto, ModelProto
from onnx.backend.test.loader import load_model_tests

from graphc.errors import ModelError, UnsupportedOpError
from graphc.ir.verifier import verify
from graphc_onnx import import_model

INTEGERS = [0, -1, 1, 2, 3, 7, -7, 64, 100_000, 2**31 - 1, 2**31, 2**62, -(2**63), 2**63 - 1]
OPSETS = [7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 20, 21, 23]
TEXTS = [b"", b"x", b"SAME_UPPER", b"mean", b"...", b"ij,jk->ik", b"linear", b"reflect"]
SECONDS = 2.0


@cache
def models() -> list[ModelProto]:
    """The models of ONNX's own tests of single operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [case.model for case in load_model_tests(kind="node") if case.model is not None]


@cache
def operators() -> list[str]:
    return sorted({n.op_type for model in models() for n in model.graph.node})


def change(model: ModelProto, rng: random.Random) -> None:
    """Another attribute, dim, type, operator, operand or opset."""
    graph = model.graph
    node = rng.choice(graph.node)
    match rng.randrange(6):
        case 0 if node.attribute:
            change_attribute(rng.choice(node.attribute), rng)
        case 1 if graph.input:
            tensor = rng.choice(graph.input).type.tensor_type
            if rng.random() < 0.2:
                tensor.elem_type = rng.randrange(20)
            elif tensor.shape.dim and rng.random() < 0.7:
                rng.choice(tensor.shape.dim).dim_value = rng.choice(INTEGERS)
            else:
                tensor.shape.dim.add().dim_param = rng.choice(["n", "batch size", "for", ""])
        case 2 if graph.initializer:
            stored = rng.choice(graph.initializer)
            if stored.dims:
                stored.dims[rng.randrange(len(stored.dims))] = rng.choice(INTEGERS)
            if stored.int64_data:
                stored.int64_data[rng.randrange(len(stored.int64_data))] = rng.choice(INTEGERS)
        case 3:
            node.op_type = rng.choice(operators())
        case 4:
            names = [name for n in graph.node for name in (*n.input, *n.output)] + [i.name for i in graph.input]
            if node.input and rng.random() < 0.5:
                node.input[rng.randrange(len(node.input))] = rng.choice([*names, ""])
            else:
                node.input.append(rng.choice(names))
        case _:
            model.opset_import[0].version = rng.choice(OPSETS)


def change_attribute(attribute: AttributeProto, rng: random.Random) -> None:
    match attribute.type:
        case AttributeProto.INT:
            attribute.i = rng.choice(INTEGERS)
        case AttributeProto.FLOAT:
            attribute.f = rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e30])
        case AttributeProto.STRING:
            attribute.s = rng.choice(TEXTS)
        case AttributeProto.INTS if attribute.ints and rng.random() < 0.6:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(INTEGERS)
        case AttributeProto.INTS:
            attribute.ints.append(rng.choice(INTEGERS))


def outcome(model: ModelProto) -> str:
    """ "taken", "refused", or what went wrong; without the model in a traceback, which would take minutes to print."""
    start = time.process_time()
    try:
        verify(import_model(model))
        result = "taken"
    except (ModelError, UnsupportedOpError):
        result = "refused"
    except Exception:  # noqa: BLE001  whatever it is, the test fails with it
        return traceback.format_exc()
    seconds = time.process_time() - start
    return result if seconds < SECONDS else f"{result} after {seconds} s: {[n.op_type for n in model.graph.node][:5]}"


@pytest.mark.parametrize("seed", range(6))
def test_changed_models(seed: int) -> None:
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for _ in range(200):
        model = onnx.ModelProto()
        model.CopyFrom(rng.choice(models()))
        for _ in range(rng.choice([1, 1, 2, 3])):
            change(model, rng)
        outcomes[outcome(model)] += 1
    assert set(outcomes) == {"taken", "refused"}
    assert outcomes["taken"] > 10
