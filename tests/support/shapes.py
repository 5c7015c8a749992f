"""Writes ``kling_async/_cli/doctor/shapes.json``: what fields, words, codes and headers the recorded samples have.

Run ``python tests/support/shapes.py`` after a change of a sample.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kling_async
from kling_async._cli.doctor.shapes import paths

__all__ = ["PATH", "SAMPLES", "shapes"]

PATH = Path(kling_async.__file__).parent / "_cli" / "doctor" / "shapes.json"
SAMPLES = Path(__file__).parents[1] / "samples"


def shapes() -> str:
    """The text of the file."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(SAMPLES.glob("*/*.json")):
        sample = json.loads(path.read_text("utf-8"))
        operation = "poll" if sample.get("refs") else "submit"
        if sample["kind"] not in {"submit", "poll", "error"}:
            continue
        known = found.setdefault(path.parent.name, {}).setdefault(
            operation, {"statuses": set(), "headers": set(), "fields": {}, "words": {}}
        )
        for exchange in sample["exchanges"]:
            reply = exchange["reply"]
            known["statuses"].add(reply["status"])
            known["headers"] |= {name.lower() for name in reply.get("headers", {})}
            for place, kind, word in paths(reply["json"]) if "json" in reply else ():
                known["fields"].setdefault(place, set()).add(kind)
                if word is not None:
                    known["words"].setdefault(place, set()).add(word)
    return json.dumps(found, default=sorted, sort_keys=True, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(shapes(), encoding="utf-8")
