"""How far an executable is from the reference: against the same graph interpreted in double precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from graphc.cli.report import table

if TYPE_CHECKING:
    import numpy as np

    from graphc.claims import Claim
    from graphc.executable import Executable


@dataclass(frozen=True)
class Agreement:
    """One output: its greatest difference from f64 over its greatest magnitude, and the same of the reference itself.

    `agrees` says that what the passes claim together holds for it (`claim_of`).
    """

    output: str
    error: float
    reference_error: float
    agrees: bool
    breach: str | None

    def data(self) -> dict[str, Any]:
        return asdict(self)


def compare(executable: Executable, inputs: Mapping[str, np.ndarray]) -> list[Agreement]:
    """Every output of a program that was compiled anew, not taken from the cache, on these inputs."""
    import numpy as np

    from graphc.claims import find_breach
    from graphc.cones import widen
    from graphc.interpreter import interpret

    graph, claim = executable.graph, claim_of(executable)
    seen = executable.run(None, inputs)
    own = interpret(graph, inputs)
    floats = {v.name for v in graph.inputs if v.type.dtype.is_float}
    wide = interpret(widen(graph), {n: x.astype(np.float64) if n in floats else x for n, x in inputs.items()})
    found = []
    for name, s, o, w in zip(executable.output_names, seen, own, wide, strict=True):
        breach = find_breach(claim, s, o, w)
        told = None if breach is None else f"{breach} instead of {breach.expected!r}"
        found.append(Agreement(name, relative(s, w), relative(o, w), breach is None, told))
    return found


def claim_of(executable: Executable) -> Claim:
    """What the passes that changed the graph claim together: an error like the reference's own, or the sum of their bounds."""
    from graphc.claims import REASSOCIATES, approximate

    bound = sum(p["bound"] for p in executable.report.passes if p["changed"])
    return approximate(bound) if bound else REASSOCIATES


def relative(seen: np.ndarray, wide: np.ndarray) -> float:
    """The greatest difference over the greatest magnitude, of what is finite in both."""
    import numpy as np

    s, w = seen.astype(np.float64), wide.astype(np.float64)
    finite = np.isfinite(s) & np.isfinite(w)
    if not finite.any():
        return 0.0
    greatest = float(np.abs(w[finite]).max())
    difference = float(np.abs(s[finite] - w[finite]).max())
    return difference / greatest if greatest else difference


def agreement_table(rows: list[Agreement]) -> str:
    """The agreements as lines of text."""
    head = ("error", "reference's", "output", "")
    lines = [(f"{a.error:.2e}", f"{a.reference_error:.2e}", a.output, verdict(a)) for a in rows]
    return table([head, *lines], right=(0, 1))


def verdict(a: Agreement) -> str:
    """`agrees`, or the first element that doesn't."""
    return "agrees" if a.agrees else f"DIFFERS: {a.breach}"
