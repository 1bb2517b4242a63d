"""Winograd convolutions against direct ones in double precision: sizes, paddings, epilogues, targets, threads."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import graphc
from graphc.cones import widen
from graphc.errors import UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.types import f32
from graphc.pipeline import PassContext, PassManager
from graphc_llvm.packing import Pack
from graphc_llvm.target import parse_target
from graphc_llvm.winograd import Winograd, cycles

TOLERANCE = 4e-6
"""Of the largest value: three times what was measured at most. The stated bound of one convolution is 1e-5."""


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def convolution(
    size: tuple[Dim, int, int],
    channels: int,
    outputs: int,
    padding: tuple[int, ...] = (1, 1, 1, 1),
    epilogue: str = "bias",
    **form: object,
) -> Graph:
    b = Builder()
    x = b.input("x", f32, (*size, channels))
    w = b.constant(weights(3, 3, channels // int(form.get("groups", 1)), outputs) / np.float32(np.sqrt(9 * channels)))  # type: ignore[call-overload]
    form = {"strides": (1, 1), "dilation": (1, 1), **form}
    y = b.op("conv", x, w, padding=padding, layout="channels_last", kernel_layout="io", **form)
    if epilogue == "none":
        return b.returns(y)
    y = b.op("add", y, b.broadcast(b.constant(weights(outputs)), y.type.shape, (3,)))
    if epilogue == "residual":
        y = b.op("relu", b.op("add", y, b.input("residual", f32, y.type.shape)))
    if epilogue == "gelu":
        y = b.op("gelu", y, approximate="none")
    if epilogue == "two results":
        return b.returns(b.op("relu", y), y)
    if epilogue == "channels first":
        y = b.transpose(b.op("relu", y), (0, 3, 1, 2))
    if epilogue == "sum":
        y = b.op("reduce_sum", y, axes=(1, 2))
    return b.returns(y)


def arrays(graph: Graph, images: int = 1) -> list[np.ndarray]:
    shapes = [tuple(d if isinstance(d, int) else images for d in v.type.shape) for v in graph.inputs]
    return [weights(*shape, seed=1) for shape in shapes]


def exact(graph: Graph, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return interpret(widen(graph), [x.astype(np.float64) for x in inputs])


def check(graph: Graph, images: int = 1, tolerance: float = TOLERANCE, **options: object) -> graphc.Executable:
    executable = graphc.compile(graph, **options)  # type: ignore[arg-type]
    inputs = arrays(graph, images)
    feed = dict(zip((v.name for v in graph.inputs), inputs, strict=True))
    for seen, want in zip(executable.run(None, feed), exact(graph, inputs), strict=True):
        assert np.abs(seen - want).max() < tolerance * np.abs(want).max()
    return executable


def is_winograd(executable: graphc.Executable) -> bool:
    return any(k.name.startswith("winograd_conv") for k in executable.kernels)


SHAPES: dict[str, tuple[tuple[int, int, int], int, int, tuple[int, ...]]] = {
    "multiples of everything": ((1, 16, 16), 64, 64, (1, 1, 1, 1)),
    "odd sizes": ((1, 13, 19), 64, 64, (1, 1, 1, 1)),
    "no padding": ((1, 14, 16), 32, 64, (0, 0, 0, 0)),
    "uneven padding": ((1, 15, 14), 32, 64, (0, 2, 3, 1)),
    "a batch": ((3, 12, 9), 32, 64, (1, 1, 1, 1)),
    "channels that fill no vector": ((2, 13, 18), 19, 37, (1, 1, 1, 1)),
    "columns that fill no panel": ((1, 20, 20), 40, 70, (1, 1, 1, 1)),
    "several blocks and panels": ((1, 30, 45), 16, 130, (1, 1, 1, 1)),
    "less than a tile": ((40, 3, 4), 32, 64, (1, 1, 1, 1)),
}


@pytest.mark.parametrize("target", [None, "x86-64-v3"])
@pytest.mark.parametrize("name", SHAPES)
def test_convolution(name: str, target: str | None) -> None:
    size, channels, outputs, padding = SHAPES[name]
    assert is_winograd(check(convolution(size, channels, outputs, padding), target=target))


@pytest.mark.parametrize("epilogue", ["none", "bias", "residual", "gelu", "two results", "channels first", "sum"])
def test_what_follows_is_computed_behind_it(epilogue: str) -> None:
    executable = check(convolution((2, 14, 15), 32, 48, epilogue=epilogue))
    assert is_winograd(executable)
    if epilogue in ("none", "bias", "residual", "gelu", "two results"):
        assert len(executable.kernels) == 1


def test_threads_compute_the_same_bits() -> None:
    graph = convolution((1, 56, 60), 32, 128)
    inputs = arrays(graph)
    one, two = (check(graph, threads=n)(*inputs) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_any_number_of_images(images: int) -> None:
    assert is_winograd(check(convolution((symbol("n", 1), 22, 26), 32, 64), images))


@pytest.mark.parametrize("images", [1, 6, 7, 8, 15])
def test_any_number_of_small_images(images: int) -> None:
    """Four tiles an image: a block takes several images, and none may be read past the last."""
    assert is_winograd(check(convolution((symbol("n", 1), 8, 7), 64, 64), images))


def test_a_dynamic_number_of_images_is_judged_by_several() -> None:
    for images, chosen in ((1, False), (8, True), (symbol("n", 1), True), (symbol("n", 1, 2), False)):
        graph = convolution((images, 7, 7), 512, 512)
        (node,) = [n for n in graph.nodes if n.op.name == "conv"]
        assert Winograd(parse_target("x86-64-v4")).is_faster(node, prepared=True) is chosen


def test_against_torch() -> None:
    graph = convolution((2, 28, 28), 128, 128, epilogue="none")
    (x,) = arrays(graph)
    (w,) = [n["value"].array for n in graph.nodes if n.op.name == "constant"]
    given = torch.from_numpy(x).double().permute(0, 3, 1, 2)
    want = torch.nn.functional.conv2d(given, torch.from_numpy(w.astype(np.float64)).permute(3, 2, 0, 1), padding=1)
    seen = np.asarray(graphc.compile(graph)(x))
    want = want.permute(0, 2, 3, 1).numpy()
    assert np.abs(seen - want).max() < TOLERANCE * np.abs(want).max()


def test_error_at_many_channels_is_within_the_stated_bound() -> None:
    assert is_winograd(check(convolution((4, 14, 14), 512, 512, epilogue="none"), tolerance=TOLERANCE / 2))


def test_strict_numerics_and_other_convolutions_stay_direct() -> None:
    graph = convolution((1, 28, 28), 64, 64)
    assert is_winograd(graphc.compile(graph))
    assert not is_winograd(check(graph, numerics="strict", tolerance=2e-6))
    for form in ({"strides": (2, 2)}, {"dilation": (2, 2)}, {"groups": 2}):
        assert not is_winograd(check(convolution((1, 28, 28), 64, 64, **form)))  # type: ignore[arg-type]
    assert not is_winograd(check(convolution((1, 28, 28), 3, 64)))
    assert not is_winograd(check(convolution((1, 7, 7), 512, 512)))  # the weights' way from memory would take longer


def test_direct_convolutions_in_bf16_take_half_as_long() -> None:
    """Which the algorithm must beat: it does where images have many tiles."""
    named = parse_target("x86-64-v4")
    target = replace(named, features=named.features | {"avx512bf16"})
    for size, expected in ((56, [1, 1]), (13, [1, 0])):
        found = []
        for precision in ("f32", "bf16"):
            graph = graphc.run_passes(convolution((1, size, size), 64, 64), ["channels-last", "canonicalize"])
            Winograd(target).run(graph, PassContext(precision=precision))
            found.append(sum(n.op.name == "winograd_conv" for n in graph.nodes))
        assert found == expected


def test_the_model_prefers_it_where_products_count() -> None:
    target = parse_target("x86-64-v4")
    direct, winograd = cycles(1, 56, 56, 64, 64, target)
    assert winograd < direct / 2
    direct, winograd = cycles(1, 7, 7, 512, 512, target)
    assert winograd > direct
    direct, winograd = cycles(8, 7, 7, 512, 512, target)
    assert winograd < direct / 2


def test_the_pass_keeps_its_claim() -> None:
    graph = convolution((1, 15, 17), 64, 64, epilogue="residual")
    target = parse_target("x86-64-v4")
    records = PassManager([Winograd(target), Pack(target)], verify="full").run(graph, PassContext())
    assert records[0].changed


def test_weights_that_nothing_packed_are_refused_or_decomposed() -> None:
    b = Builder()
    x, u = b.input("x", f32, (1, 9, 9, 32)), b.input("u", f32, (6, 6, 32, 128))
    graph = b.returns(b.op("winograd_conv", x, u, padding=(1, 1, 1, 1)))
    check(graph)  # the pipeline decomposes it
    with pytest.raises(UnsupportedOpError, match="aren't packed"):
        graphc.compile(graph, passes=[])


def test_weights_that_come_with_the_call_are_transformed_at_each():
    b = Builder(Graph("g"))
    x, w = b.input("x", f32, (8, 28, 28, 64)), b.input("w", f32, (3, 3, 64, 64))
    attributes = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "layout": "channels_last"}
    graph = b.returns(b.op("conv", x, w, kernel_layout="io", **attributes))
    exe = graphc.compile(graph, "llvm", cache=False)
    assert any("winograd" in k.name for k in exe.kernels)
    rng = np.random.default_rng(0)
    for _ in range(2):
        given = [rng.normal(size=v.type.concrete({})).astype(np.float32) for v in graph.inputs]
        expected = interpret(graph, given)[0]
        np.testing.assert_allclose(exe(*given), expected, atol=1e-5 * np.abs(expected).max())
