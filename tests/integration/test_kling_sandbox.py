"""The sandbox's Kling, on real sockets: as strict as the documents, and understood by the client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from kling_async import (
    Client,
    GenerationFailed,
    InvalidRequest,
    Kling,
    Limits,
    MemoryLedger,
    Polling,
    Progressive,
    RateLimited,
    Request,
    SqliteLedger,
    Status,
    SubmissionUnknown,
    kling,
)
from kling_async.providers.base import Reply
from kling_async.sandbox import Sandbox
from support.kling_requests import BARE, FULL, picture
from support.strict_kling import StrictKling

pytestmark = [pytest.mark.asyncio, pytest.mark.sandbox(speed=5000)]
IMAGE = "https://x.example/a.png"
VIDEO = "https://x.example/a.mp4"
QUICK = Polling(schedule=Progressive(0.01), status_calls_per_minute=1e9)
REQUESTS: list[Request] = [
    kling.TextToVideo("a lamp"),
    kling.ImageToVideo("a lamp", IMAGE),
    kling.OmniVideo("@image_1 glows", references=[IMAGE]),
    kling.MotionControl(IMAGE, VIDEO),
    kling.OmniImage("a lamp", count=2),
    kling.ImageGeneration("a lamp"),
    kling.MultiImageToImage([IMAGE]),
    kling.ExpandImage(IMAGE, up=0.5),
    kling.VirtualTryOn(IMAGE, IMAGE),
    kling.Avatar(IMAGE, audio_id="7"),
    kling.LipSync(3000, VIDEO, audio_id="7"),
    kling.TextToAudio("rain"),
    kling.VideoToAudio(VIDEO),
    kling.TextToSpeech("hello"),
    kling.Effects("hug", [IMAGE]),
]


def client_of(sandbox: Sandbox, **more: Any) -> Client:
    provider = Kling(sandbox.api_key("kling"), sandbox.base_url("kling"))
    provider.speed = 5000
    return Client(provider, polling=QUICK, **more)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
async def test_every_endpoint_makes_its_files(sandbox: Sandbox, request_: Request) -> None:
    async with client_of(sandbox) as client:
        result = await client.run(request_)
    assert result.urls
    assert sandbox.counters.bought["kling"] == 1


async def test_a_failure_has_its_reason(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        with pytest.raises(GenerationFailed, match="RISK_CONTROL") as stopped:
            await client.run(kling.TextToVideo("a lamp [sandbox: fail=RISK_CONTROL]"))
        assert stopped.value.retryable is False
        with pytest.raises(GenerationFailed, match="SOMETHING") as failed:
            await client.run(kling.TextToVideo("a lamp [sandbox: fail=SOMETHING]"))
        assert failed.value.retryable is None


async def test_a_task_is_followed_by_klings_own_number(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        job = await client.submit(kling.OmniImage("a lamp"))
        await job
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {sandbox.api_key('kling')}"}) as api:
            answer = (await api.get(f"{sandbox.base_url('kling')}/tasks?external_task_ids={job.ref.id}")).json()
        now = sandbox.state.clock.at(sandbox.state.clock.now()).timestamp() * 1000
        [times] = [[task[name] for name in task if name.endswith(("_at", "_time"))] for task in answer["data"]]
        assert times
        assert all(now - 86_400_000 < moment <= now for moment in times)
        attached = client.attach(f"kling/omni-image/{answer['data'][0]['id']}")
        assert (await attached).urls
        assert attached.status is Status.COMPLETED


async def test_the_sandbox_refuses_what_the_documents_do(sandbox: Sandbox) -> None:
    headers = {"authorization": f"Bearer {sandbox.api_key('kling')}"}
    async with httpx.AsyncClient(base_url=sandbox.base_url("kling"), headers=headers) as api:

        async def code(method: str, path: str, body: Any = None) -> tuple[int, str]:
            answer = await api.request(method, path, json=body)
            return answer.json()["code"], answer.json()["message"]

        no_ratio = {"contents": [{"type": "prompt", "text": "a"}]}
        assert (await code("POST", "/omni-video/kling-3.0-omni", no_ratio))[0] == 1201
        assert (await code("GET", "/tasks?task_ids=" + ",".join(map(str, range(21)))))[0] == 1201
        assert (await api.get("/tasks?task_ids=7")).json()["data"] == []
        mine = {"prompt": "a", "options": {"external_task_id": "mine"}}
        assert (await code("POST", "/text-to-video/kling-3.0", mine))[0] == 0
        again = {"prompt": "a", "external_task_id": "mine"}
        assert await code("POST", "/v1/images/omni-image", again) == (
            1201,
            "external_task_id mine already exists",
        )
        assert (await code("POST", "/text-to-video/kling-9", {"prompt": "a"}))[0] == 1203


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """The bodies that the client sends, and each of them with one field left out, unknown or of another type."""
    for request in [*BARE, *FULL]:
        for path, body in sent(request):
            yield path, body
            if len(str(body)) > 1500:  # images inline: the same fields as elsewhere, and slow
                continue
            yield path, {**body, "unheard_of": 1}
            for place in {"settings", "contents", "options"} & body.keys():
                for changed in _changed(body[place]):
                    yield path, {**body, place: changed}
            for changed in _changed(body):
                yield path, changed


def _changed(part: Any) -> Iterator[Any]:
    if isinstance(part, list):
        for number, item in enumerate(part):
            yield part[:number] + part[number + 1 :]
            yield [*part, item]
            yield from ([*part[:number], changed, *part[number + 1 :]] for changed in _changed(item))
        return
    for name in part:
        yield {key: value for key, value in part.items() if key != name}
        yield {**part, name: 77}
        if isinstance(part[name], str):
            yield {**part, name: "unheard-of"}


def sent(request: Request) -> list[tuple[str, dict[str, Any]]]:
    """The paid calls of a submission. A search for faces comes first, and is answered here."""
    flow = Kling("a-key").submit(request, "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b3c", None)
    face = {"code": 0, "data": {"session_id": "s", "face_data": [{"face_id": "0"}]}}
    found = [next(flow)]
    if found[0].url.endswith("identify-face"):
        found.append(flow.send(Reply(200, content=json.dumps(face).encode())))
    flow.close()
    return [(call.url, json.loads(call.body)) for call in found]


async def test_the_sandbox_is_as_strict_as_the_strict_server_of_the_tests(sandbox: Sandbox) -> None:
    """Both accept what the client sends, and refuse the same changes of it with the same code."""
    strict = StrictKling()
    compared: list[int] = []
    headers = {"authorization": f"Bearer {sandbox.api_key('kling')}", "content-type": "application/json"}
    place = urlsplit(sandbox.base_url("kling"))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(strict), base_url=strict.base, headers={"authorization": f"Bearer {strict.key}"}
    ) as other:
        # More than a thousand calls, one after the other: the plainest client is the cheapest.
        with closing(HTTPConnection(place.netloc, timeout=60)) as api:
            for path, body in bodies():
                strict.tasks.clear()
                sandbox.state.jobs.clear()
                api.request("POST", place.path + path, json.dumps(body), headers)
                ours, theirs = json.load(api.getresponse()), (await other.post(path, json=body)).json()
                assert ours["code"] == theirs["code"], (path, body, ours, theirs)
                compared.append(ours["code"])
    assert compared.count(0) > 100
    assert compared.count(1201) > 400


async def test_tasks_are_paid_from_resource_packs(sandbox: Sandbox) -> None:
    """A unit is 0.14 USD for videos and 0.0035 USD for pictures, and both forms of a task say what was taken."""
    sandbox.options("kling").billing = "unit"
    async with client_of(sandbox) as client:
        costs = {
            kind: (await client.run(request)).cost
            for kind, request in (("video", kling.TextToVideo("a lamp")), ("image", kling.OmniImage("a", count=3)))
        }
    assert {kind: str(cost) for kind, cost in costs.items()} == {"video": "$0.42", "image": "$0.084"}
    headers = {"authorization": f"Bearer {sandbox.api_key('kling')}"}
    async with httpx.AsyncClient(base_url=sandbox.base_url("kling"), headers=headers) as api:
        listed = (await api.get("/v1/images/omni-image?pageSize=1")).json()["data"]
        assert listed[0]["final_unit_deduction"] == "24"
        number = listed[0]["task_id"]
        [task] = (await api.get(f"/tasks?task_ids={number}")).json()["data"]
    assert (task["billing"][0]["charge_type"], task["billing"][0]["amount"]) == ("unit", "24")


LOSSES = ["accept-then-reset", "reset-before-reading", "server-error"]


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_lost_answer_buys_each_kind_of_job_once(sandbox: Sandbox, loss: str) -> None:
    """Kling knows our id, so nothing is unknown at the end. Text to speech has no id: it is bought once or unknown."""
    async with client_of(sandbox, ledger=MemoryLedger()) as client:
        for request in REQUESTS:
            name, before = type(request).__name__, sandbox.counters.bought["kling"]
            sandbox.faults.add(f"{loss}:submit:times=1" + (",accepted=yes" if loss == "server-error" else ""))
            if isinstance(request, kling.TextToSpeech):
                with pytest.raises(SubmissionUnknown):
                    await client.submit(request, key=name)
                bought = int(loss != "reset-before-reading")
            else:
                assert (await client.run(request, key=name)).urls, name
                bought = 1
            assert sandbox.counters.bought["kling"] - before == bought, name
        assert [one.key for one in await client.unresolved()] == ["TextToSpeech"]


@pytest.mark.parametrize(("status", "code"), [("server-error", 5000), ("unavailable", 5001)])
async def test_a_fault_of_klings_server_does_not_buy_speech_twice(sandbox: Sandbox, status: str, code: int) -> None:
    """Kling's table: after 5000 to 5002 a create is repeated only with an external id, and speech takes none."""
    sandbox.faults.add(f"{status}:submit:times=1,accepted=yes")
    async with client_of(sandbox) as client:
        with pytest.raises(SubmissionUnknown, match=str(code)):
            await client.submit(kling.TextToSpeech("hello"))
        assert sandbox.counters.bought["kling"] == 1
        sandbox.faults.add(f"{status}:submit:times=1,accepted=yes")
        assert (await client.run(kling.OmniImage("a lamp"))).urls
    assert sandbox.counters.bought["kling"] == 2


async def test_an_unknown_model_is_klings_to_refuse(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        with pytest.raises(InvalidRequest, match="1203"):
            await client.submit(kling.TextToVideo("a lamp", model="kling-9"))


async def test_submissions_wait_for_slots(sandbox: Sandbox) -> None:
    sandbox.options("kling").slots = 1
    async with client_of(sandbox) as client, client.map([kling.TextToVideo(f"lamp {n}") for n in range(4)]) as run:
        outcomes = [outcome async for outcome in run]
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert sandbox.counters.bought["kling"] == 4


async def test_a_submission_without_a_slot_gives_up(sandbox: Sandbox) -> None:
    sandbox.options("kling").slots = 0
    async with client_of(sandbox, limits=Limits(slot_timeout=0.01)) as client:
        with pytest.raises(RateLimited, match="all slots of the account are taken"):
            await client.submit(kling.TextToVideo("a lamp"))


async def test_a_lost_submission_is_found_by_its_id(sandbox: Sandbox, tmp_path: Any) -> None:
    """Also a long time later, by another process."""
    requests = [kling.TextToVideo(f"lamp {n}") for n in range(3)]
    async with client_of(sandbox, ledger=SqliteLedger(tmp_path / "ledger.db")) as client:
        for number, request in enumerate(requests):
            await client.submit(request, key=f"k{number}")
    async with client_of(sandbox, ledger=SqliteLedger(tmp_path / "ledger.db")) as client:
        jobs = [await client.submit(request, key=f"k{number}") for number, request in enumerate(requests)]
        assert all([(await job).urls for job in jobs])
        assert await client.unresolved() == []
    assert sandbox.counters.bought["kling"] == 3


async def test_elements_and_voices_are_made_named_and_deleted(sandbox: Sandbox) -> None:
    """What is made is an input of the next request, and the strictness of video characters holds for it."""
    async with client_of(sandbox) as client:
        account = kling.KlingAccount.of(client)
        new = kling.NewElement(name="cat", description="a grey cat", images=[picture(), IMAGE], tags=("o_102",))
        person = kling.NewElement(name="anna", description="a woman", video_url=VIDEO, voice_id="7")
        tasks = [await account.elements.create(one) for one in (new, person)]
        voice_task = await account.voices.create(kling.NewVoice(name="anna", url="https://x.example/anna.mp3"))
        assert account.elements.made(tasks[0]) == []
        sandbox.state.clock.advance(600)
        [cat], [anna] = [account.elements.made(await account.elements.get(task["task_id"])) for task in tasks]
        [voice] = account.voices.made(await account.voices.get(voice_task["task_id"]))
        assert (cat.name, cat.description, cat.video_character) == ("cat", "a grey cat", False)
        assert (anna.video_character, voice.name, bool(voice.url)) == (True, "anna", True)
        elements = [cat.named("cat"), anna.named("anna")]
        assert (await client.run(kling.OmniVideo("@anna strokes @cat", elements=elements))).urls
        speech = kling.ImageToVideo(
            "@anna speaks",
            IMAGE,
            model="kling-2.6",
            resolution="1080p",
            audio="native",
            voices=[voice.named("anna")],
        )
        assert (await client.run(speech)).urls
        hidden = [kling.Element(id=anna.id, name=f"anna{n}") for n in range(4)]  # not said to be video characters
        with pytest.raises(InvalidRequest, match="video-character"):
            await client.submit(kling.OmniVideo("four of them", elements=hidden))
        assert len(await account.elements.list()) == 2
        await account.elements.delete(cat)
        await account.voices.delete(voice.id)
        [left] = await account.elements.list()
        assert account.elements.made(left) == [anna]
        assert await account.voices.list() == []


async def test_the_account_has_elements_voices_and_money(sandbox: Sandbox) -> None:
    now = datetime.now(UTC)
    async with client_of(sandbox) as client:
        account = kling.KlingAccount.of(client)
        assert await account.elements.list() == await account.voices.list(presets=True) == []
        await account.voices.delete({"voice_id": "7"})
        assert (await account.balance())["currency"] == "USD"
        assert "code" in await account.costs(now - timedelta(days=1), now)
        with pytest.raises(AttributeError, match="no attribute 'runblob'"):
            _ = vars(type(client))["__getattr__"](client, "runblob")
