"""Chains of steps in bands: the bits of whole steps, torch's numbers, less memory, and nothing where it can't be shown."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import graphc
from graphc.ir.symbolic import symbol
from graphc.ir.types import TensorType, f32
from graphc.lowering.program import ArenaBuffer, KernelStep, Location, Program
from graphc_llvm import bands
from graphc_llvm.bands import Course, Part, find_chains, lifetimes
from graphc_llvm.instance import Instance
from graphc_llvm.program_json import walks_from_json, walks_to_json
from graphc_llvm.segment import LlvmSegment, Runner
from graphc_llvm.walk import Caches, Touch, Walk, Walks

SMALL = Caches(own=48 << 10, last=8 << 10)
"""Caches so small that the tests' tensors don't fit."""


@pytest.fixture(autouse=True)
def calls_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of some hundred KiB save less than the calls of bands cost."""
    monkeypatch.setattr(bands, "_CALL", 0.0)


def runner_of(executable: graphc.Executable) -> Runner:
    segment = executable._segment
    assert isinstance(segment, LlvmSegment)
    return segment.runner


def run_both(
    runner: Runner, x: np.ndarray, dims: Mapping[str, int], caches: Caches = SMALL, threads: int = 1
) -> tuple[Instance, list[np.ndarray], list[np.ndarray]]:
    """(the instance in bands, its outputs, those of whole steps), from arenas full of NaN."""
    assert runner.walks is not None
    _, entry = runner.instance(dims)
    results, made = [], []
    for walks in (replace(runner.walks, caches=replace(caches, own=caches.own // threads)), None):
        instance = Instance(runner.program, dims, runner.addresses, runner.constants, threads, walks)
        frame = instance.new_frame()
        for memory in frame.memory:
            memory[:] = 255
        outputs = [np.full(shape, np.nan, np.float32) for shape in instance.shapes]
        runner.call(entry, frame, [x], outputs)
        made.append(instance)
        results.append(outputs)
    return made[0], *results


class Residual(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Last(nn.Module):
    """A module of the last axis, on the channels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


def inverted(channels: int, wide: int, outputs: int, stride: int = 1, size: int = 3) -> list[nn.Module]:
    """Expand, depthwise, project."""
    depthwise = nn.Conv2d(wide, wide, size, stride, size // 2, groups=wide)
    return [nn.Conv2d(channels, wide, 1), nn.ReLU6(), depthwise, nn.ReLU6(), nn.Conv2d(wide, outputs, 1)]


NETS: dict[str, tuple[list[nn.Module], tuple[int, ...]]] = {
    "expand, depthwise, project": ([*inverted(16, 96, 24), nn.ReLU(), nn.Conv2d(24, 8, 1)], (1, 16, 96, 12)),
    "stride 2, three images": ([*inverted(8, 64, 24, 2), nn.ReLU(), nn.Conv2d(24, 8, 1)], (3, 8, 64, 16)),
    "residuals": ([Residual(*inverted(16, 64, 16)), Residual(*inverted(16, 64, 16, size=5))], (2, 16, 70, 12)),
    "dilated, without padding": (
        [
            nn.Conv2d(8, 32, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1, 0, dilation=2),
            nn.ReLU(),
            nn.Conv2d(32, 16, 5, 1, 2),
        ],
        (2, 8, 80, 17),
    ),
    "3x3 convolutions": (
        [
            nn.Conv2d(16, 32, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1, 1),
            nn.MaxPool2d(2),
        ],
        (2, 16, 90, 21),
    ),
    "norms into products": (
        [
            Last(nn.Linear(24, 64)),
            Last(nn.LayerNorm(64)),
            Last(nn.Linear(64, 96)),
            nn.GELU(),
            Last(nn.Linear(96, 24)),
            Last(nn.Softmax(-1)),
        ],
        (3, 24, 60, 13),
    ),
}


def compiled(name: str, **options: object) -> tuple[graphc.Executable, nn.Module, torch.Tensor]:
    layers, shape = NETS[name]
    torch.manual_seed(0)
    net, x = nn.Sequential(*layers).eval(), torch.randn(shape)
    return graphc.compile(net, example_inputs=(x,), threads=1, **options), net, x  # type: ignore[arg-type]


def agrees(seen: np.ndarray, net: nn.Module, x: torch.Tensor) -> bool:
    with torch.no_grad():
        want = net(x).numpy()
    return bool(np.abs(seen - want).max() < 2e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", NETS)
def test_a_chain_in_bands_gives_the_same_bits_in_less_memory(name: str) -> None:
    executable, net, x = compiled(name)
    for threads in (1, 2):
        instance, seen, whole = run_both(runner_of(executable), x.numpy(), {}, threads=threads)
        assert instance.chains
        for chain in instance.chains:
            assert all(instance.bands[n] > 1 for n in range(chain.first, chain.last + 1))
            sizes = [instance.at(instance.program.buffers[b].bytes) for b in chain.windows]
            assert sum(chain.windows.values()) <= sum(sizes) // 2
        assert np.array_equal(seen[0], whole[0])
        assert agrees(seen[0], net, x)
        plain = Instance(instance.program, {}, instance.kernels, instance.constants, threads)
        assert instance.arena_bytes <= plain.arena_bytes


def random_net(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Layers of many kinds, one after another, on a tall image."""
    x = torch.randn(rng.choice([1, 2, 3]), rng.choice([8, 16]), rng.choice([67, 96]), rng.choice([7, 12, 16]))
    layers: list[nn.Module] = []
    y = x
    while len(layers) < 6:
        c, size, stride = y.shape[1], rng.choice([3, 5]), rng.choice([1, 1, 2])
        layer = rng.choice([
            nn.Conv2d(c, rng.choice([16, 40, 64]), 1),
            nn.Conv2d(c, c, size, stride, rng.choice([0, size // 2]), groups=c, dilation=rng.choice([1, 2])),
            nn.Conv2d(c, rng.choice([16, 32]), rng.choice([2, 3]), stride, rng.choice([0, 1])),
            nn.MaxPool2d(3, stride, 1),
            Last(nn.LayerNorm(c)),
            Residual(*inverted(c, 2 * c, c)),
            nn.Softmax(1),
            nn.ZeroPad2d((1, 2, 3, 0)),
        ])  # fmt: skip
        if min(y.shape[2:]) >= 6:
            layers.append(layer)
        else:
            layers.append(nn.Conv2d(c, 32, 1))
        y = layers[-1](y).detach()
    return nn.Sequential(*layers).eval(), x


@pytest.mark.parametrize("seed", range(4))
def test_random_chains_give_the_same_bits(seed: int) -> None:
    torch.manual_seed(seed)
    net, x = random_net(random.Random(seed))
    executable = graphc.compile(net, example_inputs=(x,), threads=1)
    for own in (16 << 10, 48 << 10):
        _, seen, whole = run_both(runner_of(executable), x.numpy(), {}, Caches(own, 1024), 1 + seed % 2)
        assert np.array_equal(seen[0], whole[0])
        assert agrees(seen[0], net, x)


def test_dynamic_sizes_are_banded_where_they_are_large() -> None:
    n, h = graphc.Dim("n", 1, 8), graphc.Dim("h", 4, 512)
    executable, net, x = compiled("expand, depthwise, project", dynamic={"input": {0: n, 2: h}})
    runner = runner_of(executable)
    for images, height, banded in ((1, 4, False), (2, 90, True), (1, 131, True)):
        x = torch.randn(images, 16, height, 12)
        instance, seen, whole = run_both(runner, x.numpy(), {"n": images, "h": height}, Caches(48 << 10, 1 << 20))
        assert bool(instance.chains) == banded
        assert np.array_equal(seen[0], whole[0])
        assert agrees(seen[0], net, x)


def test_what_the_caches_hold_runs_whole() -> None:
    executable, _, x = compiled("expand, depthwise, project")
    instance, *_ = run_both(runner_of(executable), x.numpy(), {}, Caches(1 << 20, 32 << 20))
    assert not instance.chains
    assert instance.numbers == list(range(len(instance.program.steps)))


def test_a_profile_counts_the_bands_and_adds_up_their_times() -> None:
    executable, _, x = compiled("expand, depthwise, project")
    runner = runner_of(executable)
    assert runner.walks is not None
    runner.walks = replace(runner.walks, caches=SMALL)
    runner.static = (
        Instance(runner.program, {}, runner.addresses, runner.constants, 1, runner.walks),
        runner.static[1],
    )  # type: ignore[index]
    profile = executable.profile(x.numpy())
    assert len(profile.rows) == len(runner.program.steps)
    assert [r.bands for r in profile.rows] == runner.static[0].bands
    assert all(r.seconds > 0 for r in profile.rows)
    assert " bands" in profile.text()


def test_walks_come_back_from_json() -> None:
    n = graphc.Dim("n", 1, 8)
    for dynamic in (None, {"input": {0: n}}):
        executable, _, _ = compiled("norms into products", dynamic=dynamic)
        walks = runner_of(executable).walks
        assert walks is not None and any(w is not None for w in walks.kernels)
        assert walks_from_json(walks_to_json(walks)) == walks


# What a walk says of its touches, and what a program must be like.


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(-7, 7)), max_size=4),
    st.integers(0, 5),
    st.integers(1, 6),
)
def test_touches_are_bounded_by_those_of_every_point(axes: list[tuple[int, int]], low: int, length: int) -> None:
    extents, strides = tuple(e for e, _ in axes), tuple(s for _, s in axes)
    walk = Walk((), extents, 1, 1, 1, 0, (Touch(0, strides, low + 100, low + 100 + length),))
    course = Course(walk, {})
    starts = [
        low + 100 + sum(s * i for s, i in zip(strides, x, strict=True)) for x in itertools.product(*map(range, extents))
    ]
    assert course.units == len(starts)
    for units in range(1, course.units + 1):
        assert course.end(0, units) == max(starts[:units]) + length
    for units in range(course.units):
        assert course.start(0, units) == min(starts[units:])


def test_blocks_end_where_rows_do() -> None:
    course = Course(Walk((), (2, 5), 5, 2, 3, 1, ()), {})
    assert course.units == 6
    assert [course.points(u) for u in range(7)] == [0, 2, 4, 5, 7, 9, 10]


ROWS, BYTES = 64, 1024


def program(in_place: tuple[tuple[int, int], ...] = (), again: bool = False) -> tuple[Program, Walks]:
    """Two steps, row by row: input -> buffer -> output; `again`: and a third step, which reads the buffer."""
    read, write = (Touch(i, (BYTES,), 0, BYTES) for i in (0, 1))
    walk = Walk((), (ROWS,), 1, 1, 1, 1, (read, write))

    def step(*places: Location) -> KernelStep:
        return KernelStep(0, "copy", (), places, (), ROWS, 0, 0, 0, (), "f32")

    buffer = Location(2, 0)
    steps = [step(Location(0), buffer), step(buffer, Location(1))]
    if again:
        steps = [
            steps[0],
            step(buffer, Location(2, 1)),
            step(Location(2, 1), Location(1)),
            step(buffer, Location(2, 1)),
        ]
    kind = TensorType(f32, (ROWS, BYTES // 4))
    buffers = [ArenaBuffer(ROWS * BYTES, 0, 1)]
    if again:
        buffers = [ArenaBuffer(ROWS * BYTES, 0, 3), ArenaBuffer(ROWS * BYTES, 1, 3)]
    made = Program((kind,), (kind,), 0, 0, tuple(buffers), tuple(steps), (("key", "name"),), in_place)
    return made, Walks((walk,), Caches(8 * BYTES, 8 * BYTES))


def found(made: Program, walks: Walks) -> list[bands.Chain]:
    return find_chains(made, walks, lambda d: int(str(d)), [ROWS * BYTES] * len(made.buffers), 1)


def test_steps_take_turns_and_hand_on_what_a_window_holds() -> None:
    (chain,) = found(*program())
    parts = [(p.step, p.begin, p.end) for p in chain.order if isinstance(p, Part)]
    assert parts[:4] == [(0, 0, 8), (1, 0, 8), (0, 8, 16), (1, 8, 16)]
    assert [e for _, _, e in parts[-2:]] == [ROWS, ROWS]
    assert chain.windows == {0: 8 * BYTES}
    assert len(parts) == len(chain.order)  # all is read before the writer goes on: nothing moves


def test_what_nobody_reads_is_written_within_the_window() -> None:
    """The writer's points overlap, as Winograd's tiles do, and its reader leaves out rows that are still to be written."""
    cell, cells = 64, 4
    row = cell * cells
    tiles = Walk((), (ROWS, cells), 1, 1, 1, 1, tuple(Touch(i, (4 * row, cell), 0, 3 * row + cell) for i in (0, 1)))
    thirds = Walk((), (ROWS,), 1, 1, 1, 1, (Touch(0, (3 * row,), 0, row), Touch(1, (row,), 0, row)))
    made, _ = program()
    first, second = made.steps
    assert isinstance(first, KernelStep) and isinstance(second, KernelStep)
    steps = replace(first, work=ROWS * cells), replace(second, kernel=1)
    buffers = (replace(made.buffers[0], bytes=4 * ROWS * row),)
    made = replace(made, steps=steps, buffers=buffers, kernels=(*made.kernels, ("other", "other")))
    walks, course = Walks((tiles, thirds), Caches(9 * row, 8 * row)), Course(tiles, {})
    (chain,) = find_chains(made, walks, lambda d: int(str(d)), [4 * ROWS * row], 1)
    parts = [p for p in chain.order if isinstance(p, Part) and p.step == 0]
    assert any(p.shifts[0] for p in parts)
    for p in parts:
        assert p.shifts[0] <= course.start(1, p.begin)
        assert course.end(1, p.end) - p.shifts[0] <= chain.windows[0]


def test_a_step_that_writes_over_an_input_stays_whole() -> None:
    assert not found(*program(in_place=((0, 0),)))


def test_what_is_written_twice_ends_a_chain() -> None:
    made, walks = program(again=True)
    assert all(chain.last < 3 for chain in found(made, walks))


def test_a_chain_keeps_what_it_touches_to_its_end() -> None:
    made, walks = program()
    (chain,) = found(made, walks)
    more = replace(made, buffers=(*made.buffers, ArenaBuffer(64, 1, 5), ArenaBuffer(64, 0, 0), ArenaBuffer(64, 7, 8)))
    seen = lifetimes(more, [ROWS * BYTES, 64, 64, 64], [chain])
    assert [(x.first, x.last) for x in seen] == [(0, 1), (0, 5), (0, 1), (7, 8)]
    assert seen[0].bytes == 8 * BYTES


def test_a_kernel_whose_walk_is_unknown_ends_a_chain() -> None:
    made, walks = program()
    assert not found(made, replace(walks, kernels=(None,)))
    anywhere = Walk((), (ROWS,), 1, 1, 1, 1, (Touch(0, (0,), 0, ROWS * BYTES), Touch(1, (BYTES,), 0, BYTES)))
    assert not found(made, replace(walks, kernels=(anywhere,)))


def test_a_walk_of_symbolic_sizes_is_evaluated_at_dims() -> None:
    rows = symbol("s0", 1, 64)
    course = Course(Walk(("s0",), (rows,), 1, 1, 1, 0, (Touch(0, (8 * rows,), 0, 4),)), {"s0": 3})
    assert (course.units, course.end(0, 2), course.start(0, 2)) == (3, 28, 48)
