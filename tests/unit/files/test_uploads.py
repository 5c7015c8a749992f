"""Local references: read piece by piece while they are sent, compared with what was checked, stored as digests."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kling_async import (
    Client,
    ConfigurationError,
    Kling,
    Limits,
    MemoryLedger,
    PixelDojo,
    RunBlob,
    Runware,
    SubmissionState,
    SubmissionUnknown,
    kling,
    pixeldojo,
    runblob,
    runware,
)
from kling_async._event_loop.clock import Clock
from kling_async._exchange.calls import Call, FileBody
from kling_async._files.local import with_local_files
from kling_async._http.paid_call import PaidCallTrace
from kling_async._http.transport import ProviderTransport
from kling_async._media.local_file import PIECE, FileChanged, LocalFile
from kling_async.providers.base import Provider, Request

pytestmark = pytest.mark.anyio

PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\4\0\0\0\4\0" + os.urandom(5 * PIECE)
ANSWER = {"generation_id": "550e8400-e29b-41d4-a716-446655440000", "success": True, "status": "pending"}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "boat.png"
    path.write_bytes(PICTURE)
    return path


def change(path: Path, at: int = 0) -> None:
    """Change one byte, and nothing else by which it could be noticed."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


class Wire(httpx.AsyncBaseTransport):
    """A provider that reads a body piece by piece.

    Attributes:
        pieces: The pieces of each body.
        statuses: What is answered, one after the other.
        meanwhile: Called after each piece.
    """

    def __init__(self) -> None:
        self.pieces: list[list[bytes]] = []
        self.lengths: list[str | None] = []
        self.statuses: list[int] = []
        self.meanwhile: Callable[[int], None] = lambda _: None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        read: list[bytes] = []
        self.pieces.append(read)
        self.lengths.append(request.headers.get("content-length"))
        assert "transfer-encoding" not in request.headers
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for piece in request.stream:
            read.append(piece)
            self.meanwhile(len(read))
        status = self.statuses.pop(0) if self.statuses else 200
        return httpx.Response(status, json=ANSWER if status == httpx.codes.OK else {"error": "slow down"})

    @property
    def bodies(self) -> list[bytes]:
        return [b"".join(pieces) for pieces in self.pieces]


def requests(image: Path | bytes) -> Iterator[tuple[Provider, Request]]:
    yield RunBlob("key"), runblob.O3Photo("a boat", references=[image, "data:image/png;base64,iVBORw0KGgo=", image])
    yield RunBlob("key"), runblob.O3Video("a boat", first_frame=image, last_frame=image)
    yield Runware("key"), runware.ImageO3("a boat", references=[image])
    yield PixelDojo("key"), pixeldojo.ReferenceToVideo("a boat", references=[image])
    yield Kling("key"), kling.OmniImage("a boat", references=[image])


async def test_what_is_sent_of_a_file_is_what_is_sent_of_its_bytes(picture: Path) -> None:
    for (provider, of_file), (_, of_bytes) in zip(requests(picture), requests(PICTURE), strict=True):
        [from_file, from_bytes] = [
            next(provider.submit(await with_local_files(request), "00000000-0000-4000-8000-000000000000", None))
            for request in (of_file, of_bytes)
        ]
        assert isinstance(from_file.content, FileBody)
        assert isinstance(from_bytes.content, bytes)
        assert bytes(from_file.content) == from_bytes.content
        assert len(from_file.content) == len(from_bytes.content)
        assert max(len(piece) for piece in from_file.content.pieces()) <= PIECE // 3 * 4
        assert bytes(from_file.content) == from_bytes.content  # as often as it is sent


async def test_a_body_is_sent_whole_whatever_stands_before_a_file(picture: Path) -> None:
    """Kling takes base64 without a prefix, and an upload is nothing but the file."""
    wire = Wire()
    for provider, of_file in requests(picture):
        transport = ProviderTransport(provider, Limits(), wire, Clock())
        call = next(provider.submit(await with_local_files(of_file), "00000000-0000-4000-8000-000000000000", None))
        upload = Call.upload("PUT", "https://example.com/file", LocalFile.read(picture), {}, json=False)
        for one in (call, upload):
            await transport.call(one, PaidCallTrace())
            assert wire.bodies[-1] == bytes(one.content)
            assert wire.lengths[-1] == str(len(one.content))
            assert all(wire.pieces[-1])
        await transport.aclose()
    assert len(wire.bodies) == 10


@pytest.mark.parametrize("size", [0, 1, 511, 512, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_a_file_of_any_length_is_read_whole(size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    file = LocalFile.read(path)
    assert (len(file), file.digest) == (size, hashlib.sha256(content).hexdigest())
    assert file.content() == content
    upload = Call.upload("PUT", "https://example.com", file, {})
    assert bytes(upload.content) == content
    assert len(upload.content) == size


@pytest.mark.parametrize("at", [0, len(PICTURE) // 2, len(PICTURE) - 1])
def test_a_change_that_only_the_digest_shows_keeps_the_last_piece_back(at: int, picture: Path) -> None:
    file = LocalFile.read(picture)
    change(picture, at)
    received: list[bytes] = []
    with pytest.raises(FileChanged, match=r"boat\.png was changed"):
        received.extend(file.pieces())
    assert sum(map(len, received)) < len(PICTURE)


@pytest.mark.parametrize(
    "alter",
    [
        lambda path: path.write_bytes(PICTURE + b"more"),
        lambda path: path.write_bytes(PICTURE[:-1]),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: os.utime(path, ns=(1, 1)),
    ],
)
def test_another_file_is_noticed_at_its_first_piece(alter: Callable[[Path], object], picture: Path) -> None:
    file = LocalFile.read(picture)
    alter(picture)
    with pytest.raises(FileChanged, match=r"boat\.png (was changed|cannot be read any more)"):
        next(file.pieces())


async def test_a_file_that_changes_while_it_is_sent_buys_nothing(picture: Path) -> None:
    wire, ledger = Wire(), MemoryLedger()
    wire.meanwhile = lambda count: change(picture, 5000) if count == 3 else None
    async with Client([RunBlob("key")], http=wire, ledger=ledger) as client:
        with pytest.raises(ConfigurationError, match="was changed after it was checked; the call was not completed"):
            await client.submit(runblob.O3Photo("a boat", references=[picture, picture]), key="row")
        [submission] = await ledger.submissions()
        assert submission.state is SubmissionState.NOT_SUBMITTED
        assert len(wire.bodies) == 1
        assert len(wire.bodies[0]) < int(wire.lengths[0] or 0)
        wire.meanwhile = lambda _: None
        job = await client.submit(runblob.O3Photo("a boat", references=[picture, picture]), key="row")
    assert job.key == "row"
    assert len(wire.bodies[1]) == int(wire.lengths[1] or 0)


async def test_a_file_that_changes_after_a_lost_answer_leaves_the_outcome_unknown(picture: Path) -> None:
    """The repetition was not completed. But the first call was, so nobody may say that nothing was bought."""
    wire, ledger = Wire(), MemoryLedger()
    wire.statuses = [500]
    wire.meanwhile = lambda _: change(picture, 5000) if len(wire.bodies) == 2 else None
    async with Client([Kling("key")], http=wire, ledger=ledger) as client:
        with pytest.raises(SubmissionUnknown, match="was changed after it was checked") as raised:
            await client.submit(kling.OmniImage("a boat", references=[picture]), key="row")
        [submission] = await ledger.submissions()
    assert submission.state is SubmissionState.UNKNOWN
    assert "nothing was bought" not in f"{raised.value} {submission.reason}"
    assert len(wire.bodies) == 2


async def test_a_call_that_is_repeated_reads_the_file_again(picture: Path) -> None:
    wire = Wire()
    wire.statuses = [429, 200]
    async with Client([RunBlob("key")], http=wire) as client:
        await client.submit(runblob.O3Photo("a boat", references=[picture]))
    assert len(wire.bodies) == 2
    assert wire.bodies[0] == wire.bodies[1]
    sent = json.loads(wire.bodies[1])
    assert _decoded(sent["images_base64"][0]) == PICTURE
    assert wire.lengths == [str(len(wire.bodies[0]))] * 2


def _decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2], validate=True)


@pytest.mark.parametrize("keep_images", [False, True])
async def test_the_ledger_stores_the_digest_and_knows_the_file_by_it(picture: Path, keep_images: bool) -> None:
    wire, ledger = Wire(), MemoryLedger(keep_images=keep_images)
    async with Client([RunBlob("key")], http=wire, ledger=ledger) as client:
        first = await client.submit(runblob.O3Photo("a boat", references=[picture]), key="row")
        again = await client.submit(runblob.O3Photo("a boat", references=[PICTURE]), key="row")
        assert first.request is not None
        from_job = await client.submit(first.request, key="another row")
        [stored, _] = await ledger.submissions()
    assert first.ref == again.ref
    assert len(wire.bodies) == 2
    assert wire.bodies[0] == wire.bodies[1]
    assert from_job.key == "another row"
    [image] = stored.request["references"]
    if keep_images:
        assert _decoded(image) == PICTURE
    else:
        assert image == f"sha256:{hashlib.sha256(PICTURE).hexdigest()}"
    assert f"sha256:{hashlib.sha256(PICTURE).hexdigest()}" in repr(first.request)


async def _most_in_memory(requests: list[Request]) -> tuple[int, int]:
    """The most pieces and bytes of files that were held at once while those requests were sent together."""
    in_memory: dict[int, int] = {}
    peak = [0, 0]

    class Counting(Wire):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            async for piece in request.stream:
                in_memory[id(request)] = len(piece)
                peak[0], peak[1] = max(peak[0], len(in_memory)), max(peak[1], sum(in_memory.values()))
                await asyncio.sleep(0)
                in_memory.pop(id(request))
                del piece
            return httpx.Response(200, json=ANSWER)

    async with Client([RunBlob("key")], http=Counting(), ledger=MemoryLedger()) as client:
        await asyncio.gather(*(client.submit(request) for request in requests))
    return peak[0], peak[1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_few_pieces_are_in_memory_at_once_whatever_the_number_of_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for path in paths:
        path.write_bytes(PICTURE)
    together: list[Request] = [runblob.O3Photo("a boat", references=[path, *paths[:4]]) for path in paths]
    pieces, size = await _most_in_memory(together)
    assert 1 <= pieces <= len(together)
    assert size <= len(together) * PIECE // 3 * 4
    assert size < len(PICTURE) * 3  # of 40 files


async def test_a_file_that_is_gone_or_no_picture_any_more_is_reported_before_anything_is_sent(picture: Path) -> None:
    wire = Wire()
    request: Any = runblob.O3Photo("a boat", references=[picture])
    async with Client([RunBlob("key")], http=wire) as client:
        picture.write_bytes(b"a text")
        with pytest.raises(ValueError, match=r"reference 1 \(.*boat\.png\) is not an image by its content"):
            await client.submit(request)
        picture.unlink()
        with pytest.raises(ConfigurationError, match=r"boat\.png cannot be read: No such file.*nothing was sent"):
            await client.submit(request)
    assert wire.bodies == []
