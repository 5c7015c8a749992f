"""inference.sh: the Kling apps. The request classes, the provider, and the two tables of status numbers."""

from kling_async.providers.inferencesh.apps import Image, Request, Video
from kling_async.providers.inferencesh.provider import InferenceSh
from kling_async.providers.inferencesh.request import ImageO1
from kling_async.providers.inferencesh.tasks import CURRENT, OLDER

__all__ = ["CURRENT", "OLDER", "Image", "ImageO1", "InferenceSh", "Request", "Video"]


def __dir__() -> list[str]:
    return __all__
