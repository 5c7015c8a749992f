"""The tables of portable requests in the guide are those of the providers' declarations."""

from __future__ import annotations

from support.portable_table import PATH, with_tables


def test_the_guide_has_the_tables_of_the_offers() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert text == with_tables(text), "run python tests/support/portable_table.py"
