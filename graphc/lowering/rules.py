"""How each operator's elements are computed in a nest: the rules of all families."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.lowering import rules_convolution, rules_elementwise, rules_indexing, rules_reductions
from graphc.lowering.nest import Rule
from graphc.lowering.rules_movement import VIEWS

RULES: Mapping[str, Rule] = {
    **rules_elementwise.RULES,
    **VIEWS,
    **rules_reductions.RULES,
    **rules_convolution.RULES,
    **rules_indexing.RULES,
}

TRANSPARENT = frozenset(VIEWS)
"""Operators whose rules themselves see to what stands where a predicate fails."""

SCATTERS = frozenset({"scatter_along", "scatter_nd"})
RUNNING = frozenset({"cumsum", "cumprod"})
LOWERABLE = frozenset(RULES) | SCATTERS
"""Operators that have a body, alone or fused."""
