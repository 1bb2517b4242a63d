"""One compilation serves every batch size: dims may be symbols, with ranges that are checked at each call.

    python examples/dynamic_batch.py
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import graphc

rng = np.random.default_rng(0)
w = rng.standard_normal((784, 10)).astype(np.float32)
model = helper.make_model(
    helper.make_graph(
        [helper.make_node("MatMul", ["pixels", "w"], ["logits"], name="head")],
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 784])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(w, "w")],
    ),
    opset_imports=[helper.make_opsetid("", 20)],
)

# The file says batch 1. A dim_param in the file, like "batch", would be dynamic as it is.
exe = graphc.compile(model, dynamic={"pixels": {0: graphc.Dim("batch", 1, 64)}})
print(exe)

for batch in (1, 7, 64):
    x = rng.standard_normal((batch, 784)).astype(np.float32)
    error = np.abs(exe(x) - x @ w).max()
    print(f"batch {batch:2}: {exe.memory_at({'batch': batch}).peak:,} bytes, largest difference from NumPy {error:.1e}")

try:
    exe(np.zeros((65, 784), np.float32))
except graphc.ShapeError as error:
    print(f"batch 65 is refused:\n{error}")
