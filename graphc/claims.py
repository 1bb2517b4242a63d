"""What a pass claims about the values it replaces, and how a claim is tested on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MULTIPLE = 4.0
"""How many times the original's error against f64 a reassociated value may have ..."""

ULPS = 32.0
"""... plus this many ulps of its largest element, since the original's own error may happen to be nothing."""


@dataclass(frozen=True)
class Claim:
    """An equivalence between a value and its replacement. Use EXACT, REASSOCIATES or `approximate`.

    exact: bit-identical (any NaN equals any NaN; zeros keep their signs).
    reassociates: the same function of real numbers, rounded elsewhere: the error against an f64 run is at most MULTIPLE
        times the original's plus ULPS; integers and booleans are those of the original or of the f64 run.
    approximate: every element within `bound` times the original's largest.
    """

    kind: str
    bound: float = 0.0

    def __str__(self) -> str:
        return f"approximate({self.bound:g})" if self.kind == "approximate" else self.kind


EXACT = Claim("exact")
REASSOCIATES = Claim("reassociates")


def approximate(bound: float) -> Claim:
    """Every element within `bound` times the largest magnitude of the original."""
    return Claim("approximate", bound)


@dataclass(frozen=True)
class Breach:
    """The first element, in row-major order, that breaks a claim."""

    index: tuple[int, ...]
    seen: object
    expected: object

    def __str__(self) -> str:
        return f"{self.seen!r} at {list(self.index)}"


def find_breach(claim: Claim, seen: np.ndarray, original: np.ndarray, wide: np.ndarray | None = None) -> Breach | None:
    """Where `seen` breaks a claim about `original`, or None; `wide` is the original in f64 (reassociates needs it)."""
    if seen.dtype != original.dtype or seen.shape != original.shape:
        expected = f"{original.dtype}{list(original.shape)}"
        return Breach((), f"{seen.dtype}{list(seen.shape)}", expected)
    if claim.kind == "exact":
        bad = ~_identical(seen, original)
    elif not _is_float(seen):
        bad = seen != original
        if wide is not None:
            bad &= seen != wide
    elif claim.kind == "approximate":
        bad = _far(seen, original, claim.bound * _largest(original))
    else:
        if wide is None:
            raise ValueError("a claim to reassociate is tested against an f64 run")
        own = _error(original, wide)
        bad = _far(seen, wide, MULTIPLE * own + ULPS * _epsilon(seen.dtype) * _largest(wide), original)
    if not bad.any():
        return None
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
    return Breach(index, seen[index].item(), original[index].item())


def _is_float(a: np.ndarray) -> bool:
    return a.dtype.kind not in "?biu"  # bf16, from outside NumPy, is of kind V


def _epsilon(dtype: np.dtype) -> float:
    if dtype.name == "bfloat16":
        return 2.0**-7
    return float(np.finfo(dtype).eps)


def _identical(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if not _is_float(a):
        return np.asarray(a == b)
    bits = np.dtype(f"u{a.dtype.itemsize}")
    same = np.ascontiguousarray(a).view(bits).reshape(a.shape) == np.ascontiguousarray(b).view(bits).reshape(a.shape)
    return np.asarray(same | (np.isnan(a) & np.isnan(b)))


def _far(seen: np.ndarray, target: np.ndarray, tolerance: float, original: np.ndarray | None = None) -> np.ndarray:
    """Where `seen` is further than `tolerance` from `target`; where that isn't finite, it may be as in `original`."""
    s, t = seen.astype(np.float64), target.astype(np.float64)
    with np.errstate(invalid="ignore"):
        close = np.abs(s - t) <= tolerance
    close |= (s == t) | (np.isnan(s) & np.isnan(t))
    if original is not None:  # the original itself overflowed, or met NaN, where f64 didn't
        o = original.astype(np.float64)
        close |= ~np.isfinite(o) & ((s == o) | np.isnan(o) | np.isfinite(s))
    return ~np.asarray(close)


def _largest(a: np.ndarray) -> float:
    magnitudes = np.abs(a.astype(np.float64))
    finite = magnitudes[np.isfinite(magnitudes)]
    return float(finite.max()) if finite.size else 0.0


def _error(a: np.ndarray, wide: np.ndarray) -> float:
    """The largest difference between elements that are finite in both."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(a.astype(np.float64) - wide)
    finite = difference[np.isfinite(difference)]
    return float(finite.max()) if finite.size else 0.0
