"""Source text as it grows: lines, blocks of lines inside of them, names that are free."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Block:
    """Lines and inner blocks, in order; `head` opens an indented one ("for ...:"), "" none."""

    head: str = ""
    items: list[str | Block] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)

    def line(self, text: str) -> None:
        """Appends a line."""
        self.items.append(text)

    def block(self, head: str = "") -> Block:
        """Appends an inner block and returns it."""
        inner = Block(head)
        self.items.append(inner)
        return inner

    def lines(self, indent: int = 0) -> list[str]:
        """The text, a line each; an indented block without lines is left out."""
        inside = indent + 4 if self.head else indent
        found = [
            line
            for item in self.items
            for line in (item.lines(inside) if isinstance(item, Block) else [" " * inside + item])
        ]
        return [" " * indent + self.head, *found] if self.head and found else found


@dataclass
class Names:
    """Hands out variable names, each once."""

    taken: set[str] = field(default_factory=set)

    def new(self, wanted: str) -> str:
        """`wanted`, or `wanted` with the first number that makes it new."""
        name, n = wanted, 1
        while name in self.taken:
            name = f"{wanted}{n}"
            n += 1
        self.taken.add(name)
        return name
