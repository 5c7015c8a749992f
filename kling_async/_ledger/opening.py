"""A ledger by the text that names it: a file, or the address of a database."""

from __future__ import annotations

import os

from kling_async._ledger.postgres import PostgresLedger
from kling_async._ledger.postgres_address import is_address
from kling_async._ledger.sqlite import SqliteLedger

__all__ = ["open_ledger"]


def open_ledger(
    place: str | os.PathLike[str], *, keep_images: bool = False, lease: float | None = None
) -> SqliteLedger | PostgresLedger:
    """The ledger that a text names, for settings that take both kinds: ``open_ledger(os.environ["KLING_LEDGER"])``.

    Nothing is opened before it is used.

    Args:
        place: A file, such as ``"jobs.db"``, or an address, such as ``"postgresql://host/database?schema=team_a"``.
        keep_images: See `SqliteLedger`.
        lease: See `SqliteLedger`.

    Raises:
        ConfigurationError: It is neither, or what it needs is not installed.
    """
    if is_address(place):
        return PostgresLedger(os.fspath(place), keep_images=keep_images, lease=lease)
    return SqliteLedger(place, keep_images=keep_images, lease=lease)
