"""Saving what a job made, on real sockets: never a broken file under a final name, nothing left behind."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import cast
from unittest import mock

import anyio
import httpx
import pytest

import kling_async
from kling_async import Artifact, DownloadFailed, JobRef, Limits, Result
from kling_async._files import downloads
from kling_async._files.downloads import Downloader
from kling_async._files.local import ensure_writable
from kling_async._files.names import bounded_name
from kling_async._http.backend import PerLoopBackend
from support.cancel_at_step import cancelled_at
from support.cdn import PICTURE, Cdn, Reply

pytestmark = pytest.mark.anyio

Way = Callable[[Artifact], Awaitable[bytes]]


def artifact(
    engines: PerLoopBackend, url: str | None, *, identity: str = "job-1", local: bool = True, data: bytes | None = None
) -> Artifact:
    async def renew() -> tuple[Artifact, ...]:
        raise kling_async.TransportFailed("away")

    saver = Downloader(engines, JobRef("runblob", "o3-photo", identity), local, renew)
    return Artifact("image", url, data=data).saved_by(saver)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_file_is_saved_under_its_jobs_name(cdn: Cdn, engines: PerLoopBackend, tmp_path: Path) -> None:
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path == tmp_path / "runblob-o3-photo-job-1.png"
    assert path.read_bytes() == PICTURE
    assert files(tmp_path) == [path.name]


async def test_files_are_named_by_a_template(cdn: Cdn, engines: PerLoopBackend, tmp_path: Path) -> None:
    ref = JobRef("runblob", "o3-photo", "job-1")
    saver = Downloader(engines, ref, True, _never, key="row/1 é")  # noqa: FBT003  # local
    made = [Artifact("image", f"{cdn.url}/{number}", index=number).saved_by(saver) for number in range(2)]
    result = kling_async.Result(ref, tuple(made))
    for template, names in {
        "{key}-{index}": ["row_1 é-1.png", "row_1 é-2.png"],
        "boat": ["boat.png", "boat-2.png"],
        "{endpoint}_{id}": ["runblob-o3-photo_job-1.png", "runblob-o3-photo_job-1-2.png"],
        "x" * 300 + "{index:03}": None,
    }.items():
        paths = await result.save(tmp_path, name=template)
        assert [path.read_bytes() for path in paths] == [PICTURE, PICTURE]
        if names is not None:
            assert [path.name for path in paths] == names
    assert len(files(tmp_path)) == 8


@pytest.mark.parametrize("template", ["", " ", "{prompt}", "{", "a/{key}", "..", ".hidden", "a\\b", "{0}", "{key.x}"])
async def test_a_template_that_names_no_file_is_refused(engines: PerLoopBackend, tmp_path: Path, template: str) -> None:
    ref = JobRef("runblob", "o3-photo", "job-1")
    saver = Downloader(engines, ref, True, _never)  # noqa: FBT003  # local
    result = kling_async.Result(ref, (Artifact("image", "http://127.0.0.1:9/", index=0).saved_by(saver),))
    with pytest.raises(ValueError, match="the name"):
        await result.save(tmp_path, name=template)
    assert files(tmp_path) == []


async def _never() -> tuple[Artifact, ...]:
    raise kling_async.TransportFailed("away")


@pytest.mark.parametrize("times", [2, 5])
async def test_saves_of_one_file_at_once_do_not_mix(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, times: int
) -> None:
    """Two tasks save the same artifact into the same directory."""
    cdn.hold.clear()
    paths: list[Path] = []

    async def save() -> None:
        paths.append(await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/"))

    async with anyio.create_task_group() as group:
        for _ in range(times):
            group.start_soon(save)
        with anyio.fail_after(10):
            while len(cdn.requests) < times:  # noqa: ASYNC110  # they are counted in another thread
                await anyio.sleep(0.01)
        cdn.hold.set()
    assert [start for _, start in cdn.requests] == [0] * times
    assert len(paths) == times
    assert paths[0].read_bytes() == PICTURE
    assert files(tmp_path) == [paths[0].name]


async def test_inline_files_saved_at_once_do_not_mix(engines: PerLoopBackend, tmp_path: Path) -> None:
    data = PICTURE * 10
    one = artifact(engines, None, data=data)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(one.save, f"{tmp_path}/")
    [name] = files(tmp_path)
    assert (tmp_path / name).read_bytes() == data


async def test_a_directory_is_proved_writable_by_many_at_once(tmp_path: Path) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ensure_writable, tmp_path / "results")
    assert files(tmp_path / "results") == []


async def test_a_broken_transfer_is_continued_by_the_next_save(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path
) -> None:
    cdn.answer = lambda _, start: (200, {"content-length": str(len(PICTURE))}, PICTURE[:200_000]) if not start else None
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path.read_bytes() == PICTURE
    assert [start for _, start in cdn.requests] == [0, 200_000]


@pytest.mark.parametrize("said", ["bytes 7-{last}/{size}", ""])
async def test_a_file_that_is_continued_elsewhere_is_begun_again(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, said: str
) -> None:
    def answer(_: str, start: int) -> Reply | None:
        if not start:
            return (200, {"content-length": str(len(PICTURE))}, PICTURE[:1500]) if len(cdn.requests) == 1 else None
        place = said.format(start=start, last=len(PICTURE) - 1, size=len(PICTURE))
        return 206, {"content-range": place}, PICTURE[7 : 7 + len(PICTURE) - start]

    cdn.answer = answer
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path.read_bytes() == PICTURE
    assert files(tmp_path) == [path.name]


async def test_a_server_that_sends_pieces_is_asked_for_all_of_them(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path
) -> None:
    """A 206 whose end is not the file's end is whole in itself, and no whole file."""

    def answer(_: str, start: int) -> Reply:
        end = min(start + 150_000, len(PICTURE))
        return 206, {"content-range": f"bytes {start}-{end - 1}/{len(PICTURE)}"}, PICTURE[start:end]

    cdn.answer = answer
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path.read_bytes() == PICTURE


async def test_a_file_that_is_packed_although_we_asked_for_it_plain(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path
) -> None:
    cdn.answer = lambda _path, _start: (200, {"content-encoding": "gzip"}, gzip.compress(PICTURE))
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path.read_bytes() == PICTURE


async def test_a_packed_file_that_broke_off_is_not_continued(cdn: Cdn, engines: PerLoopBackend, tmp_path: Path) -> None:
    packed = gzip.compress(PICTURE)

    def answer(_: str, start: int) -> Reply:
        assert not start
        length = {"content-encoding": "gzip", "content-length": str(len(packed))}
        return 200, length, packed if len(cdn.requests) > 1 else packed[:150_000]

    cdn.answer = answer
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path.read_bytes() == PICTURE
    assert files(tmp_path) == [path.name]


async def test_names_of_different_jobs_differ(engines: PerLoopBackend, tmp_path: Path) -> None:
    """What cannot stand in a file name is replaced, and the names still differ."""
    paths = [
        await artifact(engines, None, identity=identity, data=PICTURE).save(f"{tmp_path}/")
        for identity in ("a:b", "a~b", "a_b")
    ]
    assert len(set(paths)) == 3
    assert paths[2].name == "runblob-o3-photo-a_b.png"


@pytest.mark.parametrize(
    "target", ["http://192.0.2.1/x", "file:///etc/passwd", "ftp://cdn.test/x", "data:image/png;base64,AAAA"]
)
@pytest.mark.parametrize("redirected", [False, True])
async def test_addresses_that_are_not_secure_are_not_opened(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, target: str, redirected: bool
) -> None:
    cdn.answer = lambda _path, _start: (302, {"location": target}, b"")
    with pytest.raises(DownloadFailed):
        await artifact(engines, f"{cdn.url}/a" if redirected else target).save(f"{tmp_path}/")
    assert len(cdn.requests) == redirected
    assert files(tmp_path) == []


async def test_an_address_that_is_none_is_reported(engines: PerLoopBackend, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed):
        await artifact(engines, "//[").save(f"{tmp_path}/")


async def test_this_machine_is_not_opened_for_a_provider_that_is_elsewhere(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path
) -> None:
    with pytest.raises(DownloadFailed, match="not an https address"):
        await artifact(engines, f"{cdn.url}/a", local=False).save(f"{tmp_path}/")
    assert cdn.requests == []


async def test_a_redirect_is_followed_and_a_circle_is_not(cdn: Cdn, engines: PerLoopBackend, tmp_path: Path) -> None:
    cdn.answer = lambda path, _start: (307, {"location": "b"}, b"") if path == "/a" else None
    assert (await artifact(engines, f"{cdn.url}/a").save(tmp_path / "x.png")).read_bytes() == PICTURE
    cdn.answer = lambda _path, _start: (307, {"location": "/a"}, b"")
    with pytest.raises(DownloadFailed, match="redirects"):
        await artifact(engines, f"{cdn.url}/a").save(tmp_path / "y.png")
    assert files(tmp_path) == ["x.png"]


async def test_a_file_without_end_is_stopped(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kling_async._files.downloads._MAX_BYTES", 100_000)
    with pytest.raises(DownloadFailed, match="larger than"):
        await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert files(tmp_path) == []


async def test_a_file_that_exists_is_replaced_only_by_a_whole_one(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path
) -> None:
    target = tmp_path / "x.png"
    target.write_bytes(b"old")
    cdn.answer = lambda _path, _start: (200, {}, b"<html>gone</html>")
    with pytest.raises(DownloadFailed, match="begins with"):
        await artifact(engines, f"{cdn.url}/a").save(target)
    assert target.read_bytes() == b"old"
    cdn.answer = lambda _path, _start: None
    assert (await artifact(engines, f"{cdn.url}/a").save(target)).read_bytes() == PICTURE
    assert files(tmp_path) == ["x.png"]


async def test_a_place_that_cannot_be_written_is_reported(cdn: Cdn, engines: PerLoopBackend, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "runblob-o3-photo-job-1.png").mkdir()
    for target in (f"{tmp_path}/file/", f"{tmp_path}/file/x.png", f"{tmp_path}/"):
        with pytest.raises(DownloadFailed, match="writing to"):
            await artifact(engines, f"{cdn.url}/a").save(target)
    assert files(tmp_path) == ["file", "runblob-o3-photo-job-1.png"]


async def test_an_empty_directory_name_is_the_working_directory(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = artifact(engines, f"{cdn.url}/a")
    [path] = await Result(JobRef("runblob", "o3-photo", "job-1"), (one,)).save("")
    assert path.resolve().parent == tmp_path


@pytest.mark.parametrize("native", [False, True])
async def test_a_save_that_is_cancelled_leaves_nothing(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, native: bool, anyio_backend_name: str
) -> None:
    cdn.hold.clear()
    one = artifact(engines, f"{cdn.url}/a")
    if native and anyio_backend_name == "asyncio":
        task = asyncio.create_task(one.save(f"{tmp_path}/"))
        await anyio.to_thread.run_sync(cdn.started.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        async with anyio.create_task_group() as group:
            group.start_soon(one.save, f"{tmp_path}/")
            await anyio.to_thread.run_sync(cdn.started.wait, 10)
            group.cancel_scope.cancel()
    engine = await engines.current()
    assert engine.concurrency.value == Limits().connections
    assert engine.pool is not None
    assert engine.pool.statistics().connections == 0
    assert files(tmp_path) == []


@pytest.mark.parametrize("native", [False, True])
async def test_a_save_cancelled_at_any_step_leaves_nothing_or_the_whole_file(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, native: bool, anyio_backend_name: str
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("a task cannot be cancelled but by its scope")
    count = 0
    under_way = True
    while under_way:
        count += 1
        folder = tmp_path / str(count)
        folder.mkdir()
        one = artifact(engines, f"{cdn.url}/a", identity=f"job-{count}")
        under_way = await cancelled_at(count, partial(one.save, f"{folder}/"), native=native)
        assert (await engines.current()).concurrency.value == Limits().connections
        with anyio.fail_after(5):  # a thread cannot be stopped: what it was at is undone a moment later
            while [name for name in files(folder) if name.endswith(".part")]:  # noqa: ASYNC110  # no event tells
                await anyio.sleep(0.005)
        assert all((folder / name).read_bytes() == PICTURE for name in files(folder))
    assert count > 5
    assert len(files(folder)) == 1


async def test_an_expired_address_that_cannot_be_renewed_is_reported(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path
) -> None:
    cdn.answer = lambda _path, _start: (403, {}, b"")
    with pytest.raises(DownloadFailed, match="asking for a new URL failed: away"):
        await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert len(cdn.requests) == 1
    assert files(tmp_path) == []


async def test_an_engine_of_the_users_is_used_without_his_credentials(cdn: Cdn, tmp_path: Path) -> None:
    """A URL with a name and a password in it, through the user's own client."""
    seen: list[httpx.Request] = []

    async def note(request: httpx.Request) -> None:
        seen.append(request)

    async with httpx.AsyncClient(auth=("me", "mine"), event_hooks={"request": [note]}) as http:
        engines = PerLoopBackend(http, Limits(), cdn.url)
        path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
        assert path.read_bytes() == PICTURE
    assert "authorization" not in seen[0].headers


OTHER = b"\x89PNG\r\n\x1a\n" + os.urandom(len(PICTURE) - 8)


def broken_first(cdn: Cdn, headers: dict[str, str] | None = None) -> None:
    """The first transfer breaks off after 200 000 bytes."""

    def answer(_: str, start: int) -> Reply | None:
        if start or len(cdn.requests) > 1:
            return None
        return 200, {"content-length": str(len(PICTURE))} | (headers or {}), PICTURE[:200_000]

    cdn.answer = answer


async def test_a_part_is_continued_under_the_condition_that_the_file_is_the_same(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path
) -> None:
    broken_first(cdn)
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path.read_bytes() == PICTURE
    assert cdn.conditions == [None, '"one"']
    assert files(tmp_path) == [path.name]


@pytest.mark.parametrize("obeys", [True, False], ids=["server obeys If-Range", "server does not know If-Range"])
async def test_a_file_that_changed_at_the_server_is_begun_again(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, obeys: bool
) -> None:
    def answer(_: str, start: int) -> Reply:
        if len(cdn.requests) == 1:
            return 200, {"content-length": str(len(PICTURE))}, PICTURE[:200_000]
        if start and not obeys:
            place = f"bytes {start}-{len(OTHER) - 1}/{len(OTHER)}"
            return 206, {"content-range": place, "etag": '"two"'}, OTHER[start:]
        return 200, {"etag": '"two"'}, OTHER

    cdn.answer = answer
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path.read_bytes() == OTHER
    assert files(tmp_path) == [path.name]


@pytest.mark.parametrize("etag", ["", 'W/"one"', "one"], ids=["none", "weak", "malformed"])
async def test_without_a_strong_validator_the_file_is_begun_again(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, etag: str
) -> None:
    cdn.etag = etag
    broken_first(cdn)
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path.read_bytes() == PICTURE
    assert [start for _, start in cdn.requests] == [0, 0]


@pytest.mark.parametrize(
    ("modified", "starts"), [(-60.0, [0, 200_000]), (60.0, [0, 0])], ids=["a minute old", "not over yet"]
)
async def test_last_modified_is_a_validator_once_its_second_is_over(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, modified: float, starts: list[int]
) -> None:
    cdn.etag = ""
    date = formatdate(time.time() + modified, usegmt=True)
    broken_first(cdn, {"last-modified": date})
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path.read_bytes() == PICTURE
    assert [start for _, start in cdn.requests] == starts
    assert cdn.conditions[1] == (date if starts[1] else None)


async def left_part(cdn: Cdn, engines: PerLoopBackend, folder: Path) -> tuple[Path, Path]:
    """Let a save fail in a way that leaves its part and the note beside it."""
    cdn.answer = lambda _, start: (
        (200, {"content-length": str(len(PICTURE))}, PICTURE[:200_000]) if not start else (503, {}, b"")
    )
    with pytest.raises(DownloadFailed), mock.patch.object(downloads, "_FIRST_WAIT", 0.01):
        await artifact(engines, f"{cdn.url}/a").save(f"{folder}/")
    note, part = sorted(folder.iterdir(), key=lambda path: -len(path.name))
    cdn.requests.clear()
    cdn.answer = lambda _path, _start: None
    return part, note


async def test_the_next_save_continues_the_part(cdn: Cdn, engines: PerLoopBackend, tmp_path: Path) -> None:
    await left_part(cdn, engines, tmp_path)
    path = await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert path.read_bytes() == PICTURE
    assert cdn.requests == [("/a", 200_000)]
    assert files(tmp_path) == [path.name]


@pytest.mark.parametrize("flaw", ["no note", "longer", "unreadable", "link"])
async def test_a_part_without_a_true_note_is_not_continued(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, flaw: str
) -> None:
    folder = tmp_path / "out"
    part, note = await left_part(cdn, engines, folder)
    if flaw == "longer":
        part.write_bytes(part.read_bytes() + b"x")
    elif flaw == "unreadable":
        note.write_bytes(b"[" * 3000)
    else:
        elsewhere = note.rename(tmp_path / "elsewhere")
        if flaw == "link":
            note.symlink_to(elsewhere)
    path = await artifact(engines, f"{cdn.url}/a").save(f"{folder}/")
    assert path.read_bytes() == PICTURE
    assert cdn.requests == [("/a", 0)]
    assert files(folder) == [path.name]


@pytest.mark.parametrize("kind", ["link", "hard link", "directory", "pipe"])
async def test_what_somebody_put_in_the_place_of_the_part_is_left_alone(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "out"
    part, note = await left_part(cdn, engines, folder)
    part.unlink()
    note.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    if kind == "link":
        part.symlink_to(victim)
    elif kind == "hard link":
        part.hardlink_to(victim)
    elif kind == "directory":
        part.mkdir()
    else:
        os.mkfifo(part)
    path = await artifact(engines, f"{cdn.url}/a").save(f"{folder}/")
    assert path.read_bytes() == PICTURE
    assert path.is_file()
    assert not path.is_symlink()
    assert victim.read_bytes() == b"precious"
    assert files(folder) == sorted([part.name, path.name])


def ended(engines: PerLoopBackend, url: str, seconds: float) -> tuple[Artifact, list[None]]:
    """An artifact of a job that ended so long ago, and how often its URL was renewed."""
    renewals: list[None] = []

    async def renew() -> tuple[Artifact, ...]:
        renewals.append(None)
        return (Artifact("image", url),)

    at = datetime.now(UTC) - timedelta(seconds=seconds)
    saver = Downloader(engines, JobRef("runblob", "o3-photo", "job-1"), local=True, renew=renew, ended=at)
    return Artifact("image", url).saved_by(saver), renewals


async def test_a_file_that_is_not_there_yet_is_waited_for(cdn: Cdn, engines: PerLoopBackend, tmp_path: Path) -> None:
    cdn.answer = lambda _path, _start: (404, {}, b"") if len(cdn.requests) < 3 else None
    one, renewals = ended(engines, f"{cdn.url}/a", 1.0)
    before = time.monotonic()
    path = await one.save(f"{tmp_path}/")
    assert path.read_bytes() == PICTURE
    assert time.monotonic() - before > 1.4  # the waits grow: 0.5 s, 1 s
    assert renewals == []


async def test_half_a_minute_after_the_end_a_missing_file_is_expired(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path
) -> None:
    cdn.answer = lambda _path, _start: (404, {}, b"")
    one, renewals = ended(engines, f"{cdn.url}/a", 29.3)
    with pytest.raises(DownloadFailed, match="asking for a new URL did not help"):
        await one.save(f"{tmp_path}/")
    assert len(renewals) == 1
    # At once, at the end of the half minute, and the new URL. After 0.5 s as well, where the machine is fast enough.
    assert 3 <= len(cdn.requests) <= 4


@pytest.mark.parametrize("status", [404, 503, 429])
async def test_the_wait_that_a_file_store_asks_for_is_obeyed(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, status: int
) -> None:
    cdn.answer = lambda _path, _start: (status, {"retry-after": "2"}, b"") if len(cdn.requests) < 2 else None
    one, _ = ended(engines, f"{cdn.url}/a", 1.0)
    before = time.monotonic()
    await one.save(f"{tmp_path}/")
    assert time.monotonic() - before > 1.9


async def test_a_wait_that_is_too_long_is_reported_at_once(cdn: Cdn, engines: PerLoopBackend, tmp_path: Path) -> None:
    cdn.answer = lambda _path, _start: (503, {"retry-after": "3600"}, b"")
    with pytest.raises(DownloadFailed, match="asks to wait 3600 s"):
        await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert len(cdn.requests) == 1


async def test_a_long_id_makes_a_short_name(cdn: Cdn, engines: PerLoopBackend, tmp_path: Path) -> None:
    paths = [
        await artifact(engines, f"{cdn.url}/a", identity="x" * 199 + end, data=data).save(f"{tmp_path}/")
        for end, data in (("1", None), ("2", PICTURE))
    ]
    assert len(set(paths)) == 2
    assert all(len(os.fsencode(path.name)) <= 132 for path in paths)
    assert all(path.read_bytes() == PICTURE for path in paths)


def test_a_bounded_name_counts_bytes_and_keeps_names_apart() -> None:
    names = {bounded_name("\N{SNOWMAN}" * 100 + end, 128) for end in ("", "1", "2")}
    assert len(names) == 3
    assert all(len(name.encode()) <= 128 for name in names)
    assert bounded_name("short", 128) == "short"


async def test_an_inline_file_takes_any_name_that_the_file_system_takes(
    engines: PerLoopBackend, tmp_path: Path
) -> None:
    target = tmp_path / ("\N{SNOWMAN}" * 85)
    assert (await artifact(engines, None, data=PICTURE).save(target)).read_bytes() == PICTURE
    assert files(tmp_path) == [target.name]


async def test_a_transfer_that_is_too_slow_is_broken_off(
    cdn: Cdn, engines: PerLoopBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that trickle in reset the wait for the next one, and do not extend the whole time."""
    monkeypatch.setattr("kling_async._files.downloads._STALL", 0.4)
    monkeypatch.setattr("kling_async._files.downloads._ATTEMPTS", 1)
    cdn.trickle = 0.1
    before = time.monotonic()
    with pytest.raises(DownloadFailed, match="less than 20000 bytes a second"):
        await artifact(engines, f"{cdn.url}/a").save(f"{tmp_path}/")
    assert time.monotonic() - before < 5.0


async def pieces(one: Artifact) -> bytes:
    return b"".join([piece async for piece in one.stream()])


@pytest.mark.parametrize("way", [Artifact.read, pieces], ids=["read", "stream"])
@pytest.mark.parametrize("in_memory", [1000, 8 * 1024**2])
async def test_a_file_is_read_without_a_file_of_the_users(
    cdn: Cdn, engines: PerLoopBackend, monkeypatch: pytest.MonkeyPatch, way: Way, in_memory: int
) -> None:
    monkeypatch.setattr("kling_async._files.downloads._IN_MEMORY", in_memory)
    broken_first(cdn)
    assert await way(artifact(engines, f"{cdn.url}/a")) == PICTURE
    assert cdn.conditions == [None, '"one"']
    assert await way(artifact(engines, None, data=PICTURE)) == PICTURE


@pytest.mark.parametrize("way", [Artifact.read, pieces], ids=["read", "stream"])
async def test_reading_checks_the_same_as_saving(
    cdn: Cdn, engines: PerLoopBackend, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    one = artifact(engines, f"{cdn.url}/a")
    cdn.answer = lambda _path, _start: (200, {}, b"<html>gone</html>")
    with pytest.raises(DownloadFailed, match="begins with"):
        await way(one)
    cdn.answer = lambda _path, _start: (200, {"content-length": str(len(PICTURE))}, PICTURE[:2000])
    monkeypatch.setattr("kling_async._files.downloads._ATTEMPTS", 1)
    with pytest.raises(DownloadFailed, match="attempts were made"):
        await way(one)
    cdn.answer = lambda _path, _start: None
    monkeypatch.setattr("kling_async._files.downloads._MAX_BYTES", 100_000)
    with pytest.raises(DownloadFailed, match="larger than"):
        await way(one)
    with pytest.raises(DownloadFailed, match="not an https address"):
        await way(artifact(engines, "http://192.0.2.1/x"))
    with pytest.raises(RuntimeError, match="was pickled"):
        await way(Artifact("image", f"{cdn.url}/a"))


async def test_a_stream_that_is_left_early_leaves_nothing(cdn: Cdn, engines: PerLoopBackend) -> None:
    stream = artifact(engines, f"{cdn.url}/a").stream()
    async with aclosing(cast("AsyncGenerator[bytes, None]", stream)):
        assert PICTURE.startswith(await anext(stream))
    assert (await engines.current()).concurrency.value == Limits().connections
