"""Results in object stores, on a real S3 server: whole objects only, nothing left behind, no secret shown."""

from __future__ import annotations

import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

import kling_async
from kling_async import Artifact, ConfigurationError, DownloadFailed, JobRef, Limits, Result
from kling_async._files.downloads import Downloader
from kling_async._files.local import ensure_writable
from kling_async._files.object_store import ObjectUrl, StoreFailed, destination, list_objects, read_object
from kling_async._http.backend import PerLoopBackend
from support.cancel_at_step import cancelled_at
from support.cdn import PICTURE, Cdn
from support.s3 import KEY_ID, SECRET, Bucket

pytestmark = pytest.mark.anyio

PATIENCE = 120
LARGE = PICTURE + bytes(20 * 1024**2)
"""A picture that is sent in three parts."""


def artifact(
    engines: PerLoopBackend, url: str | None, *, identity: str = "job-1", data: bytes | None = None
) -> Artifact:
    async def renew() -> tuple[Artifact, ...]:
        raise kling_async.TransportFailed("away")

    saver = Downloader(engines, JobRef("runblob", "o3-photo", identity), local=True, renew=renew, key="row 1")
    return Artifact("image", url, data=data).saved_by(saver)


def result(*artifacts: Artifact) -> Result:
    return Result(JobRef("runblob", "o3-photo", "job-1"), artifacts)


async def test_a_result_is_saved_as_an_object_and_not_fetched_again(
    cdn: Cdn, engines: PerLoopBackend, bucket: Bucket
) -> None:
    one = artifact(engines, f"{cdn.url}/a")
    inline = artifact(engines, None, identity="job-2", data=PICTURE)
    progress: list[tuple[int, int | None]] = []
    saved = await result(one, inline).save(bucket.url("run/files"), progress=lambda *sums: progress.append(sums))
    names = ["run/files/runblob-o3-photo-job-1.png", "run/files/runblob-o3-photo-job-2.png"]
    assert saved == [bucket.url(name) for name in names]
    assert bucket.keys() == names
    assert [bucket.read(name) for name in names] == [PICTURE, PICTURE]
    assert bucket.media_type(names[0]) == bucket.media_type(names[1]) == "image/png"
    assert progress[-1] == (len(PICTURE), len(PICTURE))
    assert await result(one, inline).save(bucket.url("run/files/")) == saved
    assert len(cdn.requests) == 1


async def test_an_object_of_another_job_under_the_name_is_replaced(
    cdn: Cdn, engines: PerLoopBackend, bucket: Bucket
) -> None:
    bucket.write("row 1.png", PICTURE[:5000])
    bucket.write("exact", b"")
    one = artifact(engines, f"{cdn.url}/a")
    assert await result(one).save(bucket.url(), name="{key}") == [bucket.url("row 1.png")]
    assert await one.save(bucket.url("exact")) == bucket.url("exact")
    assert bucket.read("row 1.png") == bucket.read("exact") == PICTURE
    again = artifact(engines, f"{cdn.url}/a", identity="job-2")
    assert await again.save(bucket.url("exact")) == bucket.url("exact")
    assert len(cdn.requests) == 3
    assert await again.save(bucket.url("exact")) == bucket.url("exact")
    assert len(cdn.requests) == 3


async def test_a_large_file_is_sent_in_parts_and_a_broken_transfer_is_continued(
    cdn: Cdn, engines: PerLoopBackend, bucket: Bucket
) -> None:
    cdn.content = LARGE
    cut = 10 * 1024**2
    cdn.answer = lambda _path, start: (
        None if start else (200, {"content-length": str(len(LARGE)), "connection": "close"}, LARGE[:cut])
    )
    url = await artifact(engines, f"{cdn.url}/a").save(bucket.url("a/"))
    assert url == bucket.url("a/runblob-o3-photo-job-1.png")
    assert bucket.read("a/runblob-o3-photo-job-1.png") == LARGE
    assert cdn.requests == [("/a", 0), ("/a", cut)]
    assert bucket.unfinished() == []


async def test_another_version_of_the_file_begins_the_object_again(
    cdn: Cdn, engines: PerLoopBackend, bucket: Bucket
) -> None:
    cdn.content = LARGE
    cut = 10 * 1024**2

    def answer(_path: str, start: int) -> tuple[int, dict[str, str], bytes] | None:
        if len(cdn.requests) == 1:
            return 200, {"content-length": str(len(LARGE)), "connection": "close"}, bytes(LARGE[:cut])
        return 200, {"etag": '"two"'}, PICTURE  # what a server does whose file is not that of If-Range

    cdn.answer = answer
    await artifact(engines, f"{cdn.url}/a").save(bucket.url("a"))
    assert bucket.read("a") == PICTURE
    assert bucket.unfinished() == []


@pytest.mark.parametrize("body", [b"<html>away</html>", b"<html>" + bytes(9 * 1024**2), b""])
async def test_what_is_no_picture_is_not_saved(
    body: bytes, cdn: Cdn, engines: PerLoopBackend, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kling_async._files.downloads._FIRST_WAIT", 0.001)
    cdn.answer = lambda _path, _start: (200, {}, body)
    with pytest.raises(DownloadFailed, match=r"is no image|the file is empty"):
        await artifact(engines, f"{cdn.url}/a").save(bucket.url("a"))
    assert bucket.keys() == bucket.unfinished() == []


async def test_a_file_that_never_comes_whole_leaves_no_object_and_no_parts(
    cdn: Cdn, engines: PerLoopBackend, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kling_async._files.downloads._FIRST_WAIT", 0.001)
    cut = 10 * 1024**2
    cdn.etag = ""  # so it cannot be continued
    headers = {"content-length": str(len(LARGE)), "connection": "close"}
    cdn.answer = lambda _path, _start: (200, headers, LARGE[:cut])
    with pytest.raises(DownloadFailed, match="4 attempts were made"):
        await artifact(engines, f"{cdn.url}/a").save(bucket.url("a"))
    assert bucket.keys() == bucket.unfinished() == []


@pytest.mark.parametrize("native", [False, True])
async def test_a_save_cancelled_at_any_step_leaves_nothing_or_the_whole_object(
    cdn: Cdn, engines: PerLoopBackend, bucket: Bucket, native: bool, anyio_backend_name: str
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("a task cannot be cancelled but by its scope")
    count, under_way = 0, True
    while under_way:
        count += 1
        one = artifact(engines, f"{cdn.url}/a", identity=f"job-{count}")
        under_way = await cancelled_at(count, partial(one.save, bucket.url("f/")), native=native)
        assert (await engines.current()).concurrency.value == Limits().connections
    assert count > 5
    assert f"f/runblob-o3-photo-job-{count}.png" in bucket.keys()  # noqa: SIM118  # a method of ours
    assert all(bucket.read(key) == PICTURE for key in bucket.keys())  # noqa: SIM118  # the same
    assert bucket.unfinished() == []


async def test_a_save_cancelled_between_two_parts_leaves_nothing(
    cdn: Cdn, engines: PerLoopBackend, bucket: Bucket
) -> None:
    cdn.content = LARGE
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:

            def notice(size: int, _: int | None) -> None:
                if size > 12 * 1024**2 and bucket.unfinished():
                    group.cancel_scope.cancel()

            group.start_soon(partial(artifact(engines, f"{cdn.url}/a").save, bucket.url("a"), progress=notice))
    assert group.cancel_scope.cancel_called
    assert bucket.keys() == bucket.unfinished() == []


async def test_a_bucket_that_is_missing_is_named(
    cdn: Cdn, engines: PerLoopBackend, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    del bucket
    with pytest.raises(DownloadFailed, match=r"there is no bucket nobodys-bucket \(NoSuchBucket\); create it"):
        await artifact(engines, f"{cdn.url}/a").save("s3://nobodys-bucket/a/")
    cdn.content = LARGE
    with pytest.raises(DownloadFailed, match="there is no bucket nobodys-bucket"):
        await artifact(engines, f"{cdn.url}/a").save("s3://nobodys-bucket/a/")
    with pytest.raises(
        ConfigurationError, match="results cannot be written to s3://nobodys-bucket/a: there is no bucket"
    ):
        await ensure_writable(ObjectUrl("s3", "nobodys-bucket", "a"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr("kling_async._files.object_store._RETRIES", {"max_retries": 0})
    with pytest.raises(ConfigurationError, match=r"the store of s3://b/a/.kling-probe cannot be reached"):
        await ensure_writable(ObjectUrl("s3", "b", "a"))


async def test_the_test_of_a_bucket_leaves_nothing(bucket: Bucket) -> None:
    await ensure_writable(ObjectUrl("s3", bucket.name, "a"))
    assert bucket.keys() == []


class _Refusing(BaseHTTPRequestHandler):
    """Refuses everything, as S3 does, with the key in its answer."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = (
            f"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId>"
            f"<StringToSign>{SECRET}</StringToSign></Error>"
        ).encode()
        self.send_response(403)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_PUT  # noqa: N815  # the names are the base class's

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


async def test_refused_credentials_are_reported_without_them(
    cdn: Cdn, engines: PerLoopBackend, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    del bucket
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        try:
            errors: list[BaseException] = []
            for content in (PICTURE, LARGE):
                cdn.content = content
                with pytest.raises(DownloadFailed) as failed:
                    await artifact(engines, f"{cdn.url}/a").save("s3://bucket/a/")
                errors.append(failed.value)
            with pytest.raises(StoreFailed):  # refused is not the same as missing
                await read_object(ObjectUrl("s3", "bucket", "a"))
            with pytest.raises(StoreFailed):
                await list_objects(ObjectUrl("s3", "bucket", "a"))
        finally:
            server.shutdown()
            thread.join()
    for error in errors:
        assert "the store refuses the credentials (SignatureDoesNotMatch); set AWS_ACCESS_KEY_ID" in str(error)
        chain: BaseException | None = error
        while chain is not None:
            assert KEY_ID not in repr(chain)
            assert SECRET not in repr(chain)
            chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


@pytest.mark.parametrize("scheme", ["s3", "az"])  # obstore asks Google's server at a fixed address
async def test_without_credentials_the_message_names_the_variables(
    scheme: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The places from which machines in the cloud get theirs are led to a server that has none."""
    del bucket
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://169.254.169.254.invalid")
    monkeypatch.setattr("kling_async._files.object_store._RETRIES", {"max_retries": 0})
    variable = {"s3": "AWS_ACCESS_KEY_ID", "az": "AZURE_STORAGE_ACCOUNT_NAME"}[scheme]
    with pytest.raises(ConfigurationError, match=f"no credentials for {scheme}:// were found; set {variable}"):
        await ensure_writable(ObjectUrl(scheme, "bucket", "a"))


async def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'kling-async\[cloud\]'"):
        await ensure_writable(ObjectUrl("s3", "bucket", "a"))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("s3://bucket", ObjectUrl("s3", "bucket")),
        ("S3://bucket/", ObjectUrl("s3", "bucket")),
        ("gs://a.bucket/a/b c/", ObjectUrl("gs", "a.bucket", "a/b c")),
        ("az://container/a#1", ObjectUrl("az", "container", "a#1")),
        ("out/s3", Path("out/s3")),
        (Path("out"), Path("out")),
    ],
)
def test_a_destination_is_a_path_or_an_address(text: str | Path, parsed: Path | ObjectUrl) -> None:
    assert destination(text) == parsed


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("ftp://host/a", r"ftp:// is no place for results; give a directory, or one of s3://, gs://, az://"),
        ("https://bucket.s3.amazonaws.com/a", "https:// is no place"),
        ("s3://", "names no bucket"),
        ("s3://id:geheim@bucket/a", "names no bucket; write s3://BUCKET/PREFIX, without a password"),
        ("s3://bucket/a//b", "empty part"),
        ("s3://bucket/../b", "empty part, . or .."),
        ("s3://bucket/a\nb", "cannot be printed"),
        (Path("s3://bucket/a"), "give the address of an object store as text"),
        ("s3:/bucket/a", "'s3:/bucket/a' is a path on this machine; give .* with two slashes: s3://bucket/prefix"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(place: str | Path, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        destination(place)
    assert "geheim" not in str(refused.value)


async def test_small_objects_are_read_and_listed(bucket: Bucket) -> None:
    bucket.write("run/files/a.png", PICTURE)
    bucket.write("run/results.jsonl", b"{}\n")
    folder = ObjectUrl("s3", bucket.name, "run")
    assert await list_objects(folder) == {"files/a.png": len(PICTURE), "results.jsonl": 3}
    assert await read_object(folder / "results.jsonl") == b"{}\n"
    assert await read_object(folder / "none") is None
