"""The error of what the user wrote: a file, a row, the name of an endpoint, a field."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["InputError"]


class InputError(Exception):
    """What was written cannot be used.

    Args:
        message: What is wrong, and what to do.
        fields: The invalid fields of the request, and why.
        labels: How users write these fields, where not by their names.
    """

    def __init__(
        self, message: str, *, fields: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields or {}
        self.labels = labels or {}
