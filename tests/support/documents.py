"""The documents of the repository, and the Python blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BLOCKS", "ROOT", "Block"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Block:
    """One block of Python code."""

    document: str
    number: int
    code: str

    @property
    def name(self) -> str:
        """A name that is a module's name as well."""
        return f"{re.sub(r'[^a-z0-9]+', '_', self.document.lower())}_{self.number}"

    @property
    def is_program(self) -> bool:
        """Whether it runs by itself; else it makes a web application."""
        return "asyncio.run(main())" in self.code


def _blocks(path: Path) -> list[Block]:
    found = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    name = path.relative_to(ROOT).as_posix()
    return [Block(name, number, code) for number, code in enumerate(found)]


BLOCKS = [block for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) for block in _blocks(path)]
