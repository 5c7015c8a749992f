"""What a ledger makes of submissions: one purchase a key, nothing forgotten. In virtual time, on asyncio and trio."""

from __future__ import annotations

import dataclasses
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx
import pytest

import kling_async
from kling_async import (
    Artifact,
    Client,
    ConfigurationError,
    Event,
    GenerationTimeout,
    InsufficientCredits,
    Job,
    JobRef,
    KeyConflict,
    Learned,
    LedgerFailed,
    Limits,
    MemoryLedger,
    Polling,
    RunBlob,
    Status,
    Submission,
    SubmissionState,
    SubmissionUnknown,
)
from kling_async.providers._base.endpoint import Features
from kling_async.providers._base.provider import Accepted
from kling_async.providers.base import Call, Effect, Flow
from kling_async.providers.runblob import O3Video
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

VIDEO = O3Video("a paper boat in the rain")
OTHER = O3Video("a fox in the snow")
PREVIEW = Artifact("image", "https://cdn.runblob.test/preview")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(100))


@pytest.fixture(autouse=True)
def one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock goes with the loop's, so that a second client lives later than the first."""
    began = time.time()
    origin: list[float] = []

    def now() -> float:
        try:
            current = anyio.current_time()
        except anyio.NoEventLoopError:
            return began
        origin.append(current)
        return began + current - origin[0]

    monkeypatch.setattr(time, "time", now)


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


MADE: list[Client] = []


@pytest.fixture(autouse=True)
async def closed_at_last() -> AsyncIterator[None]:
    """Clients that a test leaves as a crash would are closed after it."""
    yield
    while MADE:
        await MADE.pop().aclose()


def make(server: FakeRunBlob, ledger: MemoryLedger | None, provider: RunBlob | None = None, **settings: Any) -> Client:
    """A client. What a crash leaves is had by making another one on the same ledger without closing this one."""
    settings.setdefault("polling", Polling(schedule="documented"))
    client = Client(provider or RunBlob(KEY), http=server, ledger=ledger, **settings)
    MADE.append(client)
    return client


async def state(ledger: MemoryLedger, key: str) -> SubmissionState:
    found = await ledger.find(key=key)
    assert found is not None
    return found.state


class Losing:
    """Accepts the next submissions and loses the answers."""

    def __init__(self, server: FakeRunBlob, times: int = 1, *, accepted: bool = True) -> None:
        self.server, self.times, self.accepted = server, times, accepted
        server.intercept = self

    async def __call__(self, request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/generate") or self.times == 0:
            return None
        self.times -= 1
        if self.accepted:
            self.server.accept("o3-video", json.loads(await request.aread()))
        raise httpx.ReadError("connection reset")


# One key, one purchase


async def test_a_key_submitted_twice_is_paid_once_and_is_one_job(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    client = make(server, ledger)
    first = await client.submit(VIDEO, key="row-17")
    assert await client.submit(VIDEO, key="row-17") == first
    result = await first
    again = await client.submit(VIDEO, key="row-17")
    assert (await again).urls == result.urls
    assert [event.source for event in again.events] == ["ledger"] * 3
    assert [event.seq for event in again.events] == [0, 1, 2]
    assert (server.bought, server.requests["submit"]) == (1, 1)


async def test_a_key_submitted_by_many_tasks_at_once_is_paid_once(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    client = make(server, ledger)
    jobs: list[Job] = []

    async def submit() -> None:
        jobs.append(await client.submit(VIDEO, key="row-17"))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(submit)
    assert len(jobs) == 20
    assert len(set(jobs)) == 1
    assert (server.bought, server.requests["submit"]) == (1, 1)


async def test_a_key_submitted_again_after_a_restart_is_paid_once(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    first = await make(server, ledger).submit(VIDEO, key="row-17")
    await anyio.sleep(30)
    second = await make(server, ledger).submit(VIDEO, key="row-17")
    assert second.ref == first.ref
    assert second.request == VIDEO
    assert (await second).urls
    assert (server.bought, server.requests["submit"]) == (1, 1)


async def test_each_submission_without_a_key_is_paid(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    client = make(server, ledger)
    assert await client.submit(VIDEO) != await client.submit(VIDEO)
    assert server.bought == 2
    assert len(await ledger.submissions()) == 2


async def test_without_a_ledger_a_key_is_only_a_name(server: FakeRunBlob) -> None:
    client = make(server, None)
    assert await client.submit(VIDEO, key="a") != await client.submit(VIDEO, key="a")
    assert server.bought == 2
    with pytest.raises(ConfigurationError, match="keeps no ledger"):
        await client.resume()


async def test_an_empty_key_is_refused(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    with pytest.raises(ConfigurationError, match="key of a submission is empty"):
        await make(server, ledger).submit(VIDEO, key="")
    assert server.requests["submit"] == 0


async def test_a_key_with_another_request_is_a_conflict(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    """Row 19: while the first is in flight, while its job runs, and after a restart."""
    client = make(server, ledger)
    conflicts: list[KeyConflict] = []

    async def other() -> None:
        try:
            await client.submit(OTHER, key="row-17")
        except KeyConflict as error:
            conflicts.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(client.submit, VIDEO)
        group.start_soon(lambda: client.submit(VIDEO, key="row-17"))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(other)
    await other()
    with pytest.raises(
        KeyConflict, match=r"'row-17' was used for another runblob/o3-video request .* nothing was sent"
    ):
        await make(server, ledger).submit(OTHER, key="row-17")
    assert len(conflicts) == 2
    assert server.requests["submit"] == 2


async def test_the_same_image_is_the_same_request_however_it_is_given(
    server: FakeRunBlob, ledger: MemoryLedger
) -> None:
    """A file as well: see `unit/files/test_uploads.py`. It is read in threads, which virtual time does not allow."""
    client = make(server, ledger)
    await client.submit(O3Video("a boat", references=(f"data:image/png;base64,{b64encode(PNG).decode()}",)), key="a")
    await client.submit(O3Video("a boat", references=(PNG,)), key="a")
    await client.submit(O3Video("a boat", references=(PNG,), callback_url="https://app.test/hook"), key="a")
    assert server.bought == 1
    with pytest.raises(KeyConflict):
        await client.submit(O3Video("a boat", references=(PNG + b"!",)), key="a")


# How a submission can end


async def test_each_step_is_durable_before_the_next(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    """Intent before the POST, id before the first poll, event before it is published, end before it is returned."""
    seen: list[tuple[str, str]] = []

    async def poll(request: httpx.Request) -> None:
        found = await ledger.find(key="a")
        assert found is not None
        seen.append((request.url.path.rpartition("/")[2][:8], f"{found.state} {found.ref is not None}"))

    server.intercept = poll
    client = make(server, ledger)
    job = await client.submit(VIDEO, key="a")
    async for event in job:
        assert (await ledger.events(job.ref))[-1] == event
    assert seen[0] == ("generate", "sending False")
    assert set(seen[1:]) == {(job.ref.id[:8], "accepted True")}
    assert len(seen) > 2
    await job
    found = await ledger.find(key="a")
    assert found is not None
    assert (found.status, found.unfinished, str(found.cost)) == (Status.COMPLETED, False, "$0.15")


async def test_the_first_event_is_stored_with_the_outcome(server: FakeRunBlob) -> None:
    appended: list[Event] = []

    class Noting(MemoryLedger):
        async def append_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
            appended.extend(events)
            return await super().append_events(ref, events)

    ledger = Noting()
    job = await make(server, ledger).submit(VIDEO, key="a")
    assert appended == []
    assert [each.source for each in job.events] == ["submit"]
    assert await ledger.events(job.ref) == list(job.events)
    await job
    assert [each.seq for each in appended] == list(range(1, len(job.events)))
    assert await ledger.events(job.ref) == list(job.events)


async def test_a_ledger_of_the_user_need_not_store_the_first_event_with_the_outcome(server: FakeRunBlob) -> None:
    class Plain(MemoryLedger):
        async def record_outcome(self, submission: Submission) -> None:
            await super().record_outcome(dataclasses.replace(submission, latest=None))

    ledger = Plain()
    job = await make(server, ledger).submit(VIDEO, key="a")
    assert [each.source for each in job.events] == ["submit"]
    assert await ledger.events(job.ref) == list(job.events)


async def test_a_refused_submission_sets_its_key_free(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    client = make(server, ledger)

    async def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(402, json={"detail": "INSUFFICIENT_CREDITS"})

    server.intercept = refuse
    with pytest.raises(InsufficientCredits):
        await client.submit(VIDEO, key="a")
    assert await state(ledger, "a") is SubmissionState.REFUSED
    assert await client.unresolved() == []
    server.intercept = None
    await client.submit(OTHER, key="a")
    assert await state(ledger, "a") is SubmissionState.ACCEPTED
    assert server.bought == 1


async def test_a_submission_that_was_not_sent_sets_its_key_free(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    client = make(server, ledger)

    async def unreachable(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    server.intercept = unreachable
    with pytest.raises(kling_async.TransportFailed):
        await client.submit(VIDEO, key="a")
    assert await state(ledger, "a") is SubmissionState.NOT_SUBMITTED
    server.intercept = None
    await client.submit(VIDEO, key="a")
    assert server.bought == 1


async def test_a_lost_answer_is_listed_and_not_sent_again(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    Losing(server)
    client = make(server, ledger)
    with pytest.raises(SubmissionUnknown, match=r"client\.resolve\('a', ref\)") as lost:
        await client.submit(VIDEO, key="a")
    assert lost.value.key == "a"
    for again in (client, make(server, ledger)):
        with pytest.raises(SubmissionUnknown):
            await again.submit(VIDEO, key="a")
        assert await again.resume() == []
        [listed] = await again.unresolved()
        assert (listed.key, listed.state, listed.endpoint) == ("a", SubmissionState.UNKNOWN, "runblob/o3-video")
        assert listed.request["prompt"] == "a paper boat in the rain"
        assert "connection reset" in (listed.reason or "")
        assert [remedy.action for remedy in listed.remedies] == ["check_account", "resolve", "resubmit", "forget"]
    assert (server.bought, server.requests["submit"]) == (1, 1)


async def test_an_error_of_ours_after_sending_is_unknown(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    """A provider's flow that fails on an answer must not make the ledger say that nothing was bought."""

    class Buggy(RunBlob):
        def submit(self, request: Any, key: str, callback_url: str | None) -> Flow[Accepted]:
            yield from super().submit(request, key, callback_url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await make(server, ledger, Buggy(KEY)).submit(VIDEO, key="a")
    assert await state(ledger, "a") is SubmissionState.UNKNOWN


# The ways out


async def test_the_user_finds_the_job_and_resolves_the_submission(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    Losing(server)
    client = make(server, ledger)
    with pytest.raises(SubmissionUnknown):
        await client.submit(VIDEO, key="a")
    [identity] = server.generations
    ref = f"runblob/o3-video/{identity}"
    with pytest.raises(ConfigurationError, match="is of runblob/o3-video"):
        await client.resolve("a", f"runblob/o3-photo/{identity}")
    with pytest.raises(ConfigurationError, match="no submission 'b'"):
        await client.resolve("b", ref)
    job = await client.resolve("a", ref)
    assert await client.resolve("a", ref) == job
    assert (await job).urls == [f"https://cdn.runblob.test/{identity}"]
    assert await client.unresolved() == []
    with pytest.raises(KeyConflict, match="is known to be job"):
        await client.resolve("a", "runblob/o3-video/another")
    await client.submit(OTHER, key="b")
    with pytest.raises(KeyConflict, match="belongs to the submission 'a'"):
        await client.resolve("b", ref)


async def test_a_forgotten_submission_sets_its_key_free(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    Losing(server, accepted=False)
    client = make(server, ledger)
    with pytest.raises(SubmissionUnknown):
        await client.submit(VIDEO, key="a")
    await client.forget("a")
    await client.forget("a")
    assert await client.unresolved() == []
    with pytest.raises(ConfigurationError, match="bought nothing"):
        await client.resolve("a", "runblob/o3-video/1")
    job = await client.submit(OTHER, key="a")
    await job
    await ledger.record_file(job.ref, 0, Path("/saved.mp4"))
    with pytest.raises(ConfigurationError, match="has a result that was saved"):
        await client.forget("a")
    assert server.bought == 1


async def test_a_running_job_that_is_forgotten_is_not_resumed(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    job = await make(server, ledger).submit(VIDEO, key="a")
    client = make(server, ledger)
    await client.forget("a")
    assert await client.resume() == []
    found = await ledger.find(key="a")
    assert found is not None
    assert (found.released, found.ref, found.unfinished) == ("forgotten", job.ref, False)


async def test_a_resubmission_pays_again_on_request(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    Losing(server)
    client = make(server, ledger)
    with pytest.raises(SubmissionUnknown):
        await client.submit(VIDEO, key="a")
    job = await make(server, ledger).resubmit("a")
    assert job.request == VIDEO
    assert server.bought == 2
    with pytest.raises(ConfigurationError, match="still runs"):
        await client.resubmit("a")
    assert server.bought == 2


async def test_a_failed_job_is_submitted_again(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    server.failure = "TIMEOUT"
    client = make(server, ledger)
    first = await client.submit(VIDEO, key="a")
    assert await first.wait() is Status.FAILED
    assert (await client.submit(VIDEO, key="a")).ref == first.ref
    server.failure = None
    second = await client.resubmit("a")
    assert second.ref != first.ref
    assert await second.wait() is Status.COMPLETED
    assert server.bought == 2


async def test_resubmitting_needs_the_request_if_the_ledger_lacks_a_part(
    server: FakeRunBlob, ledger: MemoryLedger
) -> None:
    requests = {
        "image": O3Video("a boat", references=(PNG,)),
        "callback": O3Video("a boat", callback_url="https://app.test/hook?token=s3cret"),
    }
    Losing(server, times=2)
    client = make(server, ledger)
    for key, request in requests.items():
        with pytest.raises(SubmissionUnknown, match=rf"resubmit\('{key}', request\)"):
            await client.submit(request, key=key)
        with pytest.raises(ConfigurationError, match="has not kept all of the request"):
            await client.resubmit(key)
        with pytest.raises(KeyConflict):
            await client.resubmit(key, OTHER)
    for key, request in requests.items():
        await client.resubmit(key, request)
    assert server.bought == 4


async def test_a_ledger_that_keeps_images_submits_them_again(server: FakeRunBlob) -> None:
    ledger = MemoryLedger(keep_images=True)
    Losing(server)
    with pytest.raises(SubmissionUnknown):
        await make(server, ledger).submit(O3Video("a boat", references=(PNG,)), key="a")
    await make(server, ledger).resubmit("a")
    first, second = (generation.body for generation in server.generations.values())
    assert second["images_base64"] == first["images_base64"]


# Restarts


async def test_running_jobs_go_on_after_a_restart(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    """Their events are replayed, and the schedule goes on where it was instead of starting over."""
    server.duration = 98
    first = await make(server, ledger).submit(VIDEO, key="a")
    await first.wait(timeout=30)
    [generation] = server.generations.values()
    assert [round(at) for at in generation.polls] == [5, 10, 20]
    await anyio.sleep(25)
    client = make(server, ledger)
    [job] = await client.resume()
    assert (job.ref, job.request, job.status) == (first.ref, VIDEO, Status.PROCESSING)
    assert await client.resume() == [job]
    events = [event async for event in job]
    assert [(event.seq, event.source) for event in events] == [(0, "ledger"), (1, "ledger"), (2, "poll")]
    assert round(events[-1].elapsed) == 100
    assert [round(at) for at in generation.polls] == [5, 10, 20, 55, 70, 85, 100]
    assert await client.resume() == []
    assert [event.seq for event in await ledger.events(job.ref)] == [0, 1, 2]


async def test_a_deadline_counts_from_the_submission_over_a_restart(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    server.duration = 10_000
    await make(server, ledger).submit(VIDEO)
    await anyio.sleep(1000)
    [job] = await make(server, ledger).resume()
    with pytest.raises(GenerationTimeout, match="after 900 s"):
        await job
    assert server.requests["poll"] == 1


async def test_a_resumed_job_that_ended_meanwhile_needs_one_poll(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    await make(server, ledger).submit(VIDEO)
    await anyio.sleep(5000)
    [job] = await make(server, ledger).resume()
    assert (await job).urls
    assert server.requests["poll"] == 1


async def test_a_resumed_job_that_nobody_awaits_is_followed(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    await make(server, ledger).submit(VIDEO, key="a")
    client = make(server, ledger)
    await client.resume()
    with anyio.move_on_after(200):
        await client.follow()
    found = await ledger.find(key="a")
    assert found is not None
    assert found.status is Status.COMPLETED


async def test_what_was_being_sent_at_the_crash_is_unresolved(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    server.latency = math_long = 1000.0
    async with anyio.create_task_group() as group:
        group.start_soon(
            lambda: make(server, ledger, limits=Limits(call=2 * math_long, cancel_grace=0)).submit(VIDEO, key="a")
        )
        await anyio.wait_all_tasks_blocked()
        client = make(server, ledger)
        [listed] = await client.unresolved()
        assert listed.key == "a"
        with pytest.raises(SubmissionUnknown):
            await client.submit(VIDEO, key="a")
        group.cancel_scope.cancel()
    assert server.requests["submit"] == 1


async def test_jobs_of_a_provider_that_is_not_configured_are_reported(
    server: FakeRunBlob, ledger: MemoryLedger, caplog: pytest.LogCaptureFixture
) -> None:
    await make(server, ledger).submit(VIDEO, key="a")
    client = Client(kling_async.InferenceSh("key"), ledger=ledger)
    assert await client.resume() == []
    assert "submission 'a' is not resumed: this client has no provider runblob. Next step: set RUNBLOB" in caplog.text
    [listed] = await client.unresolved()
    assert (listed.key, listed.state) == ("a", SubmissionState.ACCEPTED)
    assert len(await make(server, ledger).resume()) == 1


async def test_what_was_learned_of_durations_is_taken_up_again(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    class Kept(MemoryLedger):
        async def aclose(self) -> None:
            """Stay open for the next client, as a file would."""

    kept = Kept()
    async with make(server, kept, polling=Polling(schedule=Learned())) as client:
        await client.run(VIDEO)
    schedule = Learned()
    async with make(server, kept, polling=Polling(schedule=schedule)) as client:
        assert not schedule.state()["ends"]
        await client.submit(VIDEO)
        assert len(schedule.state()["ends"]) == 1


async def test_saved_files_are_written_down(server: FakeRunBlob, ledger: MemoryLedger, tmp_path: Path) -> None:
    client = make(server, ledger)
    job = await client.submit(VIDEO, key="a")
    saver = job._saver()
    inline = kling_async.Artifact("image", data=PNG, index=0)
    path = await saver.save(inline, tmp_path, directory=True, progress=None)
    found = await ledger.find(key="a")
    assert found is not None
    assert found.files == (path,)


# Providers that can tell


class _Server(FakeRunBlob):
    """A RunBlob that takes the client's id, and lists its jobs."""

    def accept(self, kind: str, body: dict[str, object]) -> httpx.Response:
        identity = body.pop("id", None)
        if identity in self.generations:
            return httpx.Response(409, json={"detail": "CONFLICT"})
        answer = super().accept(kind, body)
        if isinstance(identity, str):
            self.generations[identity] = self.generations.pop(answer.json()["generation_id"])
            answer = httpx.Response(201, json={**answer.json(), "generation_id": identity})
        return answer


class OwnId(RunBlob):
    """Sends the purchase's id, so that a repetition is recognised."""

    features: ClassVar[Features] = dataclasses.replace(RunBlob.features, client_chosen_id=True)

    def submit(self, request: Any, key: str, callback_url: str | None) -> Flow[Accepted]:
        payload = {"prompt": request.prompt, "id": key}
        reply = yield Call.post("/v1/kling/o3-video/generate", payload, Effect.PAID, repeatable=True)
        if reply.status != 409:
            self.errors.expect_json(reply)
        return Accepted(key, kling_async._models.StatusReport(Status.PENDING))


class Endless(RunBlob):
    """Reports at once a file that stays for longer than there is time."""

    def submit(self, request: Any, key: str, callback_url: str | None) -> Flow[Accepted]:
        accepted = yield from super().submit(request, key, callback_url)
        report = dataclasses.replace(accepted.report, artifacts=(PREVIEW,), lifetime=1e300)
        return dataclasses.replace(accepted, report=report)


async def test_a_job_whose_first_report_cannot_be_processed_is_recorded(
    server: FakeRunBlob, ledger: MemoryLedger
) -> None:
    job = await make(server, ledger, Endless(KEY)).submit(VIDEO, key="a")
    found = await ledger.find(key="a")
    assert found is not None
    assert (found.state, found.ref) == (SubmissionState.ACCEPTED, job.ref)
    assert (await job).urls
    assert server.bought == 1


class Listing(RunBlob):
    """Lists what it sold."""

    features: ClassVar[Features] = dataclasses.replace(RunBlob.features, lists_jobs=True)
    sold: ClassVar[list[str]] = []

    def search(self, request: Any, callback_url: str | None, since: Any) -> Flow[Sequence[Accepted]]:
        yield Call.get("/v1/kling/o3-video/generations/list")
        return [Accepted(identity, kling_async._models.StatusReport(Status.PENDING)) for identity in self.sold]


async def test_where_our_id_is_known_a_lost_answer_is_sent_again_at_once(ledger: MemoryLedger) -> None:
    server = _Server()
    Losing(server)
    job = await make(server, ledger, OwnId(KEY)).submit(VIDEO, key="a")
    assert (await job).urls
    assert (server.bought, server.requests["submit"]) == (1, 2)


@pytest.mark.parametrize("accepted", [True, False])
async def test_resume_recovers_a_lost_submission_where_the_provider_recognises_our_id(
    ledger: MemoryLedger, accepted: bool
) -> None:
    server = _Server()
    Losing(server, times=8, accepted=accepted)
    with pytest.raises(SubmissionUnknown, match=r"client\.resume\(\) to send the same id again"):
        await make(server, ledger, OwnId(KEY)).submit(VIDEO, key="a")
    [job] = await make(server, ledger, OwnId(KEY)).resume()
    found = await ledger.find(key="a")
    assert found is not None
    assert job.ref.id == found.attempt_id
    assert (await job).urls
    assert server.bought == 1


async def test_after_a_lost_answer_a_refusal_or_an_unreachable_provider_leaves_it_unknown(ledger: MemoryLedger) -> None:
    """The first attempt may have bought. What the repetition met does not undo that."""
    for key, ending in {
        "a": httpx.ConnectError("down"),
        "b": httpx.Response(402, json={"detail": "INSUFFICIENT_CREDITS"}),
    }.items():
        server = _Server()
        losing = Losing(server)

        async def then(request: httpx.Request, losing: Losing = losing, ending: Any = ending) -> httpx.Response | None:
            if losing.times:
                return await losing(request)
            if isinstance(ending, httpx.Response):
                return ending
            raise ending

        server.intercept = then
        client = make(server, ledger, OwnId(KEY))
        with pytest.raises(SubmissionUnknown):
            await client.submit(VIDEO, key=key)
        assert await state(ledger, key) is SubmissionState.UNKNOWN
        server.intercept = None
        assert (await client.submit(VIDEO, key=key)).status is Status.PENDING
        assert server.bought == 1


async def test_an_id_is_not_sent_again_after_an_hour_unless_asked(ledger: MemoryLedger) -> None:
    """How long a provider recognises it is not documented. A repetition that is not recognised would buy twice."""
    server = _Server()
    Losing(server, times=8)
    with pytest.raises(SubmissionUnknown):
        await make(server, ledger, OwnId(KEY)).submit(VIDEO, key="a")
    await anyio.sleep(3601)
    sent = server.requests["submit"]
    client = make(server, ledger, OwnId(KEY))
    assert await client.resume() == []
    with pytest.raises(SubmissionUnknown):
        await client.submit(VIDEO, key="a")
    assert server.requests["submit"] == sent
    [listed] = await client.unresolved()
    assert str(listed.remedies[0]) == "client.resubmit('a') to send the same id again"
    await client.resubmit("a")
    assert server.bought == 1


async def test_a_lost_submission_is_found_in_the_providers_list(ledger: MemoryLedger) -> None:
    server = _Server()
    Losing(server, times=2)
    client = make(server, ledger, Listing(KEY))
    for key in ("a", "b"):
        with pytest.raises(SubmissionUnknown, match="to search the provider's list"):
            await client.submit(VIDEO, key=key)

    async def listed(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(200, json={}) if request.url.path.endswith("/list") else None

    server.intercept = listed
    first, second = server.generations
    Listing.sold[:] = [first, second]
    assert await client.resume() == []  # either could be either's
    Listing.sold[:] = [first]
    [job] = await client.resume()
    assert job.ref.id == first
    Listing.sold[:] = [first, second]
    [_, other] = await make(server, ledger, Listing(KEY)).resume()  # what belongs to one is not the other's
    assert other.ref.id == second
    assert await client.unresolved() == []
    assert server.bought == 2


# Cancellation and full disks


@pytest.mark.parametrize("grace", [0.0, 5.0])
async def test_cancelled_at_any_moment_the_ledger_never_denies_a_paid_job(server: FakeRunBlob, grace: float) -> None:
    """Row 15: for each moment of a submission, what was bought is accepted or unknown, and what is free was not."""
    states = set()
    for moment in range(60):
        ledger = MemoryLedger()
        before = server.bought
        client = make(server, ledger, limits=Limits(cancel_grace=grace))
        scope = anyio.CancelScope()

        async def submit(client: Client = client, scope: anyio.CancelScope = scope) -> None:
            with scope:
                await client.submit(VIDEO, key="a")

        async with anyio.create_task_group() as group:
            group.start_soon(submit)
            for _ in range(moment):
                await anyio.lowlevel.checkpoint()
            if moment > 40:
                await anyio.sleep(0.01 * (moment - 40))
            scope.cancel()
        found = await ledger.find(key="a")
        bought = server.bought - before
        assert bought <= 1
        if found is None or found.state.key_reusable:
            assert bought == 0
        else:
            assert found.state is not SubmissionState.SENDING
        states.add(found.state if found else None)
        await client.aclose()
    assert SubmissionState.ACCEPTED in states
    assert (SubmissionState.UNKNOWN in states) == (grace == 0)


async def test_between_attempts_a_submission_is_cancelled_at_once(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    """Nothing is on its way then, so nothing is lost by leaving. Only while something is does leaving take its time."""

    async def refuse(request: httpx.Request) -> httpx.Response | None:
        raise httpx.ConnectError("refused", request=request)

    server.intercept = refuse
    client = make(server, ledger, limits=Limits(cancel_grace=1000, throttle_timeout=500, max_attempts=100))
    started = anyio.current_time()
    with anyio.move_on_after(20.5) as scope:
        await client.submit(VIDEO, key="a")
    assert scope.cancelled_caught
    assert anyio.current_time() - started == pytest.approx(20.5, abs=0.1)
    submission = await ledger.find(key="a")
    assert submission is not None
    assert submission.state is SubmissionState.NOT_SUBMITTED
    assert server.bought == 0


class FullDisk(MemoryLedger):
    """A ledger that cannot be written while `full`."""

    full = False

    async def claim(self, submission: Submission) -> Submission:
        self._check()
        return await super().claim(submission)

    async def record_outcome(self, submission: Submission) -> None:
        self._check()
        await super().record_outcome(submission)

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        self._check()
        return await super().append_events(ref, events)

    def _check(self) -> None:
        if self.full:
            raise LedgerFailed("the ledger cannot be used: database or disk is full")


async def test_a_full_disk_stops_submitting_and_running_jobs_are_followed(
    server: FakeRunBlob, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 18."""
    ledger = FullDisk()
    client = make(server, ledger)
    job = await client.submit(VIDEO, key="a")
    ledger.full = True
    with pytest.raises(LedgerFailed, match="disk is full"):
        await client.submit(VIDEO, key="b")
    assert server.requests["submit"] == 1
    assert (await job).urls
    assert [event.seq for event in job.events] == [0, 1, 2]
    assert [event.seq for event in await ledger.events(job.ref)] == [0]
    assert caplog.text.count("Jobs that run are followed") == 1
    with pytest.raises(LedgerFailed):
        await client.submit(VIDEO, key="b")
    ledger.full = False
    await client.submit(VIDEO, key="b")
    assert [event.seq for event in await ledger.events(job.ref)] == [0, 1, 2]
    assert server.bought == 2


async def test_a_disk_that_fills_up_during_the_paid_call_loses_no_job(server: FakeRunBlob) -> None:
    """The job is handed out. The ledger still says that it was being sent, and gets the rest when there is space."""
    ledger = FullDisk()

    async def fill(request: httpx.Request) -> None:
        ledger.full = True

    server.intercept = fill
    client = make(server, ledger)
    job = await client.submit(VIDEO, key="a")
    assert await state(ledger, "a") is SubmissionState.SENDING
    [listed] = await make(server, ledger).unresolved()
    assert listed.key == "a"
    server.intercept = None
    ledger.full = False
    await job
    await client.submit(VIDEO, key="b")
    assert await state(ledger, "a") is SubmissionState.ACCEPTED
    assert server.bought == 2


async def test_what_could_not_be_written_is_written_at_the_end(server: FakeRunBlob) -> None:
    class Kept(FullDisk):
        async def aclose(self) -> None:
            """Stay open for a poll."""

    ledger = Kept()
    client = make(server, ledger)
    job = await client.submit(VIDEO, key="a")
    ledger.full = True
    await job
    ledger.full = False
    await client.aclose()
    await client.aclose()
    assert [event.seq for event in await ledger.events(job.ref)] == [0, 1, 2]
