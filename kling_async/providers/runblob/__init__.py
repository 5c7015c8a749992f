"""RunBlob: Kling O3 photo and video. The request classes, and the provider."""

from kling_async.providers.runblob.provider import RunBlob
from kling_async.providers.runblob.request import O3Photo, O3Video

__all__ = ["O3Photo", "O3Video", "RunBlob"]


def __dir__() -> list[str]:
    return __all__
