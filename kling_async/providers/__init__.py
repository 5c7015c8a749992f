"""The providers, one file each."""

from __future__ import annotations

from kling_async._provider import Provider
from kling_async.providers.inferencesh import InferenceSh
from kling_async.providers.runblob import RunBlob

KNOWN: tuple[type[Provider], ...] = (RunBlob, InferenceSh)
"""Every provider, in the order in which they are listed to users."""
