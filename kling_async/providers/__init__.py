"""The providers, one file each."""

from __future__ import annotations

from kling_async.providers._base.provider import Provider
from kling_async.providers.inferencesh import InferenceSh
from kling_async.providers.pixeldojo import PixelDojo
from kling_async.providers.runblob import RunBlob
from kling_async.providers.runware import Runware

ALL_PROVIDERS: tuple[type[Provider], ...] = (
    RunBlob,
    Runware,
    InferenceSh,
    PixelDojo,
)
"""Every provider, in the order in which they are listed to users."""
