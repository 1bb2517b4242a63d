"""Applies rules until none fits, and enforces what every rule needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from graphc.errors import VerifyError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.pipeline import PassContext
from graphc.rewrite.matcher import Match, find_matches
from graphc.rewrite.patterns import roots
from graphc.rewrite.rules import Rule


def apply_rules(graph: Graph, rules: Sequence[Rule], context: PassContext, fuel: int | None = None) -> dict[str, int]:
    """Rewrites until no rule fits; how often each one did, by name.

    Enforced: inner values of a match have no users outside of it (else the rule is refused, on record); replacements
    have the types of what they replace; new nodes carry the origins of all that they stand for; `fuel` bounds the
    number of rewrites (default: 20 a node), and rules that use it up raise VerifyError. Dead matched nodes are erased.
    """
    by_root: dict[str, list[Rule]] = {}
    for rule in rules:
        for name in roots(rule.pattern):
            by_root.setdefault(name, []).append(rule)
    counts: Counter[str] = Counter()
    limit = fuel if fuel is not None else 20 * len(graph) + 100
    changed = True
    while changed:
        changed = False
        refused: dict[tuple[str, Node], str] = {}
        for node in graph.nodes:
            if node.graph is None:
                continue
            for rule in by_root.get(node.op.name, ()):
                match = _first(rule, node, refused)
                if match is None:
                    continue
                _apply(graph, rule, match, context)
                counts[rule.name] += 1
                changed = True
                if counts.total() > limit:
                    top = ", ".join(f"{name} ({n})" for name, n in counts.most_common(3))
                    raise VerifyError("rewriting doesn't end", layer=", ".join(node.origin) or None, seen=top)
                break
    for (name, node), reason in refused.items():  # of the last round alone: earlier ones may have been overcome
        context.refuse(name, node, reason)
    return dict(sorted(counts.items()))


def _first(rule: Rule, node: Node, refused: dict[tuple[str, Node], str]) -> Match | None:
    """The first match that the check accepts and that leaks nothing; else the first reason is noted."""
    reasons = []
    for match in find_matches(rule.pattern, node):
        leak = match.leak()
        reason = rule.check(match) if leak is None else f"%{leak.name} is used elsewhere"
        if reason is None:
            return match
        reasons.append(reason)
    if reasons:
        refused[rule.name, node] = reasons[0]
    return None


def _apply(graph: Graph, rule: Rule, match: Match, context: PassContext) -> None:
    builder = Builder(graph, before=match.root, origin=united_origins(reversed(match.nodes)))
    made = rule.rewrite(builder, match)
    values: Sequence[Value] = (made,) if isinstance(made, Value) else made
    if [v.type for v in values] != [v.type for v in match.root.results]:
        raise VerifyError(
            f"rule {rule.name} changes types ({rule.equation})",
            layer=", ".join(match.root.origin) or None,
            seen=", ".join(str(v.type) for v in values),
            expected=", ".join(str(v.type) for v in match.root.results),
        )
    for old, new in zip(match.root.results, values, strict=True):
        context.replace(graph, old, new)
    erase_dead(graph, [match.root])


def united_origins(nodes: Iterable[Node]) -> tuple[str, ...]:
    """The origins of all the nodes, each once."""
    return tuple(dict.fromkeys(o for node in nodes for o in node.origin))


def erase_dead(graph: Graph, nodes: Iterable[Node]) -> int:
    """Erases those of the nodes, and of what they alone read, that nothing reads; how many. Terminal ones stay."""
    erased = 0
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node.graph is not graph or "terminal" in node.op.traits or any(v.uses for v in node.results):
            continue
        graph.erase(node)
        erased += 1
        stack.extend(v.producer for v in node.operands if v.producer is not None)
    return erased
