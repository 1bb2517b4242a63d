"""Tells what compilation did: passes, refusals with their reasons, kernels with their layers, memory, guards."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphc.executable import Executable

MOST_REFUSALS = 20
"""How many refusals the text lists; `describe` has all of them."""


def describe(executable: Executable) -> dict[str, Any]:
    """What `explain` tells, as JSON's types."""
    graph, report, memory = executable.graph, executable.report, executable.memory
    return {
        "graph": graph.name,
        "inputs": {v.name: str(v.type) for v in graph.inputs},
        "outputs": {v.name: str(v.type) for v in graph.outputs},
        "options": asdict(executable.options),
        "cached": report.cached,
        "seconds": dict(report.seconds),
        "partition": report.partition,
        "passes": report.passes,
        "choices": executable.text("choices").splitlines() if "choices" in executable.stages else [],
        "refusals": list(report.refusals),
        "kernels": [asdict(k) for k in executable.kernels],
        "cost": executable.cost,
        "memory": {**asdict(memory), "peak": memory.peak},
        "guards": [str(g) for g in graph.guards],
    }


def explain(executable: Executable) -> str:
    """The same for people, ending in a newline."""
    d = describe(executable)
    lines = [f"{d['graph']} on {executable.options.backend_name}, {d['options']['numerics']} numerics"]
    lines += [f"  in:  {name}: {type}" for name, type in d["inputs"].items()]
    lines += [f"  out: {name}: {type}" for name, type in d["outputs"].items()]
    if d["seconds"]:
        lines.append("  took " + ", ".join(f"{stage} {s:.2f} s" for stage, s in d["seconds"].items()))
    if d["partition"]:
        lines += ["", *_partition_lines(d["partition"])]
    lines += ["", "passes:", *passes_lines(d)]
    if d["choices"]:
        lines += ["", f"measured choices ({len(d['choices'])}):", *(f"  {line}" for line in d["choices"])]
    if d["refusals"]:
        lines += ["", f"refused ({len(d['refusals'])}):", *_refusal_lines(d["refusals"])]
    lines += ["", f"kernel calls ({len(d['kernels'])}, {len({k['key'] for k in d['kernels']})} kernels):"]
    lines += [f"  {k['name']}{_work(k)}{_origin(k['origin'])}" for k in d["kernels"]]
    m = d["memory"]
    at = " (dynamic dims at their smallest)" if executable.graph.symbols() else ""
    lines += ["", f"memory of a run{at}: {m['peak']:,} bytes"]
    lines.append(f"  intermediates {m['arena']:,}, weights {m['constants']:,}, scratch {m['scratch']:,}")
    if d["guards"]:
        lines += ["", "assumed, and checked at each call:", *(f"  {g}" for g in d["guards"])]
    return "\n".join(lines) + "\n"


def _partition_lines(partition: dict[str, Any]) -> list[str]:
    parts, copies = partition["parts"], partition["copies"]
    lines = [f"parts ({len(parts)}):"]
    for i, p in enumerate(parts):
        names = ", ".join(name if n == 1 else f"{name} ({n})" for name, n in Counter(p["nodes"]).items())
        lines.append(f"  {i} on {p['backend']}: {names}")
    lines.append(f"copies between parts, through host memory ({len(copies)}):")
    for c in copies:
        source, target = (f"{c[end]} ({parts[c[end]]['backend']})" for end in ("source", "target"))
        lines.append(f"  {c['value']}: {c['type']}, {c['bytes']:,} bytes, from {source} to {target}")
    return lines


def passes_lines(described: dict[str, Any]) -> list[str]:
    """One line a pass: its time, its name and what it counted."""
    if described["cached"]:
        return ["  none: the program came from the cache (compile with cache=False to see them)"]
    if not described["passes"]:
        return ["  none"]
    names = [p["name"] + (f" of {p['graph']}" if p["graph"] != described["graph"] else "") for p in described["passes"]]
    width = max(map(len, names))
    return [
        f"  {p['seconds'] * 1e3:7.1f} ms  {name:<{width}}  {_stats(p)}"
        for p, name in zip(described["passes"], names, strict=True)
    ]


def _stats(p: dict[str, Any]) -> str:
    told = ", ".join(f"{name} {count}" for name, count in p["stats"].items() if count not in (0, ""))
    return told or ("changed the graph" if p["changed"] else "nothing to do")


def _refusal_lines(refusals: list[str]) -> list[str]:
    counts = Counter(refusals)
    lines = [f"  {text}" + (f" ({n} times)" if n > 1 else "") for text, n in counts.most_common(MOST_REFUSALS)]
    rest = len(counts) - MOST_REFUSALS
    return [*lines, f"  and {rest} more"] if rest > 0 else lines


def _work(k: dict[str, Any]) -> str:
    parts = [f"{k['flops'] * 1e-6:,.1f} MFLOP"] if k["flops"] else []
    parts += [f"{k['bytes'] * 1e-6:,.2f} MB"] if k["bytes"] else []
    return f" [{', '.join(parts)}]" if parts else ""


def _origin(origin: tuple[str, ...]) -> str:
    return f"  <- {', '.join(origin)}" if origin else ""
