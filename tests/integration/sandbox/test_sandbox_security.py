"""Web pages cannot use or control the sandbox, and its keys cannot be guessed."""

from __future__ import annotations

import httpx
import pytest

from kling_async.sandbox import Fault, Sandbox


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::1", "x@y"]
)
@pytest.mark.parametrize("path", ["/", "/_sandbox/counters", "/runblob/v1/kling/o3-video/generate", "/cdn/x"])
def test_requests_for_a_foreign_host_get_421(sandbox: Sandbox, host: str, path: str) -> None:
    answer = httpx.get(sandbox.url + path, headers={"Host": host}, trust_env=False)
    assert answer.status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "localhost", "LOCALHOST"])
def test_requests_for_this_machine_are_answered(sandbox: Sandbox, host: str) -> None:
    host = host.format(port=sandbox.url.rpartition(":")[2])
    assert httpx.get(f"{sandbox.url}/_sandbox/counters", headers={"Host": host}, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_web_page_cannot_switch_faults_on(sandbox: Sandbox, headers: dict[str, str]) -> None:
    body = '{"fault": "stuck"}'
    answer = httpx.post(f"{sandbox.url}/_sandbox/faults", content=body, headers=headers, trust_env=False)
    assert answer.status_code == 403
    assert not sandbox.faults.rules


def test_the_sandboxs_own_page_and_programs_may_control_it(sandbox: Sandbox) -> None:
    own = {"Origin": sandbox.url, "Sec-Fetch-Site": "same-origin"}
    for headers in (own, {}):
        answer = httpx.post(f"{sandbox.url}/_sandbox/faults", json={"fault": "stuck"}, headers=headers, trust_env=False)
        assert answer.status_code == 200
    assert [rule.fault for rule in sandbox.faults.rules] == [Fault.stuck, Fault.stuck]


def test_keys_are_random_unless_a_seed_is_given() -> None:
    keys = [Sandbox(seed=seed).api_key("runblob") for seed in (None, None, 0, 0, 1)]
    assert len(set(keys)) == 4
    assert keys[2] == keys[3]


def test_without_a_seed_jobs_are_the_same_as_with_seed_0() -> None:
    assert Sandbox().state.seed == Sandbox(seed=0).state.seed == 0
