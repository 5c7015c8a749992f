"""Result files are served as a content delivery network does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from kling_async.sandbox import Sandbox

pytestmark = pytest.mark.sandbox(speed=0, scale=0.05, lifetime=86400)

PHOTO = "/v1/kling/o3-photo"
ENOUGH = 1000.0


@pytest.fixture
def url(sandbox: Sandbox, client: httpx.Client) -> str:
    """The address of a finished picture."""
    generation = client.post(f"{PHOTO}/generate", json={"prompt": "a fox"}).json()["generation_id"]
    sandbox.state.clock.advance(ENOUGH)
    address: str = client.get(f"{PHOTO}/generations/{generation}").json()["image_url"]
    return address


@pytest.fixture
def browse() -> Iterator[Callable[..., httpx.Response]]:
    """Download without any key."""
    with httpx.Client(trust_env=False) as anybody:

        def get(url: str, method: str = "GET", **headers: str) -> httpx.Response:
            return anybody.request(method, url, headers={k.replace("_", "-"): v for k, v in headers.items()})

        yield get


Browse = Callable[..., httpx.Response]


def test_a_download_needs_no_key_and_names_type_length_and_etag(url: str, browse: Browse) -> None:
    answer = browse(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert int(answer.headers["content-length"]) == len(answer.content) > 1000
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"] == browse(url).headers["etag"]


def test_head_tells_the_same_without_the_body(url: str, browse: Browse) -> None:
    head, whole = browse(url, "HEAD"), browse(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-50", slice(-50, None)),
        ("bytes=10-999999999", slice(10, None)),
        ("bytes=0-0", slice(0, 1)),
    ],
)
def test_a_range_is_206_with_its_place(url: str, browse: Browse, wanted: str, part: slice) -> None:
    whole = browse(url).content
    answer = browse(url, Range=wanted)
    first, last, _ = part.indices(len(whole))
    assert (answer.status_code, answer.content) == (206, whole[part])
    assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/{len(whole)}"
    assert int(answer.headers["content-length"]) == last - first


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=-0"])
def test_a_range_beyond_the_end_is_416_with_the_length(url: str, browse: Browse, wanted: str) -> None:
    size = len(browse(url).content)
    answer = browse(url, Range=wanted)
    assert (answer.status_code, answer.content) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize("wanted", ["bytes=9-5", "bytes=-", "bytes=0-1,5-6", "lines=1-2", "bytes=a-b"])
def test_a_malformed_range_gets_the_whole_file(url: str, browse: Browse, wanted: str) -> None:
    answer = browse(url, Range=wanted)
    assert (answer.status_code, answer.content) == (200, browse(url).content)


def test_a_download_is_resumed_only_while_the_file_is_the_same(url: str, browse: Browse) -> None:
    etag = browse(url).headers["etag"]
    assert browse(url, Range="bytes=5-", If_Range=etag).status_code == 206
    assert browse(url, Range="bytes=5-", If_Range='"another"').status_code == 200
    assert browse(url, If_None_Match=etag).status_code == 304


def test_what_is_not_finished_or_never_was_cannot_be_had(
    sandbox: Sandbox, client: httpx.Client, browse: Browse
) -> None:
    client.post(f"{PHOTO}/generate", json={"prompt": "a fox"})
    (job,) = sandbox.state.jobs.values()
    early = browse(sandbox.state.file_url(job, job.files[0]))
    assert (early.status_code, early.headers["content-type"]) == (403, "application/xml")
    for name in ("nothing.png", "0" * 24 + "-0.png", job.files[0].id + ".png"):
        assert browse(f"{sandbox.url}/cdn/{name}").status_code == 404


def test_an_address_dies_after_its_lifetime(sandbox: Sandbox, url: str, browse: Browse) -> None:
    sandbox.state.clock.advance(86399 - ENOUGH)
    assert browse(url).status_code == 200
    sandbox.state.clock.advance(ENOUGH)
    assert browse(url).status_code == 403


def test_a_killed_address_is_replaced_by_a_fresh_poll(
    sandbox: Sandbox, client: httpx.Client, url: str, browse: Browse
) -> None:
    (job,) = sandbox.state.jobs.values()
    sandbox.state.expire(job)
    assert browse(url).status_code == 403
    fresh = client.get(f"{PHOTO}/generations/{job.id}").json()["image_url"]
    assert fresh != url
    assert browse(fresh).status_code == 200
