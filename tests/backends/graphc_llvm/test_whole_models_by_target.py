"""Whole models for other CPUs: every kernel is emitted for the target alone, with its vector instructions; AVX2 runs here too."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest

import graphc
from graphc.backend import CompileOptions
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.text import weights_of
from graphc.ir.types import f32
from graphc.lowering.assemble import assemble
from graphc.lowering.prepare import split_prepare
from graphc.pipeline import PassContext, PassManager, resolve_passes
from graphc.testing.light_models import light_model
from graphc_llvm.compilation import compile_program, pipeline
from graphc_llvm.jit import assembly
from graphc_llvm.kernels import Kernel, KernelMaker
from graphc_llvm.target import host_target, parse_target

ELF_MACHINE = {"x86-64-v3": 62, "aarch64+neon": 183}
MULTIPLY_ADD = {"x86-64-v3": r"vfmadd\d+ps.*%ymm", "aarch64+neon": r"fmla\s+v\d+\.4s"}
FOREIGN = {
    "x86-64-v3": r"%zmm|%k[0-7]\b|%[xy]mm(1[6-9]|2\d|3[01])\b",
    "aarch64+neon": r"\bz\d+\.|\bptrue\b|bfdot|\bsdot\b",
}
"""AVX-512's registers; SVE's, and dot products that plain NEON lacks."""


def weight(b: Builder, *shape: int) -> Value:
    rng = np.random.default_rng(len(b.graph.nodes))
    return b.constant((rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32))


def mlp() -> Graph:
    b = Builder()
    x = b.input("x", f32, (graphc.Dim("batch", 1, 64), 64))
    for width in (128, 64, 10):
        x = b.op("relu", b.op("matmul", x, weight(b, int(x.type.shape[-1]), width)))
    return b.returns(x)


def cnn() -> Graph:
    """A stem of stride 2, a depthwise and a pointwise convolution, one for Winograd, a pool and a head."""
    b = Builder()
    form = {"dilation": (1, 1), "layout": "channels_last", "kernel_layout": "io"}
    x = b.input("x", f32, (1, 41, 41, 3))
    x = b.op("relu", b.op("conv", x, weight(b, 3, 3, 3, 32), strides=(2, 2), padding=(1, 1, 1, 1), **form))
    x = b.op("relu", b.op("conv", x, weight(b, 3, 3, 1, 32), strides=(1, 1), padding=(1, 1, 1, 1), groups=32, **form))
    x = b.op("relu", b.op("conv", x, weight(b, 1, 1, 32, 64), strides=(1, 1), padding=(0, 0, 0, 0), **form))
    x = b.op("relu", b.op("conv", x, weight(b, 3, 3, 64, 64), strides=(1, 1), padding=(1, 1, 1, 1), **form))
    pooled = b.op("max_pool", x, axes=(1, 2), window=(2, 2), strides=(2, 2), padding=(0, 0, 0, 0), dilation=(1, 1))
    flat = b.reshape(pooled, (1, 10 * 10 * 64))
    return b.returns(b.op("softmax", b.op("matmul", flat, weight(b, 6400, 10)), axis=1))


def transformer() -> Graph:
    """A layer of attention in four heads, and one of GELU, with norms."""
    b = Builder()
    n, width, heads = 20, 64, 4
    x = b.input("x", f32, (1, n, width))

    def norm(y: Value) -> Value:
        ones, zeros = (b.constant(np.full(width, v, np.float32)) for v in (1, 0))
        return b.op("layer_norm", y, ones, zeros, axis=2, epsilon=1e-5)

    def split(y: Value) -> Value:
        return b.transpose(b.reshape(y, (1, n, heads, width // heads)), (0, 2, 1, 3))

    h = norm(x)
    q, k, v = (split(b.op("matmul", h, weight(b, width, width))) for _ in range(3))
    scores = b.transpose(b.op("attention", q, k, v, scale=0.25, causal=True), (0, 2, 1, 3))
    x = b.op("add", x, b.op("matmul", b.reshape(scores, (1, n, width)), weight(b, width, width)))
    inner = b.op("gelu", b.op("matmul", norm(x), weight(b, width, 4 * width)), approximate="none")
    return b.returns(b.op("add", x, b.op("matmul", inner, weight(b, 4 * width, width))))


MODELS = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def optimized(graph: Graph, target: str) -> tuple[Graph, CompileOptions, PassContext]:
    options = CompileOptions(target=target, cache=False)
    context = PassContext(target=target, weights=weights_of(graph))
    copy, _ = graph.clone()
    PassManager(resolve_passes(pipeline(options))).run(copy, context)
    return copy, options, context


def kernels(graph: Graph, context: PassContext, target: str) -> list[Kernel]:
    """The kernels of a graph that went through the pipeline, `prepare`'s included."""
    maker = KernelMaker(parse_target(target), "fast")
    prepare, main, _ = split_prepare(graph)
    fuse = PassManager(resolve_passes(["fuse"]))
    for part, constants in ((prepare, 0), (main, len(prepare.outputs))):
        fuse.run(part, context)
        assemble(part, constants, maker, "the llvm backend")
    return list(maker.made.values())


def check_objects(graph: Graph, target: str) -> None:
    ready, options, context = optimized(graph, target)
    program = compile_program(ready, options, context)
    objects = [*program.main.objects.values(), *program.prepare.objects.values()]
    assert objects
    for code in objects:
        assert code[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", code, 18) == (ELF_MACHINE[target],)


def check_code(graph: Graph, target: str, winograd: bool) -> None:
    """The assembly is what an object encodes: `jit.assembly` and `compile_object` differ in their last step alone."""
    ready, _, context = optimized(graph, target)
    made = kernels(ready, context, target)
    assert any(k.template == "winograd" for k in made) is winograd
    for k in made:
        text = assembly(k.text, parse_target(target))
        assert not re.search(FOREIGN[target], text), k.name
        if k.template in ("gemm", "winograd"):
            assert re.search(MULTIPLY_ADD[target], text), k.name
    assert any(k.template == "gemm" for k in made)


@pytest.mark.parametrize("target", list(ELF_MACHINE))
@pytest.mark.parametrize("name", MODELS)
def test_the_code_is_the_targets(name: str, target: str) -> None:
    check_code(MODELS[name](), target, winograd=name == "cnn")


@pytest.mark.parametrize("target", list(ELF_MACHINE))
def test_programs_are_objects_for_the_target(target: str) -> None:
    check_objects(mlp(), target)


@pytest.mark.skipif("avx2" not in host_target().features, reason="this machine lacks AVX2")
@pytest.mark.parametrize("name", MODELS)
def test_avx2_computes_the_same(name: str) -> None:
    graph = MODELS[name]()
    x = np.random.default_rng(0).standard_normal(graph.inputs[0].type.concrete({"batch": 5})).astype(np.float32)
    (expected,) = interpret(graph, [x])
    y = graphc.compile(graph, target="x86-64-v3", threads=1, cache=False)(x)
    assert np.abs(y - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("target", list(ELF_MACHINE))
def test_resnet50(target: str) -> None:
    check_code(graphc.import_model(light_model("resnet50")), target, winograd=True)


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in host_target().features, reason="this machine lacks AVX2")
def test_resnet50_runs_with_avx2() -> None:
    model = light_model("resnet50")
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    here, narrow = (graphc.compile(model, target=t)(x) for t in (None, "x86-64-v3"))
    assert np.abs(here - narrow).max() < 1e-3 * np.abs(here).max()
