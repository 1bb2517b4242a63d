"""An update becomes one loop over the parameter, with the optimizer's state written in the same pass."""

from __future__ import annotations

import pytest

import graphc
from graphc.backend import CompileOptions
from graphc.ir.types import f32
from graphc.training import optimizers
from graphc.training.optimizers import Optimizer
from graphc_llvm.backend import BACKEND

ONE_LOOP: list[Optimizer] = [
    optimizers.SGD(),
    optimizers.SGD(momentum=0.9, dampening=0.1, weight_decay=1e-2),
    optimizers.SGD(momentum=0.9, nesterov=True),
    optimizers.Adagrad(lr_decay=0.1),
    optimizers.RMSprop(centered=True, momentum=0.9),
    optimizers.Adam(amsgrad=True),
    optimizers.AdamW(),
    optimizers.Adamax(),
    optimizers.NAdam(),
    optimizers.Adadelta(),
    optimizers.Rprop(),
    optimizers.Lion(weight_decay=0.1),
    optimizers.Lookahead(optimizers.Adam()),
]


@pytest.mark.parametrize("optimizer", ONE_LOOP, ids=lambda o: type(o).__name__)
def test_one_loop(optimizer: Optimizer) -> None:
    b = graphc.Builder()
    p, g = b.input("p", f32, (64, 32)), b.input("g", f32, (64, 32))
    slots = {n: b.input(n, s.dtype, s.shape) for n, s in optimizer.slots(p.type).items()}
    new, changed = optimizer.update(b, p, g, slots, b.input("rate", f32, ()), b.input("step", f32, ()))
    graph = b.returns(new, *changed.values())
    fused = graphc.run_passes(graph, [*BACKEND.pipeline(CompileOptions()), "fuse"])
    loops = [node for node in fused.nodes if any(v.type.rank for v in node.results)]
    assert [node.op.name for node in loops] == ["fusion"]
    written = sum(v.type.rank > 0 for v in loops[0].results)
    assert written == sum(v.type.rank > 0 for v in fused.outputs)
