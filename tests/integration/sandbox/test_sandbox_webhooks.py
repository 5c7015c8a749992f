"""RunBlob calls back: once, again after a refusal, and badly when told to."""

from __future__ import annotations

import http.server
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from kling_async.sandbox import Delivery, Fault, Sandbox

VIDEO = "/v1/kling/o3-video"
PHOTO = "/v1/kling/o3-photo"
ENOUGH = 1000.0
PATIENCE = 120.0  # seconds that a delivery gets to arrive
FOREIGN = "https://attacker.invalid/not-yours"

Buy = Callable[..., str]


class Customer:
    """A webhook endpoint: remembers what came, answers what it is told to."""

    def __init__(self) -> None:
        self.calls: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.answers: queue.Queue[int] = queue.Queue()
        customer = self

        class Endpoint(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                assert self.headers["Content-Type"] == "application/json"
                body = self.rfile.read(length)
                status = 200 if customer.answers.empty() else customer.answers.get()
                self.send_response(status)
                self.send_header("Content-Length", "0")
                customer.calls.put((self.path, body))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep the test output clean."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hooks/runblob/key/t0ken"

    def next(self) -> dict[str, Any]:
        """The next delivery's body, at the customer's own address."""
        path, body = self.calls.get(timeout=PATIENCE)
        assert path == "/hooks/runblob/key/t0ken"
        value: dict[str, Any] = json.loads(body)
        return value


@pytest.fixture
def customer() -> Iterator[Customer]:
    endpoint = Customer()
    endpoint.thread.start()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.thread.join()
    endpoint.server.server_close()


def _finished(sandbox: Sandbox, attempts: int) -> list[Delivery]:
    """The deliveries, once so many attempts were answered."""
    deliveries = sandbox.wait_for_deliveries(attempts, PATIENCE)
    assert len(deliveries) == attempts
    return deliveries


@pytest.mark.parametrize(
    ("page", "field", "extension", "model"),
    [(PHOTO, "image_url", ".png", "kling_o3_photo"), (VIDEO, "video_url", ".mp4", "kling_o3_pro")],
)
def test_a_completed_job_is_reported_with_its_result(
    sandbox: Sandbox, bought: Buy, customer: Customer, page: str, field: str, extension: str, model: str
) -> None:
    fields = {"model": model} if page == VIDEO else {}
    job = bought(page, callback_url=customer.url, **fields)
    sandbox.state.clock.advance(ENOUGH)
    body = customer.next()
    assert body.pop(field).endswith(extension)
    assert body == {"generation_id": job, "status": "completed", "model": model, "message": None}
    (delivery,) = _finished(sandbox, 1)
    assert (delivery.job.id, delivery.attempt, delivery.status) == (job, 1, 200)
    assert sandbox.counters.webhooks == {"runblob": 1}


@pytest.mark.parametrize(("page", "field"), [(PHOTO, "image_url"), (VIDEO, "video_url")])
def test_a_failed_job_is_reported_with_its_code(
    sandbox: Sandbox, bought: Buy, customer: Customer, page: str, field: str
) -> None:
    sandbox.plan_next(fail="CONTENT_POLICY_VIOLATION")
    job = bought(page, callback_url=customer.url)
    sandbox.state.clock.advance(ENOUGH)
    body = customer.next()
    assert (body["generation_id"], body["status"], body[field], body["message"]) == (
        job,
        "failed",
        None,
        "CONTENT_POLICY_VIOLATION",
    )


def test_nothing_is_reported_before_the_end_or_without_an_address(
    sandbox: Sandbox, bought: Buy, customer: Customer
) -> None:
    sandbox.plan_next(duration=100, times=2)
    bought(callback_url=customer.url)
    bought()
    sandbox.state.clock.advance(99.9)
    assert customer.calls.empty()
    sandbox.state.clock.advance(0.1)
    customer.next()
    _finished(sandbox, 1)
    assert sandbox.counters.webhooks == {"runblob": 1}


def test_a_refused_delivery_is_repeated_every_30_s_and_given_up_after_the_fifth(
    sandbox: Sandbox, bought: Buy, customer: Customer
) -> None:
    for _ in range(9):
        customer.answers.put(500)
    bought(callback_url=customer.url)
    sandbox.state.clock.advance(ENOUGH)
    bodies = [customer.next()]
    for attempt in range(2, 6):
        _finished(sandbox, attempt - 1)
        sandbox.state.clock.advance(29)
        assert customer.calls.empty()
        sandbox.state.clock.advance(1)
        bodies.append(customer.next())
    sandbox.state.clock.advance(ENOUGH)
    deliveries = _finished(sandbox, 5)
    assert [(each.attempt, each.status) for each in deliveries] == [(n, 500) for n in range(1, 6)]
    assert all(body == bodies[0] for body in bodies)
    assert customer.calls.empty()


def test_an_accepted_repetition_ends_the_matter(sandbox: Sandbox, bought: Buy, customer: Customer) -> None:
    customer.answers.put(503)
    bought(callback_url=customer.url)
    sandbox.state.clock.advance(ENOUGH)
    customer.next()
    _finished(sandbox, 1)
    sandbox.state.clock.advance(30)
    customer.next()
    assert [each.status for each in _finished(sandbox, 2)] == [503, 200]


def test_a_customer_who_is_not_there_is_tried_again(sandbox: Sandbox, bought: Buy) -> None:
    bought(callback_url="http://127.0.0.1:1/nobody")
    for attempt in range(1, 6):
        sandbox.state.clock.advance(ENOUGH)
        assert [each.status for each in _finished(sandbox, attempt)] == [None] * attempt


def test_a_customer_who_never_answers_does_not_keep_the_sandbox_from_stopping() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(PATIENCE)
        with Sandbox(speed=0) as sandbox:
            headers = {"Authorization": f"Bearer {sandbox.api_key('runblob')}"}
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}/hook"
            with httpx.Client(base_url=sandbox.base_url("runblob"), headers=headers, trust_env=False) as client:
                client.post(f"{VIDEO}/generate", json={"prompt": "a fox", "callback_url": url})
            sandbox.state.clock.advance(ENOUGH)
            caller, _ = deaf.accept()
            assert caller.recv(4) == b"POST"
        caller.close()
    assert not sandbox.deliveries


# Badly.


def test_early_overtakes_the_answer_to_the_purchase(sandbox: Sandbox, client: httpx.Client, customer: Customer) -> None:
    sandbox.faults.add(Fault.webhook_early, times=1)
    answer = client.post(f"{VIDEO}/generate", json={"prompt": "a fox", "callback_url": customer.url})
    assert customer.calls.qsize() == 1  # it had arrived before the answer did
    body = customer.next()
    assert (body["generation_id"], body["status"]) == (answer.json()["generation_id"], "completed")
    assert client.get(f"{VIDEO}/generations/{body['generation_id']}").json()["status"] == "completed"


def test_early_comes_even_when_the_answer_is_lost(sandbox: Sandbox, client: httpx.Client, customer: Customer) -> None:
    sandbox.faults.add(Fault.webhook_early)
    sandbox.faults.add(Fault.accept_then_reset)
    with pytest.raises(httpx.ReadError):
        client.post(f"{VIDEO}/generate", json={"prompt": "a fox", "callback_url": customer.url})
    assert customer.next()["status"] == "completed"
    assert sandbox.counters.jobs_bought == 1


def test_late_comes_after_the_end(sandbox: Sandbox, bought: Buy, customer: Customer) -> None:
    sandbox.faults.add(Fault.webhook_late, seconds=500)
    sandbox.plan_next(duration=100)
    bought(callback_url=customer.url)
    sandbox.state.clock.advance(599)
    assert customer.calls.empty()
    sandbox.state.clock.advance(1)
    assert customer.next()["status"] == "completed"


def test_twice_is_the_same_twice(sandbox: Sandbox, bought: Buy, customer: Customer) -> None:
    sandbox.faults.add(Fault.webhook_twice)
    bought(callback_url=customer.url)
    sandbox.state.clock.advance(ENOUGH)
    assert customer.next() == customer.next()
    assert [each.attempt for each in _finished(sandbox, 2)] == [1, 1]


def test_out_of_order_says_processing_after_completed(sandbox: Sandbox, bought: Buy, customer: Customer) -> None:
    sandbox.faults.add(Fault.webhook_out_of_order)
    job = bought(callback_url=customer.url)
    sandbox.state.clock.advance(ENOUGH)
    first, second = customer.next(), customer.next()
    assert [first["status"], second["status"]] == ["completed", "processing"]
    assert [first["generation_id"], second["generation_id"]] == [job, job]
    assert second["video_url"] is None


def test_never_is_never(sandbox: Sandbox, bought: Buy, customer: Customer) -> None:
    sandbox.faults.add(Fault.webhook_never, times=1)
    bought(callback_url=customer.url)
    reported = bought(callback_url=customer.url)
    sandbox.state.clock.advance(ENOUGH)
    assert customer.next()["generation_id"] == reported
    _finished(sandbox, 1)
    assert sandbox.counters.webhooks == {"runblob": 1}


def test_forgeries_come_before_the_real_one(sandbox: Sandbox, bought: Buy, customer: Customer) -> None:
    sandbox.faults.add(Fault.webhook_forged)
    job = bought(callback_url=customer.url)
    sandbox.state.clock.advance(ENOUGH)
    guessed, foreign, broken, flood, honest = _finished(sandbox, 5)
    assert [each.forged for each in (guessed, foreign, broken, flood, honest)] == [True] * 4 + [False]
    assert guessed.url != customer.url
    assert guessed.url[:-1] == customer.url[:-1]
    assert json.loads(guessed.body) | {"video_url": FOREIGN} == json.loads(guessed.body)
    assert json.loads(guessed.body)["generation_id"] == job
    assert foreign.url == customer.url
    assert json.loads(foreign.body)["generation_id"] != job
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken.body)
    assert len(flood.body) > 10 * 1024 * 1024
    assert json.loads(honest.body)["generation_id"] == job


def test_a_refused_forgery_is_not_repeated(sandbox: Sandbox, bought: Buy, customer: Customer) -> None:
    sandbox.faults.add(Fault.webhook_forged)
    for status in (404, 404, 400, 413):
        customer.answers.put(status)
    bought(callback_url=customer.url)
    sandbox.state.clock.advance(ENOUGH)
    assert [each.status for each in _finished(sandbox, 5)] == [404, 404, 400, 413, 200]
    sandbox.state.clock.advance(ENOUGH)
    assert len(sandbox.deliveries) == 5


def test_waiting_for_deliveries_that_do_not_come_ends(sandbox: Sandbox) -> None:
    with pytest.raises(TimeoutError, match=r"0 of 1 webhook deliveries in 0\.01 s"):
        sandbox.wait_for_deliveries(1, timeout=0.01)


def test_webhooks_run_on_simulated_time(customer: Customer) -> None:
    """At speed 600 a job of 150 s calls back after a quarter of a second, without anybody asking."""
    with Sandbox(speed=600) as sandbox:
        sandbox.plan_next(duration=150)
        headers = {"Authorization": f"Bearer {sandbox.api_key('runblob')}"}
        with httpx.Client(base_url=sandbox.base_url("runblob"), headers=headers, trust_env=False) as client:
            client.post(f"{VIDEO}/generate", json={"prompt": "a fox", "callback_url": customer.url})
        assert customer.next()["status"] == "completed"
        assert sandbox.counters.status_calls == 0
