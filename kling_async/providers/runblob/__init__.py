"""RunBlob: Kling O3, O1 and the models from 1.6 to 3.0. The request classes, and the provider."""

from kling_async.providers.runblob.models import MotionControl, O1Photo, O1Video, Video
from kling_async.providers.runblob.provider import RunBlob
from kling_async.providers.runblob.request import O3Photo, O3Video

__all__ = ["MotionControl", "O1Photo", "O1Video", "O3Photo", "O3Video", "RunBlob", "Video"]


def __dir__() -> list[str]:
    return __all__
