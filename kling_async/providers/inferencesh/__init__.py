"""inference.sh: Kling Image O1. The request class, the provider, and the two tables of status numbers."""

from kling_async.providers.inferencesh.provider import InferenceSh
from kling_async.providers.inferencesh.request import ImageO1
from kling_async.providers.inferencesh.tasks import CURRENT, OLDER

__all__ = ["CURRENT", "OLDER", "ImageO1", "InferenceSh"]


def __dir__() -> list[str]:
    return __all__
