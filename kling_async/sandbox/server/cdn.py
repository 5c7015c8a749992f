"""The content delivery network: result files with type, length, ETag and ranges, drawn on first demand."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from starlette.responses import Response

from kling_async.sandbox.emulator.jobs import Clip

if TYPE_CHECKING:
    from starlette.requests import Request

    from kling_async.sandbox.emulator.jobs import File, Job
    from kling_async.sandbox.emulator.provider_state import ProviderState

_NAME = re.compile(r"([0-9a-f]{24})-(\d{1,6})\.\w+", re.ASCII)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def found(state: ProviderState, name: str) -> tuple[Job, File, int] | None:
    """The job, the file and the edition of the address that a file name stands for, or None if none ever."""
    match = _NAME.fullmatch(name)
    known = state.file(match[1]) if match else None
    return (*known, int(match[2])) if match and known else None


async def download(state: ProviderState, request: Request) -> Response:
    """`GET /cdn/{name}`."""
    known = found(state, request.path_params["name"])
    if known is None:
        return _error(404, "NoSuchKey")
    job, file, edition = known
    if not state.downloadable(job, file, edition):
        return _error(403, "AccessDenied")
    data = await state.draw(file)
    kind = f"video/{state.extension(file)}" if isinstance(file.media, Clip) else f"image/{file.media.format}"
    headers = {"etag": f'"{hashlib.sha256(data).hexdigest()[:32]}"', "accept-ranges": "bytes"}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(None, 304, headers)
    if request.headers.get("if-range", headers["etag"]) != headers["etag"]:
        return Response(data, 200, headers, kind)
    return _ranged(data, request.headers.get("range", ""), headers, kind)


def _ranged(data: bytes, wanted: str, headers: dict[str, str], kind: str) -> Response:
    """The range asked for. The whole, as RFC 9110 allows, where it is malformed or several."""
    match = _RANGE.fullmatch(wanted)
    backwards = match and match[1] and match[2] and int(match[2]) < int(match[1])
    if match is None or backwards or not (match[1] or match[2]):
        return Response(data, 200, headers, kind)
    size = len(data)
    if match[1]:
        first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
    else:
        first, last = max(0, size - int(match[2])), size - 1
    if first > last or (not match[1] and int(match[2]) == 0):
        return Response(None, 416, {**headers, "content-range": f"bytes */{size}"})
    headers["content-range"] = f"bytes {first}-{last}/{size}"
    return Response(data[first : last + 1], 206, headers, kind)


def _error(status: int, code: str) -> Response:
    """What buckets answer: XML, which must never be saved as a picture."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code></Error>'
    return Response(body, status, media_type="application/xml")
