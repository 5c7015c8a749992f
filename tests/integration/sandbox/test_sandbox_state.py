"""The simulated company, without any HTTP."""

from __future__ import annotations

import asyncio
import math
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async.sandbox import ScriptedOutcome
from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError
from kling_async.sandbox.emulator.clock import Clock
from kling_async.sandbox.emulator.jobs import (
    IMAGE_DURATION,
    DurationRange,
    File,
    Order,
    Phase,
    Picture,
    UnknownDirectiveError,
    directive,
    plan,
)
from kling_async.sandbox.emulator.provider_state import DuplicateJobError, ProviderState

DURATIONS = DurationRange(100, 0.2, limit=900)
PICTURE = Picture(64, 64, "png", "a fox")


def _order(account: Account, prompt: str = "a fox", *, files: int = 1, job_id: str | None = None) -> Order:
    return Order(account, "image", prompt, (PICTURE,) * files, DURATIONS, Decimal("0.5"), id=job_id)


@pytest.fixture
def state() -> ProviderState:
    return ProviderState(Clock(speed=0))


@pytest.fixture
def account(state: ProviderState) -> Account:
    return state.open_account(Account("acme", "key", Decimal(1)))


def test_a_fresh_world_without_a_clock_uses_real_time() -> None:
    assert ProviderState().clock.speed == 1.0


def test_two_jobs_of_half_a_credit_are_all_that_one_credit_buys(state: ProviderState, account: Account) -> None:
    state.submit(_order(account))
    state.submit(_order(account))
    with pytest.raises(InsufficientCreditsError, match=r"0\.5 needed, 0\.0 left"):
        state.submit(_order(account))
    assert state.counters.bought == {"acme": 2}
    assert account.balance(0) == 0


def test_a_failed_job_is_refunded_once_at_its_end(state: ProviderState, account: Account) -> None:
    state.plan_next(ScriptedOutcome(fail="X", duration=10))
    state.submit(_order(account))
    assert [account.balance(moment) for moment in (0, 9.9, 10, 11)] == [Decimal("0.5")] * 2 + [Decimal("1.0")] * 2


def test_a_chosen_id_is_taken_once(state: ProviderState, account: Account) -> None:
    assert state.submit(_order(account, job_id="mine")).id == "mine"
    with pytest.raises(DuplicateJobError):
        state.submit(_order(account, job_id="mine"))
    assert account.balance(0) == Decimal("0.5")


def test_nobody_sees_the_jobs_of_others(state: ProviderState, account: Account) -> None:
    job = state.submit(_order(account))
    other = state.open_account(Account("acme", "other"))
    assert state.status(account, job.id) is job
    assert state.status(other, job.id) is None
    assert state.status(account, "nothing") is None


def test_keys_open_only_their_own_provider(state: ProviderState, account: Account) -> None:
    assert state.account("acme", "Bearer key") is account
    assert state.account("other", "Bearer key") is None
    assert state.account("acme", "Basic key") is None
    assert state.account("acme", None) is None


def test_a_job_is_cancelled_until_it_has_ended(state: ProviderState, account: Account) -> None:
    reported: list[Phase] = []
    state.subscribe(lambda job: reported.append(state.phase(job)))
    first, second = state.submit(_order(account)), state.submit(_order(account))
    assert state.cancel(first)
    assert not state.cancel(first)
    state.clock.advance(900)
    assert not state.cancel(second)
    assert [state.phase(first), state.phase(second)] == [Phase.CANCELLED, Phase.COMPLETED]
    assert reported == [Phase.PENDING, Phase.PENDING, Phase.CANCELLED]
    assert not state.downloadable(first, first.files[0], 0)


def test_scripts_are_used_in_order_by_the_providers_they_name(state: ProviderState, account: Account) -> None:
    other = state.open_account(Account("other", "key"))
    state.plan_next(ScriptedOutcome(fail="A"), provider="other")
    state.plan_next(ScriptedOutcome(fail="B"), times=2)
    jobs = [state.submit(_order(who)) for who in (account, other, other, other)]
    assert [job.failure for job in jobs] == ["B", "A", "B", None]


def test_a_prompt_overrules_a_script(state: ProviderState, account: Account) -> None:
    state.plan_next(ScriptedOutcome(fail="SCRIPT"))
    job = state.submit(_order(account, "a fox [sandbox: fail=PROMPT, duration=2.5]"))
    assert (job.failure, job.ends) == ("PROMPT", 2.5)


def test_some_files_of_a_job_can_fail_while_the_job_completes(state: ProviderState, account: Account) -> None:
    state.plan_next(ScriptedOutcome(fail="BAD", duration=100, files=2))
    job = state.submit(_order(account, files=4))
    assert [file.failure for file in job.files] == ["BAD", "BAD", None, None]
    assert [file.ready for file in job.files] == sorted(file.ready for file in job.files)
    assert job.files[-1].ready == job.ends == 100
    assert job.phase(100) is Phase.COMPLETED
    state.clock.advance(100)
    assert [state.downloadable(job, file, 0) for file in job.files] == [False, False, True, True]


@pytest.mark.parametrize(
    ("prompt", "ending"),
    [
        ("a fox", None),
        ("[sandbox:]", ScriptedOutcome()),
        ("[sandbox: stuck] a fox", ScriptedOutcome(stuck=True)),
        ("a [sandbox: duration=3,fail=X] fox", ScriptedOutcome(fail="X", duration=3.0)),
    ],
)
def test_directives_are_read_out_of_prompts(prompt: str, ending: ScriptedOutcome | None) -> None:
    assert directive(prompt) == ending


@pytest.mark.parametrize("words", ["fail=", "duration=-1", "duration=soon", "duration", "stuck=1", "nan"])
def test_directives_that_mean_nothing_are_refused(words: str) -> None:
    with pytest.raises(UnknownDirectiveError, match="means nothing to the sandbox"):
        directive(f"a fox [sandbox: {words}]")


@given(
    seed=st.integers(),
    ending=st.builds(
        ScriptedOutcome,
        fail=st.none() | st.just("X"),
        duration=st.none() | st.floats(0, 5000),
        stuck=st.booleans(),
    ),
    moments=st.lists(st.floats(0, 10_000), min_size=2),
)
def test_no_job_ever_goes_back(seed: int, ending: ScriptedOutcome, moments: list[float]) -> None:
    account = Account("acme", "key")
    job = plan(_order(account), ending, 0.0, _dice(seed))
    ranks = [_rank(job.phase(moment)) for moment in sorted(moments)]
    assert ranks == sorted(ranks)
    assert job.phase(0.0) is Phase.PENDING or job.began == 0.0
    assert job.ends == math.inf if ending.stuck else job.ends <= 900
    assert job.began <= job.ends


def _dice(seed: int) -> random.Random:
    return random.Random(seed)


def _rank(phase: Phase) -> int:
    return 2 if phase.terminal else [Phase.PENDING, Phase.PROCESSING].index(phase)


def test_durations_are_lognormal() -> None:
    account = Account("acme", "key")
    order = Order(account, "image", "x", (PICTURE,), IMAGE_DURATION, Decimal(0))
    logs = sorted(math.log(plan(order, ScriptedOutcome(), 0.0, _dice(seed)).ends) for seed in range(2000))
    assert math.exp(logs[1000]) == pytest.approx(24, rel=0.05)
    assert (logs[1683] - logs[317]) / 2 == pytest.approx(0.545, rel=0.08)


def test_a_rate_limit_slides_with_time() -> None:
    account = Account("acme", "key", rate_limit=2)
    moments = [0, 30, 40, 59.9, 60, 61, 90]
    assert [account.may_poll(moment) for moment in moments] == [True, True, False, False, True, False, True]


def test_secrets_do_not_show_in_a_repr() -> None:
    assert "hush" not in repr(Account("acme", "hush"))


def test_a_world_without_a_server_draws_nothing(state: ProviderState) -> None:
    with pytest.raises(RuntimeError, match="has no renderer"):
        asyncio.run(_draw(state))


async def _draw(state: ProviderState) -> None:
    await state.draw(File("f", PICTURE, ready=0))


@pytest.mark.parametrize("speed", [-1, math.nan, math.inf])
def test_a_speed_must_be_usable(speed: float) -> None:
    with pytest.raises(ValueError, match="not a usable speed"):
        Clock(speed)


def test_the_clock_runs_at_its_speed_and_jumps() -> None:
    real = [100.0]
    clock = Clock(60, source=lambda: real[0])
    real[0] += 2
    assert clock.now() == 120
    clock.advance(30)
    assert clock.now() == 150
    assert clock.real(30) == 0.5
    assert (clock.at(90) - clock.at(0)).total_seconds() == 90
    assert clock.at(0).tzinfo is not None


def test_who_waits_for_a_moment_is_woken_by_a_jump() -> None:
    async def scenario() -> float:
        clock = Clock(0)
        waiting = asyncio.create_task(clock.until(300))
        await asyncio.sleep(0)
        await asyncio.to_thread(clock.advance, 100)
        await asyncio.to_thread(clock.advance, 200)
        await asyncio.wait_for(waiting, 20)
        await clock.until(10)
        return clock.now()

    assert asyncio.run(scenario()) == 300


def test_waiting_takes_real_time_by_the_speed() -> None:
    async def scenario() -> float:
        clock = Clock(1000)
        await asyncio.wait_for(clock.until(20), 20)
        return clock.now()

    assert asyncio.run(scenario()) >= 20
