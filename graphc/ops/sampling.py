"""Arrays for operators' samples: the same in every process."""

from __future__ import annotations

import numpy as np


def uniform(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Uniform f64 values in [low, high), a function of shape and seed alone."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape)
