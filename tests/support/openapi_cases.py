"""schemathesis calls the webhook endpoint as its OpenAPI document allows and does not allow, and believes nothing.

`integration/test_openapi.py` runs these tests with its plugin: loading that, and making the cases, takes two seconds,
which each process of all other tests would spend, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings

from kling_async import Client, Job, RunBlob, Webhooks, runblob
from kling_async.fastapi import router
from support.fake_runblob import KEY, FakeRunBlob

SERVER = FakeRunBlob()
CLIENT = Client(
    RunBlob(KEY),
    http=SERVER,
    webhooks=Webhooks("https://example.com/kling", "an old and very secret secret", confirm=False),
)
APP = FastAPI()
APP.include_router(router(CLIENT), prefix="/kling")
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)


@pytest.fixture(scope="module")
def job() -> Iterator[Job]:
    """A job that a webhook could end. None may."""

    async def submit() -> Job:
        return await CLIENT.submit(runblob.O3Video("a boat"))

    job = anyio.run(submit)
    yield job
    assert len(job.events) == 1
    assert SERVER.requests == {"submit": 1}
    anyio.run(CLIENT.aclose)


@SCHEMA.parametrize()
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_endpoint_keeps_to_its_document(case: Any, job: Job) -> None:
    """Every answer has a documented status, type and shape. Nothing is a server error."""
    assert case.call_and_validate().status_code in {404, 405, 413}


@SCHEMA.parametrize()
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_body_that_no_provider_sends_is_refused_at_the_right_address_too(case: Any, job: Job) -> None:
    [generation] = SERVER.generations.values()
    *_, provider, key, token = str(generation.body["callback_url"]).split("/")
    case.path_parameters = {"provider": provider, "attempt_id": key, "token": token}
    assert case.call_and_validate().status_code in {404, 405, 413}
