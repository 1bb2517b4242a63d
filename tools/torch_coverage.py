"""Writes docs/torch-models.md: which architectures compile and train from PyTorch, and how well they agree with it.

    python tools/torch_coverage.py [name ...]      # with names, prints their rows and writes nothing

The models are small, by configuration (tests/frontends/graphc_torch/architectures.py), with seeded weights. Each is
compiled once for the CPU with dynamic axes and run at several sizes; the error is the largest difference from torch by
the largest value. For the gradients, it is imported in training mode without dropout.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import graphc

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "torch-models.md"
TOLERANCE = 1e-4

HEAD = """# Models from PyTorch

Made by `tools/torch_coverage.py`; don't edit. Small models by configuration, with seeded weights, exported by torch {torch}
from transformers {transformers} and compiled once for the CPU with the dynamic axes that are named; `error` is the largest
difference from torch over all sizes and outputs, by the largest value. `gradients` is that of the gradients of all parameters,
by the largest gradient, in training mode without dropout, in f32 by the interpreter. ([Training](training.md).)

| model | kind | dynamic | nodes | error | gradients | |
|---|---|---|---:|---:|---:|---|
"""


def load_architectures() -> Any:
    """The module with the models, which lies among the tests."""
    path = ROOT / "tests" / "frontends" / "graphc_torch" / "architectures.py"
    spec = importlib.util.spec_from_file_location("architectures", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def row(architectures: Any, name: str) -> str:
    """The line of the table for one model; what is refused is told in its last column."""
    a = architectures.ARCHITECTURES[name]
    module = a.module()
    dynamic = ", ".join(sorted({d for axes in a.dynamic.values() for d in axes.values()}))
    try:
        graph = graphc.import_model(module, example_inputs=a.example(), dynamic=a.dims())
        executable = graphc.compile(graph, cache=False)
    except graphc.GraphcError as error:
        reason = (error.seen or error.what).replace("\n", "; ").replace("|", "/")
        return f"| {name} | {a.kind} | {dynamic} | | | | {reason} |"
    worst = 0.0
    for i, (batch, length) in enumerate(a.sizes()):
        inputs = a.example(batch, length, seed=i)
        with torch.no_grad():
            expected = architectures.tensors_of(module(**inputs))
        found = executable.run(None, inputs)
        worst = max(worst, *(architectures.error(y, z) for y, z in zip(found, expected, strict=True)))
    verdict = "works" if worst < TOLERANCE else "differs"
    gradients = gradient_error(architectures, a)
    return f"| {name} | {a.kind} | {dynamic} | {len(graph)} | {worst:.0e} | {gradients:.0e} | {verdict} |"


def gradient_error(architectures: Any, a: Any) -> float:
    """The largest difference of a gradient from torch's, by the largest gradient, for a weighted sum of all outputs."""
    module, inputs = without_dropout(a.module()).train(), a.example(batch=8)
    trainable = graphc.import_training(module, example_inputs=inputs)
    graph, _ = trainable.graph.clone()
    b, rng, losses = graphc.Builder(graph), np.random.default_rng(0), []
    state = graph.outputs[len(trainable.outputs) :]
    total = 0.0
    for y, t in zip(graph.outputs, architectures.tensors_of(module(**inputs)), strict=False):
        if t.is_floating_point():
            weights = rng.normal(size=t.shape).astype(np.float32)
            total = total + (t * torch.from_numpy(weights)).sum()
            product = b.op("mul", y, b.constant(weights))
            losses.append(b.op("reduce_sum", product, axes=tuple(range(y.type.rank))))
    graph.set_outputs((*losses, *(b.op("stop_gradient", v) for v in state)))
    wrt = [v.name for v in graph.inputs[trainable.data : trainable.data + len(trainable.parameters)]]
    arrays = [*(x.numpy() for x in inputs.values()), *trainable.parameters.values(), *trainable.state.values()]
    found = graphc.interpret(graphc.grad(graph, wrt), arrays)
    total.backward()  # type: ignore[union-attr]
    parameters = dict(module.named_parameters())
    expected = [parameters[name].grad.numpy() for name in trainable.parameters]
    largest = max(float(np.abs(e).max()) for e in expected)
    return max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True)) / largest


def without_dropout(module: torch.nn.Module) -> torch.nn.Module:
    """The module with every probability of dropping or masking at 0."""
    for holder in (*module.modules(), *(m.config for m in module.modules() if hasattr(m, "config"))):
        for name, value in list(vars(holder).items()):
            if isinstance(value, float) and ("drop" in name or name == "p" or name.startswith("mask_")):
                setattr(holder, name, 0.0)
    return module


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    architectures = load_architectures()
    names = sys.argv[1:] or list(architectures.ARCHITECTURES)
    lines = []
    for name in names:
        lines.append(row(architectures, name))
        print(lines[-1], flush=True)
    if not sys.argv[1:]:
        head = HEAD.format(torch=torch.__version__.partition("+")[0], transformers=transformers.__version__)
        TARGET.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
