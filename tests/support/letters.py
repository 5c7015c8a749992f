"""What texts of hypothesis are made of."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["LETTERS"]

LETTERS = st.characters(exclude_categories=["Cs"])
"""The same as by default. There, hypothesis first takes seconds to find out which letters UTF-8 has: all but these."""
