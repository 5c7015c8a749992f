"""The studio's server: who gets in, what the form is told, and what becomes of a purchase."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from kling_async import Client, ConfigurationError, MemoryLedger, runblob
from kling_async.providers import ALL_PROVIDERS
from kling_async.sandbox import Sandbox
from kling_async.studio import app
from kling_async.studio.code import as_code

pytestmark = pytest.mark.asyncio

SITE = "http://127.0.0.1:8766"
PATIENCE = 120.0
VIDEO = {"endpoint": "runblob/o3-video", "fields": {"prompt": "a boat"}}


@asynccontextmanager
async def studio(sandbox: Sandbox, directory: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The studio's own page, as a browser calls it."""
    async with Client(sandbox.providers(), ledger=MemoryLedger()) as client:
        made = app(client, directory=directory, **settings)
        transport = httpx.ASGITransport(made)
        page = httpx.AsyncClient(transport=transport, base_url=SITE, headers={"origin": SITE})
        async with made.router.lifespan_context(made), page:
            yield page


async def until(
    page: httpx.AsyncClient, key: str, *, files: int = 0, message: bool = False, ended: bool = False
) -> dict[str, Any]:
    """The card, once it has so many files, a message, or an end."""
    with anyio.fail_after(PATIENCE):
        while True:
            found = {card["key"]: card for card in (await page.get("/api/jobs")).json()}
            card: dict[str, Any] = found[key]
            if len(card["files"]) >= files and (card["message"] or not message) and (card["ended"] or not ended):
                return card
            await anyio.sleep(0.05)


async def test_the_token_becomes_a_cookie_that_no_script_reads(sandbox: Sandbox, tmp_path: Path) -> None:
    async with studio(sandbox, tmp_path, token="t-secret") as page:
        assert (await page.get("/")).status_code == 401
        assert (await page.get("/?token=wrong")).status_code == 401
        entered = await page.get("/?token=t-secret")
        assert entered.status_code == 303
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert (await page.get(entered.headers["location"])).status_code == 200
        assert (await page.get("/api/jobs")).json() == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
    ],
    ids=["another name for this machine", "another site", "a sandboxed frame", "another program of this machine"],
)
async def test_no_other_site_buys(sandbox: Sandbox, tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with studio(sandbox, tmp_path) as page:
        answer = await page.post("/api/jobs", json={**VIDEO, "key": "k"}, headers=headers)
        assert answer.status_code == status
    assert sandbox.counters.jobs_bought == 0


async def test_nothing_but_its_own_files_runs_on_the_page(sandbox: Sandbox, tmp_path: Path) -> None:
    async with studio(sandbox, tmp_path) as page:
        answer = await page.get("/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "<script>" not in answer.text
        assert "style=" not in answer.text


async def test_no_key_reaches_the_page(sandbox: Sandbox, tmp_path: Path) -> None:
    async with studio(sandbox, tmp_path) as page:
        await page.post("/api/jobs", json={**VIDEO, "key": "k"})
        seen = [
            (await page.get(path)).text for path in ("/", "/api/start", "/api/jobs", "/api/money", "/api/request?key=k")
        ]
    assert not [provider for provider in sandbox.providers() if sandbox.api_key(provider.name) in "".join(seen)]


async def test_every_endpoint_has_a_form(sandbox: Sandbox, tmp_path: Path) -> None:
    async with studio(sandbox, tmp_path) as page:
        reported = [
            (await page.get("/api/form", params={"endpoint": one["endpoint"]})).json()
            for one in (await page.get("/api/start")).json()["endpoints"]
        ]
        assert (await page.get("/api/form?endpoint=none/such")).status_code == 404
    names = {endpoint.name for kind in ALL_PROVIDERS for endpoint in kind.endpoints}
    assert {one["endpoint"] for one in reported} >= {"video", "image", *names}
    video = next(one for one in reported if one["endpoint"] == "runblob/o3-video")
    labels = [(choice["label"], choice.get("seconds")) for choice in video["fields"]["duration"]["choices"]]
    assert labels == [("5 seconds", [120, 180]), ("10 seconds", [180, 300]), ("15 seconds", [300, 420])]
    assert video["images"]["references"]["most"] == 5
    assert "callback_url" not in video["fields"]


async def test_a_form_is_checked_and_priced_while_one_types(sandbox: Sandbox, tmp_path: Path) -> None:
    async with studio(sandbox, tmp_path) as page:
        wrong = (await page.post("/api/check", json={**VIDEO, "fields": {"prompt": "", "duration": 7}})).json()
        assert set(wrong["problems"]) == {"prompt", "duration"}
        right = (await page.post("/api/check", json={**VIDEO, "fields": {"prompt": "a boat", "duration": 10}})).json()
        assert right["problems"] == {}
        assert right["quotes"][0]["cost"] == "about $0.30"
        assert [choice["price"]["amount"] for choice in right["choices"]["model"]] == ["0.30", "0.60"]
        offers = (await page.post("/api/check", json={"endpoint": "video", "fields": {"prompt": "a boat"}})).json()
        assert len([one for one in offers["quotes"] if one["available"]]) > 2
    assert sandbox.counters.jobs_bought == 0


async def test_a_text_is_no_path_of_this_machine(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "boat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    fields = {"prompt": "a boat", "references": [str(tmp_path / "boat.png")]}
    async with studio(sandbox, tmp_path) as page:
        answer = await page.post("/api/jobs", json={**VIDEO, "fields": fields, "key": "k"})
        assert answer.status_code == 422
        assert "references" in answer.json()["fields"]


async def test_what_is_made_is_saved_and_shown_and_bought_once(sandbox: Sandbox, tmp_path: Path) -> None:
    async with studio(sandbox, tmp_path) as page:
        first = await page.post("/api/jobs", json={**VIDEO, "key": "k"})
        again = await page.post("/api/jobs", json={**VIDEO, "key": "k"})
        assert first.status_code == again.status_code == 201
        card = await until(page, "k", files=1)
        assert card["status"] == "completed"
        [file] = card["files"]
        assert file["type"] == "video/mp4"
        part = await page.get(f"/{file['href']}", headers={"range": "bytes=0-11"})
        assert part.status_code == 206  # a player asks for parts
        assert part.content[4:8] == b"ftyp"
        saved = await page.get(f"/{file['href']}?download")
        assert "attachment" in saved.headers["content-disposition"]
        money = (await page.get("/api/money")).json()
        assert [(row["provider"], row["amount"], row["jobs"]) for row in money["today"]] == [("runblob", "$0.15", 1)]
    assert sandbox.counters.jobs_bought == 1


async def test_only_results_are_served(sandbox: Sandbox, tmp_path: Path) -> None:
    async with studio(sandbox, tmp_path) as page:
        for path in ("/files/runblob/o3-video/x/0", "/files/%2e%2e/%2e%2e/etc/passwd/0", "/static/../server.py"):
            assert (await page.get(path)).status_code == 404


async def test_a_portable_request_goes_to_the_offer_that_was_chosen(sandbox: Sandbox, tmp_path: Path) -> None:
    async with studio(sandbox, tmp_path) as page:
        form = {"endpoint": "video", "fields": {"prompt": "a boat"}, "place": "kling/text-to-video", "key": "k"}
        assert (await page.post("/api/jobs", json=form)).json()["endpoint"] == "kling/text-to-video"


async def test_a_lost_answer_has_its_remedies_as_buttons(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add("accept-then-reset:submit:times=1")
    async with studio(sandbox, tmp_path) as page:
        lost = await page.post("/api/jobs", json={**VIDEO, "key": "k"})
        assert lost.status_code >= 400
        assert "may have been bought" in lost.json()["message"]
        [card] = (await page.get("/api/jobs")).json()
        assert card["status"] == "unknown"
        assert {remedy["label"] for remedy in card["remedies"]} >= {"It is this job", "Send it again", "Forget it"}
        again = await page.post("/api/job", json={"key": "k", "action": "resubmit"})
        assert again.status_code == 200
        assert (await until(page, "k", files=1))["status"] == "completed"
        await page.post("/api/job", json={"key": "k", "action": "forget"})
        assert (await page.get("/api/jobs")).json() == []
    assert sandbox.counters.jobs_bought == 2  # as the button says


async def test_a_lost_answer_is_resolved_with_the_job_of_the_account(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add("accept-then-reset:submit:times=1")
    async with studio(sandbox, tmp_path) as page:
        await page.post("/api/jobs", json={**VIDEO, "key": "k"})
        [bought] = sandbox.state.jobs
        act = {"key": "k", "action": "resolve"}
        assert (await page.post("/api/job", json={**act, "ref": "no reference"})).status_code == 422
        answer = await page.post("/api/job", json={**act, "ref": f"runblob/o3-video/{bought}"})
        assert answer.status_code == 200
        assert (await until(page, "k", files=1))["status"] == "completed"
    assert sandbox.counters.jobs_bought == 1


async def test_a_job_is_cancelled_where_the_provider_can(sandbox: Sandbox, tmp_path: Path) -> None:
    async with studio(sandbox, tmp_path) as page:
        for endpoint, able in (("fal/image", True), ("runblob/o3-photo", False)):
            form = {"endpoint": endpoint, "fields": {"prompt": "a boat [sandbox: stuck]"}, "key": endpoint}
            card = (await page.post("/api/jobs", json=form)).json()
            assert card["cancel"] is able
        answer = await page.post("/api/job", json={"key": "fal/image", "action": "cancel"})
        assert answer.status_code == 200
        card = await until(page, "fal/image", ended=True)
        assert card["status"] == "cancelled"
        assert not card["cancel"]


async def test_a_result_whose_link_has_expired_is_named_and_can_be_saved_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults.add("expired:download")
    async with studio(sandbox, tmp_path) as page:
        await page.post("/api/jobs", json={**VIDEO, "key": "k"})
        card = await until(page, "k", message=True)
        assert card["status"] == "completed"
        assert card["missing"]
        assert card["files"] == []
        assert "does not work any more" in card["message"]
        sandbox.faults.clear()
        await page.post("/api/job", json={"key": "k", "action": "save"})
        card = await until(page, "k", files=1)
        assert not card["missing"]
        assert card["message"] == ""
    assert sandbox.counters.jobs_bought == 1


async def test_a_field_that_is_refused_is_explained_in_plain_words(sandbox: Sandbox, tmp_path: Path) -> None:
    fields = {"prompt": "x" * 2501, "duration": 7, "aspect_ratio": "5:4", "references": ["boat.png"]}
    async with studio(sandbox, tmp_path) as page:
        wrong = (await page.post("/api/check", json={**VIDEO, "fields": fields})).json()["problems"]
    assert wrong == {
        "prompt": "It has 2501 characters; at most 2500 characters are allowed.",
        "duration": "It must be 5, 10 or 15.",
        "aspect_ratio": "It must be 16:9, 9:16 or 1:1.",
        "references": "Reference 1 is 'boat.png', which is neither an http(s) URL nor a data URI.",
    }


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"no json", 400), (b'{"key": "?", "action": "forget"}', 404), (b'{"key": "k", "action": "explode"}', 422)],
    ids=["no form", "no such submission", "no such action"],
)
async def test_what_the_page_never_sends_is_refused(sandbox: Sandbox, tmp_path: Path, body: bytes, status: int) -> None:
    async with studio(sandbox, tmp_path) as page:
        await page.post("/api/jobs", json={**VIDEO, "key": "k"})
        answer = await page.post("/api/job", content=body)
        assert answer.status_code == status
        assert answer.json()["message"]


async def test_mounted_it_is_the_same_page_below_another_path(sandbox: Sandbox, tmp_path: Path) -> None:
    async with Client(sandbox.providers(), ledger=MemoryLedger()) as client:
        site = Starlette(routes=[Mount("/studio", app(client, directory=tmp_path, token="t"))])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url=SITE) as page:
            entered = await page.get("/studio/?token=t", follow_redirects=True)
            assert entered.status_code == 200
            assert str(entered.url) == f"{SITE}/studio/"
            assert (await page.get("/studio/static/app.js")).status_code == 200


async def test_it_needs_a_ledger(sandbox: Sandbox) -> None:
    async with Client(sandbox.providers()) as client:
        with pytest.raises(ConfigurationError, match="ledger"):
            app(client)


async def test_as_code_it_is_the_same_request() -> None:
    fields = {"prompt": "it's <b>a</b> boat", "duration": 10, "references": ["data:image/png;base64,AAAA"]}
    code = as_code(runblob.RunBlob, runblob.O3Video, fields)
    compile(code["python"], "as code", "exec")
    assert 'prompt="it\'s <b>a</b> boat"' in code["python"]
    words = shlex.split(code["kling"], comments=True)
    assert words[:4] == ["kling", "generate", "runblob/o3-video", "it's <b>a</b> boat"]
    assert words[words.index("--duration") + 1] == "10"
    assert '"authorization: Bearer $RUNBLOB_API_KEY"' in code["curl"]
    assert "base64" not in "".join(code.values())
