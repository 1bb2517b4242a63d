"""Passes, and the manager that runs them: verified before and after, timed, dumped, and held to what they claim."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from graphc import config, plugins, reproduction
from graphc.checking import Checker, Failure, Inputs, checkers
from graphc.claims import EXACT, REASSOCIATES, Claim, approximate
from graphc.errors import GraphcError, PluginError, VerifyError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.tensor_data import TensorData
from graphc.ir.text import print_graph, print_node, weight_constants
from graphc.ir.verifier import verify as verify_graph

if TYPE_CHECKING:
    from graphc.backend import Backend, Numerics, Precision, Verify

__all__ = [
    "EXACT", "REASSOCIATES", "Claim", "Pass", "PassContext", "PassManager", "PassRecord", "PassResult", "Refusal",
    "approximate", "reproduce", "resolve_passes",
]  # fmt: skip


@dataclass(frozen=True)
class PassResult:
    """What a pass did: whether the graph changed, and counts or names worth telling."""

    changed: bool
    stats: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A rule that almost applied: which, at which node of which layer, and why it didn't."""

    rule: str
    layer: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.reason} (at {self.layer or self.node})"


@dataclass
class PassContext:
    """What passes know and tell: the options of the compilation, what stands for replaced values, and refusals.

    `weights` are the imported model's, in the order of `weights_of`, by which cached code finds them again.
    `backend` is None where no backend was chosen: then no composite is supported whole.
    """

    numerics: Numerics = "fast"
    precision: Precision = "f32"
    target: str | None = None
    backend: Backend | None = None
    weights: Sequence[TensorData] = ()
    literal_like_weight: bool = False
    """Whether a pass made a constant that equals a weight: they may have been merged, so the code fits no other weights."""
    notes: list[str] = field(default_factory=list)
    """What was measured, and what followed from it, a line each."""
    unfinished: bool = False
    """Whether something was left for another time: then what is compiled isn't kept."""
    replaced: dict[Value, Value] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    records: list[PassRecord] = field(default_factory=list)
    """What every pass did, those too that a backend runs on parts of the graph."""
    dumps: int = 0
    """How many graphs were dumped: several managers may run in one compilation."""

    def replace(self, graph: Graph, old: Value, new: Value) -> None:
        """Makes every reader of `old` read `new`, of the same type, and records it; an output keeps its name."""
        if old.type != new.type:
            raise VerifyError(f"%{old.name} can't be replaced", seen=str(new.type), expected=str(old.type))
        if old is new:
            return
        if old.is_output and new.producer is not None and not new.is_output:
            name = old.name
            graph.rename(old, f"{name}.old")
            graph.rename(new, name)
        graph.replace_uses(old, new)
        self.replaced[old] = new

    def refuse(self, rule: str, node: Node, reason: str) -> None:
        """Records why a rule didn't apply; the same refusal is kept once."""
        refusal = Refusal(rule, ", ".join(node.origin), print_node(node, origins=False).split("\n")[0], reason)
        if refusal not in self.refusals:
            self.refusals.append(refusal)


class Pass(Protocol):
    """A frozen dataclass whose fields are its options. Registered under its name in the group `graphc.passes`."""

    @property
    def name(self) -> str:
        """As registered, in kebab case."""
        ...

    @property
    def claim(self) -> Claim:
        """How every value that it replaces relates to the original."""
        ...

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Edits the graph in place, replacing values through `context.replace` alone."""
        ...


@dataclass(frozen=True)
class PassRecord:
    """One run of a pass on the graph of that name, for `explain()`."""

    name: str
    graph: str
    claim: Claim
    changed: bool
    stats: Mapping[str, int | str]
    seconds: float


class PassManager:
    """Runs passes in order.

    verify: "sample" checks claims on one set of generated inputs (or on `inputs`, by name), "full" on three.
    dump: a folder for `NN-pass.txt` after each pass, and for reproductions; default: `GRAPHC_DUMP`.
    """

    def __init__(
        self, passes: Sequence[Pass], verify: Verify = "off", dump: Path | None = None, inputs: Inputs | None = None
    ) -> None:
        if verify not in ("off", "sample", "full"):
            raise VerifyError("no such level of verification", seen=verify, expected='"off", "sample" or "full"')
        self.passes = tuple(passes)
        self.verify = verify
        self.dump = dump if dump is not None else config.dump_dir()
        self.inputs = inputs

    def run(self, graph: Graph, context: PassContext) -> list[PassRecord]:
        """Edits the graph; raises VerifyError where a pass breaks the IR's rules or its claim."""
        verify_graph(graph)
        verified = _structure(graph)
        self._write("input", graph, context)
        runs: list[Checker] = []
        if self.verify != "off":
            runs = checkers(graph, [p.claim for p in self.passes], self.verify, self.inputs)
        records = []
        digests = {w.digest for w in context.weights}
        there = {id(w): w for w in weight_constants(graph)} if digests else {}
        for p in self.passes:
            before = graph.clone()[0] if runs else graph
            context.replaced.clear()
            start = time.perf_counter()
            result = p.run(graph, context)
            seconds = time.perf_counter() - start
            if (structure := _structure(graph)) != verified:
                try:
                    verify_graph(graph)
                except VerifyError as e:
                    e.what = f"after pass {p.name}: {e.what}"
                    raise
                verified = structure
            if digests:
                made = {id(w): w for w in weight_constants(graph) if id(w) not in there}
                context.literal_like_weight |= any(w.digest in digests for w in made.values())
                there.update(made)
            self._write(p.name, graph, context)
            for run in runs:
                failure = run.check(graph, p.claim, context.replaced)
                if failure is not None:
                    raise _broken(p, before, run.inputs, failure, context, self.dump)
            records.append(PassRecord(p.name, graph.name, p.claim, result.changed, dict(result.stats), seconds))
        context.records += records
        return records

    def _write(self, name: str, graph: Graph, context: PassContext) -> None:
        if self.dump is not None:
            self.dump.mkdir(parents=True, exist_ok=True)
            (self.dump / f"{context.dumps:02}-{name}.txt").write_text(print_graph(graph), encoding="utf-8")
            context.dumps += 1


def _structure(graph: Graph) -> tuple[object, ...]:
    """All of a graph that can be edited: where it is equal to what was verified, nothing was."""
    nodes = graph.nodes
    return (
        nodes,
        [n.operands for n in nodes],
        [(v.name, v.type) for v in graph.values()],
        tuple(graph.inputs),
        graph.outputs,
        tuple(graph.guards),
        tuple(graph.donations),
        [_structure(a) for n in nodes for a in n.attributes.values() if isinstance(a, Graph)],
    )


def _broken(
    p: Pass, before: Graph, inputs: Inputs, failure: Failure, context: PassContext, dump: Path | None
) -> VerifyError:
    case = reproduction.Reproduction(
        before, inputs, p.name, reproduction.options_of(p), str(p.claim), failure, context.numerics, context.precision
    )
    folder = case.save(dump)
    return VerifyError(
        f"pass {p.name} breaks its claim ({p.claim}) at %{failure.value}, now %{failure.replacement}",
        seen=failure.breach,
        expected=repr(failure.breach.expected),
        hint=f"graphc.pipeline.reproduce({str(folder)!r}) runs it again",
    )


def reproduce(folder: str | Path, passes: Mapping[str, Pass] | None = None) -> Failure | None:
    """Runs the pass of a reproduction again on its graph and inputs: the failure, or None if its claim holds now.

    `passes` gives passes that aren't installed, by name. Raises VerifyError where the graph breaks the IR's rules.
    """
    case = reproduction.load(Path(folder))
    p = passes[case.name] if passes is not None and case.name in passes else resolve_passes([case.name])[0]
    p = reproduction.with_options(p, case.options)
    checker = Checker(case.graph, case.inputs, [p.claim])
    context = PassContext(numerics=case.numerics, precision=case.precision)
    p.run(case.graph, context)
    verify_graph(case.graph)
    return checker.check(case.graph, p.claim, context.replaced)


def resolve_passes(passes: Sequence[str | Pass]) -> list[Pass]:
    """Passes by name, with default options, from the group `graphc.passes`; values stay as they are.

    Raises PluginError for a name that isn't there, or stands for something that is no pass; GraphcError for no list.
    """
    if isinstance(passes, str) or not isinstance(passes, Sequence):
        raise GraphcError(
            "passes isn't a list", seen=repr(passes), expected='passes or their names: ["fold-constants", "dce"]'
        )
    return [_resolve(p) if isinstance(p, str) else p for p in passes]


def _resolve(name: str) -> Pass:
    found: Any = plugins.find(plugins.PASSES, name)
    made = found() if isinstance(found, type) else found
    if getattr(made, "name", None) != name or not isinstance(getattr(made, "claim", None), Claim):
        raise PluginError(
            f"the plugin {name!r} in {plugins.PASSES} is no pass of that name",
            seen=repr(made),
            expected=f"a class or object with name = {name!r}, a claim and run(graph, context)",
        )
    return cast(Pass, made)
