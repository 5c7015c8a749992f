"""What ``kling doctor`` found: one line each, with its remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "State"]

State = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact.

    Attributes:
        area: What it is about, in a word.
        state: ``ok``; ``note``: it may be as intended; ``warning``: it will hurt some day; ``error``: it hurts now.
        text: What was found. It holds no secret.
        remedy: What to do. Empty if nothing.
    """

    area: str
    state: State
    text: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"type": "finding", **asdict(self)}
