"""The documents of the repository, and the Python blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BLOCKS", "ROOT", "Block"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Block:
    """One block of Python code.

    Args:
        document: Where it stands, relative to the repository.
        number: Its position there, from 0.
        code: The code.
        bought: How many jobs it buys: the number in ``<!-- bought=3 -->`` on the line before it, or else 1.
    """

    document: str
    number: int
    code: str
    bought: int = 1

    @property
    def name(self) -> str:
        """A name that is a module's name as well."""
        return f"{re.sub(r'[^a-z0-9]+', '_', self.document.lower())}_{self.number}"

    @property
    def needs_ray(self) -> bool:
        """Whether it runs on a Ray cluster. Then it runs in ``ray_cluster/``."""
        return "import ray" in self.code

    @property
    def is_service(self) -> bool:
        """Whether it makes a web application. Otherwise it runs by itself."""
        return "FastAPI(" in self.code


def _blocks(path: Path) -> list[Block]:
    found = re.findall(r"(?:<!-- bought=(\d+) -->\n)?```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    name = path.relative_to(ROOT).as_posix()
    return [Block(name, number, code, int(bought or 1)) for number, (bought, code) in enumerate(found)]


BLOCKS = [block for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) for block in _blocks(path)]
