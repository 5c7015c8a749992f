"""Arguments of the wrong kind: what is wrong with them is said at once, and nothing is sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kling_async
from fake_runblob import KEY, FakeRunBlob
from kling_async import (
    Client,
    ConfigurationError,
    InferenceSh,
    JobRef,
    Limits,
    PixelDojo,
    Polling,
    Progressive,
    RunBlob,
    Runware,
    SqliteLedger,
    runblob,
)

PROVIDERS: list[Any] = [RunBlob, Runware, InferenceSh, PixelDojo]
SECRET = "a-key-that-nobody-may-see"


@pytest.mark.parametrize("request_", ["a boat", runblob.O3Photo, {"prompt": "a boat"}, None], ids=repr)
@pytest.mark.anyio
async def test_only_requests_are_submitted(request_: Any) -> None:
    server = FakeRunBlob()
    async with Client(RunBlob(KEY), http=server) as client:
        for verb in (client.submit, client.run):
            with pytest.raises(
                TypeError, match=r"a request is submitted, such as runblob\.O3Video\('a paper boat'\), not"
            ):
                await verb(request_)
    assert server.requests.total() == 0


@pytest.mark.anyio
async def test_a_class_in_place_of_a_request_is_called_one() -> None:
    async with Client(RunBlob(KEY), http=FakeRunBlob()) as client:
        with pytest.raises(TypeError, match="not the class O3Photo"):
            await client.submit(runblob.O3Photo)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("key", [5, b"row-17", ("row", 17)])
@pytest.mark.anyio
async def test_a_key_is_text(key: Any) -> None:
    server = FakeRunBlob()
    async with Client(RunBlob(KEY), http=server) as client:
        with pytest.raises(ConfigurationError, match=r"the key of a submission is text, not .*; give str\(key\)"):
            await client.submit(runblob.O3Video("a boat"), key=key)
    assert server.requests.total() == 0


@pytest.mark.anyio
async def test_jobs_are_named_by_references() -> None:
    async with Client(RunBlob(KEY), http=FakeRunBlob()) as client:
        job = client.attach("runblob/o3-video/1")
        assert client.attach(JobRef("runblob", "o3-video", "1")) == job
        for wrong in (5, None, job, b"runblob/o3-video/1"):
            with pytest.raises(TypeError, match=r"its reference \(job\.ref\) or the text of it, not by"):
                client.attach(wrong)  # type: ignore[arg-type]  # the mistake
            with pytest.raises(TypeError, match=r"its reference \(job\.ref\) or the text of it, not by"):
                await client.resolve("row-17", wrong)  # type: ignore[arg-type]  # the mistake
        with pytest.raises(ValueError, match="'5' is not a job reference"):
            client.attach("5")


@pytest.mark.parametrize(
    ("providers", "said"),
    [
        (Runware, r"the class Runware for a provider; make one, such as Runware\(api_key=\.\.\.\)"),
        ([RunBlob("key"), PixelDojo], r"the class PixelDojo for a provider; make one, such as PixelDojo\("),
        ("inferencesh", r"type str for a provider; make one, such as InferenceSh\("),
        (SECRET, r"type str for a provider; make one, such as RunBlob\("),
        (["runware"], r"such as Runware\("),
        ({"runblob": SECRET}, r"such as RunBlob\("),
        (5, r"an object of type int for a provider"),
        ([None], r"an object of type NoneType for a provider"),
        (FakeRunBlob(), r"an object of type FakeRunBlob for a provider"),
    ],
    ids=range(9),
)
def test_a_client_takes_providers_that_were_made(providers: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        Client(providers)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("ledger", ["jobs.db", Path("jobs.db"), SqliteLedger])
def test_a_ledger_is_not_named_by_its_file(ledger: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'takes a ledger, such as SqliteLedger\("jobs\.db"\), not'):
        Client(RunBlob(KEY), ledger=ledger)
    assert not Path("jobs.db").exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Limits(call="3"), r"Limits\(call='3'\): it must be a number, at least 0"),  # type: ignore[arg-type]
        (lambda: Limits(call=math.nan), r"Limits\(call=nan\): it must be a number, at least 0"),
        (lambda: Limits(grace=None), r"Limits\(grace=None\): it must be a number"),  # type: ignore[arg-type]
        (lambda: Limits(connections=0), r"Limits\(connections=0\): it must be a whole number, at least 1"),
        (lambda: Limits(connections=2.5), r"Limits\(connections=2\.5\): it must be a whole"),  # type: ignore[arg-type]
        (lambda: Polling(deadline="60"), r"Polling\(deadline='60'\): it must be a number"),  # type: ignore[arg-type]
        (lambda: Polling(deadline=0), r"Polling\(deadline=0\): it must be a number greater than 0"),
        (lambda: Polling(status_calls_per_minute=math.nan), r"it must be a number greater than 0"),
        (lambda: Polling(schedule="progressive"), r"it must be Learned\(\), Prog"),  # type: ignore[arg-type]
        (lambda: Polling(schedule=Progressive), r"it must be Learned\(\), Prog"),  # type: ignore[arg-type]
        (lambda: Polling(schedule=5), r"Polling\(schedule=5\): it must be Learned\(\), Prog"),  # type: ignore[arg-type]
        (lambda: kling_async.Webhooks("https://a.test", "s" * 16, backstop="9"), r"a number greater than 0"),  # type: ignore[arg-type]
    ],
    ids=range(12),
)
def test_settings_have_the_kinds_that_are_documented(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()


@pytest.mark.parametrize("kind", PROVIDERS)
@pytest.mark.parametrize(
    "address",
    [
        f"https://user:{SECRET}@proxy.example",
        f"http://user:{SECRET}@proxy.example/v1",
        f"https://proxy.example/v1?key={SECRET}",
        f"https://proxy.example/v1#{SECRET}",
        "https://proxy.example/v1?",
    ],
)
def test_an_address_is_plain(kind: Any, address: Any) -> None:
    """Where calls go is shown in errors and reprs, so no password stands in it; paths are appended, so no query."""
    with pytest.raises(ConfigurationError, match="without user, query and fragment") as caught:
        kind("key", address)
    assert SECRET not in str(caught.value)
    assert caught.value.provider == kind.name


@pytest.mark.parametrize("kind", PROVIDERS)
def test_a_key_of_a_provider_is_text(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"API key must be text, not int"):
        kind(5)


@pytest.mark.parametrize(
    "proxy", [f"ftp://user:{SECRET}@proxy.example", "proxy.example:3128", "http://", "http://[::1", ""]
)
def test_what_is_no_proxy_is_refused_when_the_client_is_made(proxy: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the URL of a proxy; one looks like http://") as caught:
        Client(RunBlob(KEY), http=proxy)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "proxy", ["http://proxy.example:3128", "https://user:word@proxy.example", "socks5://[::1]:1080"]
)
def test_proxies_are_accepted(proxy: str) -> None:
    assert "runblob" in repr(Client(RunBlob(KEY), http=proxy))
