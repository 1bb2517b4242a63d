"""A rewrite rule: a pattern, a check that may refuse, and what stands for the match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.rewrite.matcher import Match
from graphc.rewrite.patterns import AnyPattern

Check = Callable[[Match], "str | None"]
Rewrite = Callable[[Builder, Match], "Value | Sequence[Value]"]


def accept(match: Match) -> str | None:
    """The check of rules that need none."""
    return None


@dataclass(frozen=True)
class Rule:
    """`equation` says it in one line: what is matched = what stands for it.

    check: None, or the reason why the rule doesn't apply here (told to the user). rewrite: emits the new values of the
    root's results, before the root.
    """

    name: str
    equation: str
    pattern: AnyPattern
    rewrite: Rewrite
    check: Check = accept
