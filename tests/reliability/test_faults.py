"""The fault matrix on real sockets: what the client makes of a provider that misbehaves, judged by its counters."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import kling_async
from kling_async import Client, Limits, Polling, Progressive, RunBlob, Status, runblob
from kling_async.sandbox import Fault, Sandbox

pytestmark = pytest.mark.anyio

PHOTO = runblob.O3Photo("a boat", resolution="1k")
QUICK = Polling(schedule=Progressive(0.1), status_calls_per_minute=math.inf, deadline=30)


BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@pytest.fixture
def anyio_backend() -> str:
    """Faults are told apart by the same code on both libraries: asyncio alone, except for the tests marked `BOTH`."""
    return "asyncio"


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[Client]:
    async with make_client(sandbox) as made:
        yield made


def make_client(sandbox: Sandbox, **settings: Any) -> Client:
    [provider] = [provider for provider in sandbox.providers() if provider.name == "runblob"]
    return Client(provider, **{"polling": QUICK, **settings})


async def run_all(client: Client, count: int) -> list[BaseException | kling_async.Result]:
    """`count` runs at once, each with its result or its error."""
    outcomes: list[BaseException | kling_async.Result] = []

    async def one() -> None:
        try:
            outcomes.append(await client.run(PHOTO))
        except kling_async.KlingError as error:
            outcomes.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)
    return outcomes


@BOTH
async def test_an_answer_lost_after_acceptance_is_unknown_and_bought_once(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", times=1)
    with pytest.raises(kling_async.SubmissionUnknown, match="was lost") as lost:
        await client.submit(PHOTO, key="row-1")
    assert lost.value.key == "row-1"
    assert sandbox.counters.bought["runblob"] == 1
    assert sandbox.counters.requests["runblob", "submit"] == 1
    assert client.statistics().providers["runblob"].lost == 1


async def test_at_scale_jobs_bought_equal_submissions(sandbox: Sandbox, client: Client) -> None:
    """200 submissions, every tenth answer lost after acceptance."""
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", every=10)
    outcomes = await run_all(client, 200)
    lost = [outcome for outcome in outcomes if isinstance(outcome, kling_async.SubmissionUnknown)]
    done = [outcome for outcome in outcomes if isinstance(outcome, kling_async.Result)]
    assert (len(lost), len(done)) == (20, 180)
    assert sandbox.counters.bought["runblob"] == sandbox.counters.requests["runblob", "submit"] == 200


@BOTH
async def test_a_reset_before_reading_is_unknown_too(sandbox: Sandbox, client: Client) -> None:
    """The request was written. What the server did with it cannot be known."""
    sandbox.faults.add(Fault.reset_before_reading, kind="submit", times=1)
    with pytest.raises(kling_async.SubmissionUnknown):
        await client.submit(PHOTO)
    assert sandbox.counters.requests["runblob", "submit"] <= 1
    assert sandbox.counters.bought["runblob"] == 0


@BOTH
async def test_a_refused_connection_is_retried_then_reported() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    async with Client(RunBlob("key", f"http://127.0.0.1:{port}"), limits=Limits(max_attempts=3)) as client:
        with pytest.raises(kling_async.TransportFailed, match=f"127.0.0.1:{port}"):
            await client.submit(PHOTO)
        statistics = client.statistics()
    assert (statistics.submitted, statistics.providers["runblob"].calls) == (0, 3)


async def test_a_name_that_does_not_resolve_is_reported() -> None:
    async with Client(RunBlob("key", "https://kling.invalid"), limits=Limits(max_attempts=2)) as client:
        with pytest.raises(kling_async.TransportFailed, match=r"kling\.invalid"):
            await client.submit(PHOTO)


@pytest.mark.parametrize("kind", ["submit", "status"])
@pytest.mark.parametrize("hint", ["seconds", "date", "body", "absent", "unreadable"])
async def test_too_many_pauses_the_calls_and_fails_no_job(
    sandbox: Sandbox, client: Client, hint: Any, kind: str
) -> None:
    sandbox.faults.add(Fault.rate_limited, kind=kind, times=2, hint=hint, seconds=0.2)
    outcomes = await run_all(client, 10)
    assert [type(outcome) for outcome in outcomes] == [kling_async.Result] * 10
    assert sandbox.counters.bought["runblob"] == 10
    assert client.statistics().providers["runblob"].throttled == 2


async def test_patience_ends_with_the_providers_word(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.rate_limited, kind="submit", seconds=1)
    async with make_client(sandbox, limits=Limits(throttle_timeout=1)) as client:
        with pytest.raises(kling_async.RateLimited) as limited:
            await client.submit(PHOTO)
    assert limited.value.retry_after == 1.0  # whole seconds, as the header has them
    assert sandbox.counters.bought["runblob"] == 0


async def test_a_burst_of_5xx_under_many_pollers_is_no_storm(sandbox: Sandbox) -> None:
    """Repetitions are bounded by the transport's quota. Every job finishes after the recovery."""
    limits = Limits(retry_budget=25)
    async with make_client(sandbox, limits=limits) as client:
        sandbox.faults.add(Fault.server_error, kind="status", times=225)
        outcomes = await run_all(client, 150)
        repeated = client.statistics().providers["runblob"].retried
    assert all(isinstance(outcome, kling_async.Result) for outcome in outcomes)
    answered = sandbox.counters.requests["runblob", "status"] - 225
    assert repeated <= 25 + 0.1 * (answered + 150)


async def test_503_in_the_providers_words_means_not_now(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.add(Fault.unavailable, kind="submit", times=2, seconds=0.1)
    assert (await client.run(PHOTO)).urls
    assert sandbox.counters.bought["runblob"] == 1


@pytest.mark.parametrize("fault", [Fault.unavailable, Fault.server_error])
async def test_a_gateways_page_leaves_the_submission_unknown(sandbox: Sandbox, client: Client, fault: Fault) -> None:
    sandbox.faults.add(fault, kind="submit", times=1, bare=True, accepted=True)
    with pytest.raises(kling_async.SubmissionUnknown):
        await client.submit(PHOTO)
    assert sandbox.counters.bought["runblob"] == sandbox.counters.requests["runblob", "submit"] == 1


BODIES = [Fault.truncated_json, Fault.cut_off, Fault.html, Fault.empty_json, Fault.wrong_types]


UNREADABLE = [fault for fault in BODIES if fault is not Fault.wrong_types]


async def test_a_submit_answer_with_a_number_for_an_id_is_accepted(sandbox: Sandbox, client: Client) -> None:
    """An id in hand outweighs the form of the answer."""
    sandbox.faults.add(Fault.wrong_types, kind="submit", times=1)
    job = await client.submit(PHOTO)
    assert job.ref.id == "12345"
    assert sandbox.counters.bought["runblob"] == sandbox.counters.requests["runblob", "submit"] == 1


@pytest.mark.parametrize("fault", UNREADABLE)
async def test_an_unreadable_submit_answer_is_unknown(sandbox: Sandbox, client: Client, fault: Fault) -> None:
    sandbox.faults.add(fault, kind="submit", times=1)
    with pytest.raises(kling_async.SubmissionUnknown):
        await client.submit(PHOTO)
    assert sandbox.counters.bought["runblob"] == sandbox.counters.requests["runblob", "submit"] == 1


@pytest.mark.parametrize("fault", [*BODIES, Fault.unknown_status])
async def test_an_unreadable_poll_says_nothing_false(
    sandbox: Sandbox, client: Client, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.faults.add(fault, kind="status", times=5)
    job = await client.submit(PHOTO)
    assert (await job).urls
    statuses = [event.status for event in job.events]
    assert statuses == sorted(statuses, key=[Status.PENDING, Status.PROCESSING, Status.COMPLETED].index)
    assert caplog.records, "there is a warning"
    assert sandbox.api_key("runblob") not in caplog.text


@BOTH
async def test_a_dripping_server_meets_the_total_deadline(sandbox: Sandbox) -> None:
    """Others are not held up, and the connection is closed."""
    async with make_client(sandbox, limits=Limits(call=0.7, connections=3)) as client:
        job = await client.submit(PHOTO)
        sandbox.faults.add(Fault.drip, kind="submit", times=1, seconds=0.5)
        async with anyio.create_task_group() as group:

            async def drip() -> None:
                with pytest.raises(kling_async.SubmissionUnknown, match="in time"):
                    await client.submit(PHOTO)

            group.start_soon(drip)
            assert (await job).urls
    assert sandbox.counters.bought["runblob"] == 2


@pytest.mark.parametrize("fault", [Fault.huge_body, Fault.huge_headers])
async def test_huge_answers_are_cut_off(sandbox: Sandbox, client: Client, fault: Fault) -> None:
    sandbox.faults.add(fault, kind="status", times=1, size=20_000_000)
    assert (await client.run(PHOTO)).urls


async def test_not_found_at_first_is_forgiven(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.add(Fault.not_found_at_first, polls=3)
    assert (await client.run(PHOTO)).urls
    assert sandbox.counters.refused["runblob", 404] == 3


@pytest.mark.parametrize("fault", [Fault.wrong_content, Fault.empty_file])
async def test_what_is_no_picture_is_never_saved(
    sandbox: Sandbox, client: Client, fault: Fault, tmp_path: Path
) -> None:
    sandbox.faults.add(fault)
    result = await client.run(PHOTO)
    with pytest.raises(kling_async.DownloadFailed, match="runblob/o3-photo/") as failed:
        await result.save(tmp_path)
    assert result.ref.id in str(failed.value)
    assert list(tmp_path.iterdir()) == []


@BOTH
async def test_a_short_file_is_continued(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    result = await client.run(PHOTO)
    [whole] = await result.save(tmp_path / "whole")
    sandbox.faults.add(Fault.short_file, times=2)
    [path] = await result.save(tmp_path)
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "whole"])


async def test_an_expired_url_is_renewed_once(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    result = await client.run(PHOTO)
    polls = sandbox.counters.requests["runblob", "status"]
    sandbox.faults.add(Fault.expired, times=1)
    [path] = await result.save(tmp_path)
    assert path.stat().st_size > 1000
    assert sandbox.counters.requests["runblob", "status"] == polls + 1


async def test_a_full_disk_leaves_no_file(client: Client) -> None:
    """/dev/full is a disk that is always full."""
    result = await client.run(PHOTO)
    with pytest.raises(kling_async.DownloadFailed, match="writing to"):
        await result.artifacts[0].save("/dev/full/picture.png")


async def test_a_server_that_drops_idle_connections_makes_nothing_unknown(sandbox: Sandbox) -> None:
    """200 submissions in waves, just as the server closes what idles, on default settings."""
    sandbox.faults.add(Fault.idle_drop, seconds=1.0)
    async with make_client(sandbox, limits=Limits()) as client:
        jobs: list[kling_async.Job] = []

        async def one() -> None:
            jobs.append(await client.submit(PHOTO))

        for _ in range(4):
            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(one)
            await anyio.sleep(1.0)
        assert client.statistics().providers["runblob"].lost == 0
    assert len(jobs) == sandbox.counters.bought["runblob"] == 200


async def test_closing_twice_works_and_use_after_close_is_reported(client: Client) -> None:
    await client.aclose()
    await client.aclose()
    with pytest.raises(kling_async.ConfigurationError, match="closed"):
        await client.submit(PHOTO)
    with pytest.raises(kling_async.ConfigurationError, match="closed"):
        client.attach("runblob/o3-photo/1")


@pytest.mark.parametrize(
    ("code", "retryable"), [("TIMEOUT", True), ("API_ERROR", True), ("CONTENT_POLICY_VIOLATION", False)]
)
async def test_a_failure_is_typed_and_never_repeated_by_us(
    sandbox: Sandbox, client: Client, code: str, retryable: bool
) -> None:
    """A video, whose status answer tells the reason. The provider gives the money back."""
    sandbox.plan_next("runblob", fail=code)
    with pytest.raises(kling_async.GenerationFailed) as failed:
        await client.run(runblob.O3Video("a boat"))
    assert (failed.value.code, failed.value.retryable) == (code, retryable)
    assert sandbox.counters.requests["runblob", "submit"] == sandbox.counters.bought["runblob"] == 1


async def test_a_reference_that_became_unusable_buys_nothing(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    """It was checked when the request was made, and is again when it is read, before any network."""
    picture = tmp_path / "boat.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    request = runblob.O3Photo("a boat", references=[picture])
    for content, complaint in ((b"", "is empty"), (b"not a picture", "not an image"), (None, "cannot be read")):
        picture.unlink()
        if content is not None:
            picture.write_bytes(content)
        with pytest.raises((ValueError, kling_async.ConfigurationError), match=complaint):
            await client.submit(request)
        picture.touch()
    assert sandbox.counters.requests.total() == sandbox.counters.jobs_bought == 0
