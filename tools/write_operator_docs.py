"""Writes docs/operators.md from the operators' declarations, and docs/onnx-operators.md from the ONNX frontend's table.

    python tools/write_operator_docs.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphc.ir.opdef import REQUIRED, NotDifferentiable, OpDef
from graphc.ops import FAMILIES
from graphc_onnx.converters import CONVERTERS

DOCS = Path(__file__).parents[1] / "docs"

HEAD = """# Operators

Made of the operators' declarations by `tools/write_operator_docs.py`; don't edit. A primitive has no decomposition; a composite
is decomposed for backends that don't take it whole. Operands with `?` may be left out, `*` stands for any number.
"""


ONNX_HEAD = """# ONNX operators

Those that `graphc_onnx` converts, by domain; made by `tools/write_operator_docs.py`. A form of one of them that isn't taken (an
element type, a shape that depends on data) is told with the layer and the reason, like any operator that isn't here.
"""


def documents() -> dict[Path, str]:
    """The pages and their contents."""
    return {DOCS / "operators.md": operators(), DOCS / "onnx-operators.md": onnx_operators()}


def onnx_operators() -> str:
    """The page of ONNX's operators."""
    by_domain: dict[str, list[str]] = {}
    for domain, name in CONVERTERS:
        by_domain.setdefault(domain, []).append(name)
    parts = [ONNX_HEAD]
    for domain, names in sorted(by_domain.items()):
        parts.append(f"## {domain or 'ai.onnx'}\n\n{', '.join(sorted(names))}\n")
    return "\n".join(parts)


def operators() -> str:
    """The page of graphc's operators."""
    parts = [HEAD]
    for family in FAMILIES:
        name = family.__name__.rpartition(".")[2]
        parts.append(f"## {name.replace('_', ' ').capitalize()}\n")
        parts.append(f"{(family.__doc__ or '').strip().split(chr(10) * 2)[0].replace(chr(10), ' ')}\n")
        parts += [entry(op) for op in family.OPERATORS]
    return "\n".join(parts)


def entry(op: OpDef) -> str:
    """One operator."""
    attributes = ", ".join(f"{n}: {a.kind}{_default(a.default)}" for n, a in op.attributes.items())
    signature = f"{op.name}({', '.join(op.operands)}){f' {{{attributes}}}' if attributes else ''}"
    results = f" -> ({', '.join(op.results)})" if op.results != ("result",) else ""
    facts = ["primitive" if op.is_primitive else "composite", *sorted(op.traits)]
    facts.append("no gradient" if isinstance(op.vjp, NotDifferentiable) else "differentiable")
    facts.append(f"dtypes {', '.join(op.dtypes)}")
    text = "\n".join(line.strip() for line in op.doc.strip().splitlines())
    return f"### {op.name}\n\n`{signature}{results}`\n\n{text}\n\n*{'; '.join(facts)}*\n"


def _default(value: Any) -> str:
    if value is REQUIRED:
        return ""
    if isinstance(value, bool):
        return f" = {str(value).lower()}"
    return f" = {value!r}".replace("'", '"')


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
