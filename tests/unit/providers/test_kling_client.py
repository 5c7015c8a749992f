"""Kling through a client, with a ledger and webhooks, judged by the strict server."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest

from kling_async import (
    Client,
    ConfigurationError,
    Delivery,
    MemoryLedger,
    Polling,
    Progressive,
    WebhookRejected,
    Webhooks,
    kling,
)
from support.strict_checks import How
from support.strict_kling import StrictKling

pytestmark = pytest.mark.asyncio
SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
URL = "https://hooks.example/kling"
VIDEO = kling.TextToVideo("a paper boat in the rain")
IMAGE = kling.OmniImage("a paper boat in the rain", aspect_ratio="1:1")
QUICK = Polling(schedule=Progressive(0.02))


def make_client(fake: StrictKling, **options: Any) -> Client:
    fake.connection_lost = lambda: httpx.ReadError("the connection broke")
    return Client(kling.Kling(fake.key), http=httpx.ASGITransport(fake), polling=QUICK, **options)


def received(sent: Any) -> Delivery:
    provider, attempt_id, token = sent.url.removeprefix(f"{URL}/").split("/")
    return Delivery(provider, attempt_id, token, sent.body, sent.headers)


@pytest.mark.parametrize("request_", [VIDEO, IMAGE], ids=lambda request: type(request).__name__)
@pytest.mark.parametrize(("how", "accept"), list(itertools.product(("drop", "500", "502", "504"), (True, False))))
async def test_no_lost_answer_leaves_a_submission_unknown(request_: Any, how: How, accept: bool) -> None:
    """The client reads back what its own id bought, and sends the same id again if there is nothing."""
    fake = StrictKling()
    async with make_client(fake, ledger=MemoryLedger()) as client:
        fake.lose_next_answer(accept, how)
        result = await client.run(request_, key="row-1")
        assert await client.unresolved() == []
    assert result.artifacts
    assert (fake.bought, fake.duplicates, fake.violations) == (1, [], [])


@pytest.mark.parametrize("confirm", [True, False])
@pytest.mark.parametrize("request_", [VIDEO, IMAGE], ids=lambda request: type(request).__name__)
async def test_signed_callbacks_of_every_status_end_the_job(
    request_: Any, confirm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both shapes of body. With confirm=True one status call confirms the end, else the signature is enough."""
    monkeypatch.setenv("KLING_WEBHOOK_SECRET", SECRET)
    fake = StrictKling(reads_to_finish=1, webhook_secrets=[SECRET])
    webhooks = Webhooks(URL, "a secret of this test, and long", confirm=confirm)
    async with make_client(fake, webhooks=webhooks) as client:
        job = await client.submit(request_)
        [task] = fake.tasks.values()
        for status in ("submitted", "processing", "succeeded"):
            assert await client.deliver(received(fake.delivery(task.id, status)))
        assert job.status.terminal is not confirm
        assert (await job).artifacts
        assert fake.requests["read"] == (1 if confirm else 0)
    assert fake.violations == []


async def test_an_unsigned_callback_is_rejected_when_there_is_a_secret() -> None:
    fake = StrictKling()
    webhooks = Webhooks(URL, "a secret of this test, and long", signing_secrets={"kling": SECRET})
    async with make_client(fake, webhooks=webhooks) as client:
        await client.submit(VIDEO)
        [task] = fake.tasks.values()
        with pytest.raises(WebhookRejected):
            await client.deliver(received(fake.delivery(task.id, "succeeded")))
        fake.webhook_secrets = ["whsec_b3RoZXJzZWNyZXRvdGhlcnNlY3JldG90aGVyc2VjcmU="]
        with pytest.raises(WebhookRejected):
            await client.deliver(received(fake.delivery(task.id, "succeeded")))
        fake.webhook_secrets = [*fake.webhook_secrets, SECRET]  # while the secret is being replaced, both sign
        assert await client.deliver(received(fake.delivery(task.id, "succeeded")))


async def test_a_secret_in_the_environment_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLING_WEBHOOK_SECRET", "hunter2")
    with pytest.raises(ConfigurationError, match="Standard Webhooks") as refused:
        make_client(StrictKling(), webhooks=Webhooks(URL, "a secret of this test, and long"))
    assert "hunter2" not in str(refused.value)
