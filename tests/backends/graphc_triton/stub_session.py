"""Runs a model against the stub of the CUDA driver, given as argument; what the stub is asked stands on standard error."""

import ctypes
import json
import sys

import numpy as np

stub = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)  # before anything looks for libcuda.so.1

import graphc  # noqa: E402
from graphc.errors import NumericError  # noqa: E402
from graphc.ir.builder import Builder  # noqa: E402
from graphc.ir.graph import Graph  # noqa: E402
from graphc.ir.symbolic import symbol  # noqa: E402
from graphc.ir.types import bool_, f32, i64  # noqa: E402


def compiled(graph):
    executable = graphc.compile(graph, "triton", cache=False)
    segment = executable._segment
    for kernel in (*segment.prepare.kernels, *segment.main.kernels):
        for function, cubin in zip(kernel.functions, segment.cubins[kernel.key], strict=True):
            stub.stub_parameters(cubin.symbol.encode(), len(function.arguments) + 2)
    return executable, segment


def say(text):
    print(text, file=sys.stderr, flush=True)


b = Builder()
x = b.input("x", f32, (symbol("n"), 40))
w = b.constant(np.arange(960, dtype=np.float32).reshape(40, 24))
y = b.op("softmax", b.op("relu", b.op("matmul", x, w)), axis=1)
executable, segment = compiled(b.returns(y, y))
print(json.dumps({"target": segment.target, "arena": executable.memory_at({"n": 3}).arena}))
for n in (3, 3, 5):
    say(f"run {n}")
    first, second = executable(np.ones((n, 40), np.float32))
    assert first.shape == second.shape == (n, 24)
say("profile")
assert len(executable.profile(np.ones((3, 40), np.float32)).rows) == len(executable.kernels)
say("end")
del executable, segment

b = Builder()
layer = Builder(b.graph, origin=("embedding",))
executable, segment = compiled(
    b.returns(layer.op("gather", b.input("t", f32, (4, 8)), b.input("i", i64, (2,)), axis=0))
)
arguments = np.zeros((4, 8), np.float32), np.zeros(2, np.int64)
executable(*arguments)
instance = segment.runner.instance({})
ctypes.c_int32.from_address(instance.bases[-1]).value = 2  # as a kernel that met a bad index leaves it
try:
    executable(*arguments)
except NumericError as e:
    print(json.dumps(str(e)))
executable(*arguments)  # the status is clear again

say("branch")
b = Builder()
x = b.input("x", f32, (4,))
branches = []
for name in ("tanh", "exp"):
    inner = Builder(Graph(name))
    branches.append(inner.returns(inner.op(name, inner.input("x", f32, (4,)))))
(chosen,) = b.ops("if", b.input("c", bool_, ()), x, then=branches[0], otherwise=branches[1])
executable, segment = compiled(b.returns(chosen))
for condition in (True, False):
    say(f"condition {condition}")
    executable(np.ones(4, np.float32), np.array(condition))
say("done")
