"""inference.sh: Kling Image O1. The request class, the provider, and the two tables of status numbers."""

from kling_async.providers.inferencesh.provider import ImageO1, InferenceSh
from kling_async.providers.inferencesh.tasks import CURRENT, OLDER

__all__ = ["CURRENT", "OLDER", "ImageO1", "InferenceSh"]
