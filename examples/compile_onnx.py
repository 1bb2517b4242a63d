"""Compiles an ONNX model, runs it, asks what was made of it, and saves it.

    python examples/compile_onnx.py [model.onnx]

Without a model it takes SqueezeNet from the onnx package, with seeded weights.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import graphc
from graphc.testing.light_models import light_model

model = sys.argv[1] if len(sys.argv) > 1 else light_model("squeezenet")
exe = graphc.compile(model)
print(exe)

rng = np.random.default_rng(0)
dims = {name: max(s.low, 1) for name, s in exe.graph.symbols().items()}
inputs = [rng.random(v.type.concrete(dims)).astype(v.type.dtype.numpy) for v in exe.graph.inputs]
named = dict(zip(exe.input_names, inputs, strict=True))
outputs = exe.run(None, named)
for name, y in zip(exe.output_names, outputs, strict=True):
    print(f"{name}: {y.dtype}{list(y.shape)}, mean {y.mean():.4g}")

print(exe.profile(*inputs).text(5))
print(f"a run needs {exe.memory.peak / 2**20:.1f} MiB, weights included")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.graphc"
    exe.save(path)
    again = graphc.load(path)
    same = all(map(np.array_equal, outputs, again.run(None, named)))
    print(f"saved {path.stat().st_size / 2**20:.1f} MiB and loaded it again: {'the same bits' if same else 'other bits'}")
