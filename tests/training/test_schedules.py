"""Schedules give the rates of torch.optim.lr_scheduler's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as of_torch

from graphc.training import schedules
from graphc.training.schedules import Schedule

STEPS = 40
Make = Callable[[torch.optim.Optimizer], Any]


def _rates(make: Make, rate: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


CASES: list[tuple[str, Schedule, Make, int]] = [
    ("step", schedules.StepDecay(0.5, 7, 0.3), lambda o: of_torch.StepLR(o, 7, 0.3), STEPS),
    ("multi-step", schedules.MultiStep(0.5, (3, 10, 11)), lambda o: of_torch.MultiStepLR(o, [3, 10, 11]), STEPS),
    ("exponential", schedules.Exponential(0.5, 0.9), lambda o: of_torch.ExponentialLR(o, 0.9), STEPS),
    ("cosine", schedules.Cosine(0.5, 30, 0.01), lambda o: of_torch.CosineAnnealingLR(o, 30, 0.01), 31),
    ("restarts", schedules.CosineRestarts(0.5, 6, 1, 0.01),
     lambda o: of_torch.CosineAnnealingWarmRestarts(o, 6, 1, 0.01), STEPS),
    ("longer restarts", schedules.CosineRestarts(0.5, 5, 2),
     lambda o: of_torch.CosineAnnealingWarmRestarts(o, 5, 2), STEPS),
    ("one-cycle", schedules.OneCycle(0.5, STEPS), lambda o: of_torch.OneCycleLR(o, 0.5, STEPS), STEPS),
    ("linear one-cycle", schedules.OneCycle(0.5, STEPS, 0.4, 10, 100, "linear"),
     lambda o: of_torch.OneCycleLR(o, 0.5, STEPS, pct_start=0.4, div_factor=10, final_div_factor=100,
                                   anneal_strategy="linear"), STEPS),
    ("polynomial", schedules.Polynomial(0.5, 25, 2.0), lambda o: of_torch.PolynomialLR(o, 25, 2.0), STEPS),
    ("warm-up", schedules.WarmUp(0.5, 8, 0.1), lambda o: of_torch.LinearLR(o, 0.1, 1.0, 8), STEPS),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "make", "steps"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step:UserWarning")
def test_equals_torch(schedule: Schedule, make: Make, steps: int) -> None:
    seen = [schedule(i) for i in range(steps)]
    np.testing.assert_allclose(seen, _rates(make, 0.5, steps), rtol=1e-10, atol=1e-15)


def test_after_their_steps_they_rest() -> None:
    assert schedules.Cosine(0.5, 30, 0.01)(100) == pytest.approx(0.01)
    assert schedules.Polynomial(0.5, 25)(100) == 0
    last = schedules.OneCycle(0.5, STEPS)
    assert last(STEPS + 5) == last(STEPS - 1)


def test_warm_up_before_a_schedule() -> None:
    cosine = schedules.Cosine(0.5, 30)
    warm = schedules.WarmUp(cosine, 5)
    assert [warm(i) for i in range(5)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [warm(i) for i in (5, 20)] == [cosine(0), cosine(15)]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau(mode: Any, threshold_mode: Any) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    expected = of_torch.ReduceLROnPlateau(
        optimizer, mode, 0.3, 2, 0.05, threshold_mode, cooldown=2, min_lr=0.02
    )
    plateau = schedules.Plateau(0.5, 0.3, 2, mode, 0.05, threshold_mode, cooldown=2, minimum=0.02)
    for metric in np.random.default_rng(0).uniform(1, 2, 60):
        expected.step(float(metric))
        plateau.observe(float(metric))
        assert plateau(0) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert plateau(0) == 0.02
