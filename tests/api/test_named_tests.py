"""What the documents name is there: the tests of invariants and guarantees, and the rooms."""

from __future__ import annotations

import re

from support.documents import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_test_that_the_invariants_name_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`: `(test_\w+)`", TEXT)
    assert len(named) >= 10
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no {name}"


def test_every_room_that_the_table_names_exists() -> None:
    table = TEXT[TEXT.index("## Rooms") : TEXT.index("## Floors")]
    rooms = re.findall(r"^\| (`[^|]+`) \|", table, flags=re.MULTILINE)
    names = [name for room in rooms for name in re.findall(r"`([\w./]+)`", room)]
    assert len(names) >= 15
    for name in names:
        assert (ROOT / "kling_async" / name).exists(), f"there is no kling_async/{name}"


def test_every_test_that_the_guarantees_name_exists() -> None:
    """`docs/reliability.md` names a test for each guarantee and each row of the fault matrix."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert len(named) >= 40
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no {name}"
