"""Arguments of the wrong kind: what is wrong with them is said at once, and nothing is sent."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kling_async
from kling_async import (
    Client,
    ConfigurationError,
    InferenceSh,
    JobRef,
    Learned,
    Limits,
    MemoryLedger,
    PixelDojo,
    Polling,
    Progressive,
    RunBlob,
    Runware,
    SqliteLedger,
    Webhooks,
    runblob,
)
from support.fake_runblob import KEY, FakeRunBlob

PROVIDERS: list[Any] = [RunBlob, Runware, InferenceSh, PixelDojo]
SECRET = "a-key-that-nobody-may-see"
STRONG = "a secret that is long enough for a test"


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


WRONG_OF_RUN: dict[str, tuple[dict[str, Any], str]] = {
    "timeout text": ({"timeout": "60"}, r"run\(timeout=...\) takes seconds, .* not an object of type str"),
    "timeout below": ({"timeout": -1}, r"run\(timeout=...\) takes seconds, a number from 0 on, or None, not -1"),
    "timeout nan": ({"timeout": math.nan}, r"not nan"),
    "timeout bool": ({"timeout": True}, r"not an object of type bool"),
    "on_event": ({"on_event": 3}, r"run\(on_event=...\) takes a function, not an object of type int"),
    "save_to": ({"save_to": 5}, r"results are saved in a directory or at an address .* not in an object of type int"),
    "save_to nobody": ({"save_to": "~nobody-of-that-name/out"}, r"results cannot be saved to ~nobody-of-that-name"),
    "retry_failed": ({"retry_failed": -1}, r"retry_failed is -1; it must be a whole number, at least 0"),
    "tags text": ({"tags": "17"}, r"tags are texts by their names, such as .*, not an object of type str"),
    "tags number": ({"tags": {"customer": 17}}, r"the tag 'customer' has an object of type int; nothing was sent"),
    "tags name": ({"tags": {17: "customer"}}, r"the tag 17 has an object of type int"),
    "tags nul": ({"tags": {"customer": "a\0"}}, r"the tag 'customer' has a character that cannot be stored"),
}


@pytest.mark.parametrize("name", WRONG_OF_RUN)
@pytest.mark.asyncio
async def test_a_wrong_argument_of_run_buys_nothing(name: str) -> None:
    wrong, message = WRONG_OF_RUN[name]
    server = FakeRunBlob()
    async with Client(RunBlob(KEY), http=server) as client:
        with pytest.raises(ConfigurationError, match=message):
            await client.run(runblob.O3Video("a boat"), **wrong)
        if "save_to" in wrong:
            with pytest.raises(ConfigurationError, match=message):
                client.map([runblob.O3Video("a boat")], **wrong)
    assert server.requests.total() == 0


@pytest.mark.asyncio
async def test_a_wait_takes_seconds() -> None:
    async with Client(RunBlob(KEY), http=FakeRunBlob()) as client:
        job = client.attach("runblob/o3-video/1")
        with pytest.raises(ConfigurationError, match=r"wait\(timeout=...\) takes seconds"):
            await job.wait("5")  # type: ignore[arg-type]  # the mistake
        with pytest.raises(ConfigurationError, match=r"result\(timeout=...\) takes seconds"):
            await job.result(-5)


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
        ([None], r"was given None for a provider"),
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


SETTINGS = {
    "limits": r"settings such as Limits\(connections=100\)",
    "polling": r"settings such as Polling\(deadline=900\)",
    "webhooks": r"Webhooks\(url, secret\)",
    "budget": r"a budget such as Budget\(usd=5\)",
    "ledger": r'a ledger, such as SqliteLedger\("jobs\.db"\)',
    "http": r"an httpx\.AsyncClient, an httpx\.AsyncBaseTransport, .* or a proxy's URL",
}


@pytest.mark.parametrize("wrong", [5, 0, True, SECRET, "", [], object(), {"usd": 5}, Limits], ids=range(9))
@pytest.mark.parametrize("name", SETTINGS)
def test_a_client_takes_the_settings_that_are_documented(name: str, wrong: Any) -> None:
    """What counts as false is no exception: it is not taken for None."""
    with pytest.raises(ConfigurationError) as caught:
        Client(RunBlob(KEY), **{name: wrong})
    said = str(caught.value)
    assert f"Client({name}=...)" in said
    assert name == "http" or re.search(SETTINGS[name], said)
    assert name == "http" or said.endswith(
        "not the class Limits" if wrong is Limits else f"not an object of type {type(wrong).__name__}"
    )
    assert SECRET not in said


def test_a_ledger_that_lacks_a_method_is_refused_with_its_name() -> None:
    class Half(MemoryLedger):
        find = None  # type: ignore[assignment]  # the mistake

    with pytest.raises(ConfigurationError, match=r"not an object of type Half without find$"):
        Client(RunBlob(KEY), ledger=Half())  # type: ignore[arg-type]  # the same


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (5, "an object of type int"),
        (None, "None"),
        (runblob.O3Photo("a boat"), "an object of type O3Photo"),
        (runblob.O3Photo, "the class O3Photo"),
        (lambda: (), "an object of type function"),
    ],
    ids=range(5),
)
@pytest.mark.anyio
async def test_rows_come_from_something_iterable(rows: Any, kind: str) -> None:
    async with Client(RunBlob(KEY), http=FakeRunBlob()) as client:
        with pytest.raises(ConfigurationError, match=f"^Client.map.requests. takes a list of requests .*, not {kind}$"):
            client.map(rows)


@pytest.mark.parametrize("in_flight", [0, -1, 2.5, "3", None])
@pytest.mark.anyio
async def test_what_may_be_in_flight_is_a_whole_number(in_flight: Any) -> None:
    async with Client(RunBlob(KEY), http=FakeRunBlob()) as client:
        with pytest.raises(
            ConfigurationError, match=f"in_flight is {in_flight!r}; it must be a whole number, at least"
        ):
            client.map([], in_flight=in_flight)


@pytest.mark.anyio
async def test_a_delivery_is_one() -> None:
    async with Client(RunBlob(KEY), http=FakeRunBlob(), webhooks=Webhooks("https://a.test", STRONG)) as client:
        with pytest.raises(
            ConfigurationError, match=r"Client.deliver\(delivery\) takes what was received, .*, not .* type dict"
        ):
            await client.deliver({"status": "completed"})  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("path", [5, None, b"jobs.db", SqliteLedger])
def test_a_ledgers_file_is_named_by_a_path(path: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'SqliteLedger\(path\) takes a path, such as "jobs\.db", not'):
        SqliteLedger(path)


@pytest.mark.parametrize("kind", [str, Path])
def test_the_address_of_a_server_is_no_ledger_and_its_password_is_not_shown(kind: type[str | Path]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"not an address that begins with postgresql: .*name a file"
    ) as caught:
        SqliteLedger(kind("postgresql://me:hidden-word@db.test/jobs"))
    assert "hidden-word" not in str(caught.value)


@pytest.mark.parametrize("name", ["C:/jobs.db", "./postgresql:/jobs.db", "jobs:1.db"])
def test_a_file_with_a_colon_in_its_name_may_be_a_ledger(name: str) -> None:
    assert SqliteLedger(name).path.name == Path(name).name


@pytest.mark.anyio
async def test_a_directory_is_no_ledger(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs")
    ledger.path.mkdir()
    with pytest.raises(ConfigurationError, match=r"is a directory, and a ledger is a file; name one, such as"):
        await ledger.submissions()
    await ledger.aclose()
    assert [path.name for path in tmp_path.iterdir()] == ["jobs"]


@pytest.mark.parametrize("url", [5, None, b"https://a.test", ["https://a.test"]], ids=range(4))
def test_the_address_of_webhooks_is_text(url: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Webhooks\(url=\.\.\.\) takes an address, such as https://.*, not"):
        Webhooks(url, STRONG)


@pytest.mark.parametrize(
    "secret",
    [5, None, SECRET.encode(), [SECRET, 5], [None], [SECRET.encode()], {SECRET: 1}, {SECRET}, object(), str],
    ids=range(10),
)
def test_secrets_are_texts(secret: Any) -> None:
    """A set is refused, too: the first secret makes the tokens, and a set has no first."""
    with pytest.raises(
        ConfigurationError, match=r"Webhooks\(secret=\.\.\.\) takes text, or a list of texts, not"
    ) as caught:
        Webhooks("https://a.test", secret)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("confirm", ["no", 0, 1, None])
def test_whether_to_confirm_is_yes_or_no(confirm: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Webhooks\(confirm=\.\.\.\) takes True or False, not"):
        Webhooks("https://a.test", STRONG, confirm=confirm)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Limits(call="3"), r"Limits\(call='3'\): it must be a number, at least 0"),  # type: ignore[arg-type]
        (lambda: Limits(call=math.nan), r"Limits\(call=nan\): it must be a number, at least 0"),
        (lambda: Limits(cancel_grace=None), r"Limits\(cancel_grace=None\): it must be a number"),  # type: ignore[arg-type]
        (lambda: Limits(connections=0), r"Limits\(connections=0\): it must be a whole number, at least 1"),
        (lambda: Limits(connections=2.5), r"Limits\(connections=2\.5\): it must be a whole"),  # type: ignore[arg-type]
        (lambda: Limits(concurrency=0), r"Limits\(concurrency=0\): it must be a whole number, at least 1, or such"),
        (lambda: Limits(concurrency={"fal": True}), r"Limits\(concurrency=\{'fal': True\}\): it must be a whole"),
        (lambda: Limits(concurrency="40"), r"Limits\(concurrency='40'\): it must be a whole number"),  # type: ignore[arg-type]
        (
            lambda: kling_async.Client(kling_async.RunBlob(KEY), limits=Limits(concurrency={"runblop": 1})),
            r"Limits\(concurrency=\.\.\.\) names 'runblop', which is no provider; there are fal, .*runblob",
        ),
        (lambda: Polling(deadline="60"), r"Polling\(deadline='60'\): it must be a number"),  # type: ignore[arg-type]
        (lambda: Polling(deadline=0), r"Polling\(deadline=0\): it must be a number greater than 0"),
        (lambda: Polling(status_calls_per_minute=math.nan), r"it must be a number greater than 0"),
        (lambda: Polling(schedule="progressive"), r"it must be Learned\(\), Prog"),  # type: ignore[arg-type]
        (lambda: Polling(schedule=Progressive), r"it must be Learned\(\), Prog"),  # type: ignore[arg-type]
        (lambda: kling_async.Budget(usd="five"), r"Budget\(usd='five'\): it must be an amount, such as Budget\(usd=5"),
        (lambda: kling_async.Budget(credits=-1), r"Budget\(credits=-1\): it must be an amount, such as Budget\(cre"),
        (lambda: kling_async.Budget(max_per_job="much"), r"Budget\(max_per_job='much'\): it must be an amount"),
        (lambda: Polling(schedule=5), r"Polling\(schedule=5\): it must be Learned\(\), Prog"),  # type: ignore[arg-type]
        (lambda: kling_async.Webhooks("https://a.test", STRONG, backstop="9"), r"a number greater than 0"),  # type: ignore[arg-type]
    ],
    ids=range(19),
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
    """Where calls go is shown in errors and reprs, so no password stands in it. Paths are appended, so no query."""
    with pytest.raises(ConfigurationError, match="without user, query and fragment") as caught:
        kind("key", address)
    assert SECRET not in str(caught.value)
    assert caught.value.provider == kind.name


@pytest.mark.parametrize("kind", PROVIDERS)
@pytest.mark.parametrize("address", [5, b"", ["https://a.test"], {}])
def test_an_address_is_text(kind: Any, address: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"the address given for {kind.display_name} must be text, not"):
        kind("key", address)


@pytest.mark.parametrize("wait", ["5", None, object(), 0, math.nan])
def test_schedules_are_made_of_times(wait: Any) -> None:
    with pytest.raises(ValueError, match="a schedule needs positive finite intervals in seconds, got"):
        Progressive(5, wait)
    with pytest.raises(ValueError, match="lag_per_poll is seconds of lag, positive and finite, got"):
        Learned(wait)


@pytest.mark.parametrize("kind", PROVIDERS)
def test_a_key_of_a_provider_is_text(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"API key must be text, not int"):
        kind(5)


@pytest.mark.parametrize("proxy", [f"ftp://user:{SECRET}@proxy.example", "proxy.example", "http://", "http://[::1", ""])
def test_what_is_no_proxy_is_refused_when_the_client_is_made(proxy: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a proxy looks like http://proxy\.example:3128") as caught:
        Client(RunBlob(KEY), http=proxy)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "proxy", ["http://proxy.example:3128", "https://user:word@proxy.example", "proxy.example:3128"]
)
def test_proxies_are_accepted(proxy: str) -> None:
    assert "runblob" in repr(Client(RunBlob(KEY), http=proxy))


def test_a_deadline_without_end_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must end at some time; pass a large number of seconds"):
        Polling(deadline=math.inf)
