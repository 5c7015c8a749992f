"""RunBlob: Kling O3 photo and video. The request classes, and the provider."""

from kling_async.providers.runblob.provider import O3Photo, O3Video, RunBlob

__all__ = ["O3Photo", "O3Video", "RunBlob"]
