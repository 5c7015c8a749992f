"""When a provider rests, and who probes it."""

from __future__ import annotations

from math import inf

from kling_async._routing.health import Health


def test_it_rests_after_failures_in_a_row_and_not_before() -> None:
    health = Health()
    for _ in range(Health.FAILURES - 1):
        health.failed(0, "down", probe=False)
    health.succeeded()
    for _ in range(Health.FAILURES - 1):
        health.failed(0, "down", probe=False)
    assert health.wait(0) == 0
    health.failed(0, "down", probe=False)
    assert health.wait(0) == Health.FIRST
    assert health.failures(1) == 2 * Health.FAILURES - 1
    assert health.failures(Health.WINDOW) == 0


def test_one_submission_is_the_probe_and_the_others_wait_for_its_answer() -> None:
    health = Health()
    health.account_refused(0, "no credits", probe=False)
    now = Health.ACCOUNT
    assert health.wait(now) == 0
    assert health.begin(now)
    assert not health.begin(now)
    assert health.wait(now) == inf
    health.abandoned(probe=False)
    assert health.wait(now) == inf
    health.abandoned(probe=True)
    assert health.wait(now) == 0


def test_each_failed_probe_doubles_the_rest_up_to_a_bound() -> None:
    health, now, rests = Health(), 0.0, []
    for _ in range(Health.FAILURES):
        health.failed(now, "down", probe=False)
    for _ in range(8):
        rests.append(health.wait(now))
        now += rests[-1]
        health.failed(now, "down", probe=health.begin(now))
    assert rests == [30, 60, 120, 240, 480, 600, 600, 600]
    health.succeeded()
    for _ in range(Health.FAILURES):
        health.failed(now, "down", probe=False)
    assert health.wait(now) == Health.FIRST


def test_a_throttled_provider_rests_for_as_long_as_it_says_and_that_is_no_failure() -> None:
    health = Health()
    health.throttled(0, "not now", 7.0, probe=False)
    assert health.wait(0) == 7
    assert health.busy
    assert health.failures(0) == 0
    health.throttled(1, "not now", 7.0, probe=False)
    assert health.wait(1) == 6, "those that were sent before the rest say nothing new"
    probe = health.begin(7)
    health.throttled(7, "not now", None, probe=probe)
    assert health.wait(7) == 2 * Health.BUSY


def test_an_account_that_is_refused_rests_longer_than_a_busy_one() -> None:
    health = Health()
    health.throttled(0, "not now", None, probe=False)
    health.account_refused(0, "no credits", probe=False)
    assert health.wait(0) == Health.ACCOUNT
    assert not health.busy
