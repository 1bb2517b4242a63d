"""Runs a rewrite inside of regions: the closed graphs that nodes (scan, fusion) carry as attributes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.pipeline import PassContext


def rewrite_regions(graph: Graph, context: PassContext, edit: Callable[[Graph, PassContext], bool]) -> bool:
    """Edits a copy of each region, innermost first, and replaces the nodes whose regions changed; whether any did.

    `edit` says whether it changed the graph that it got. Copies, since regions are shared between graphs.
    """
    changed = False
    for node in graph.nodes:
        edited = {}
        for name, value in node.attributes.items():
            if not isinstance(value, Graph):
                continue
            region, _ = value.clone()
            inner = replace(context, replaced={})
            below = rewrite_regions(region, inner, edit)
            if edit(region, inner) or below:
                edited[name] = region
        if not edited:
            continue
        builder = Builder(graph, before=node, origin=node.origin)
        new = builder.emit(node.op, node.operands, name=node.results[0].name, **{**node.attributes, **edited})
        for old, value in zip(node.results, new.results, strict=True):
            context.replace(graph, old, value)
        graph.erase(node)
        changed = True
    return changed
