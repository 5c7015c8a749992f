"""Polling schedules: polls within their bounds, a robust duration model, fair use of a rate limit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import exp, inf, isfinite, log, nan
from random import Random
from typing import Generic, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kling_async import Learned, Progressive
from kling_async._scheduling.durations import DurationModel, Observation, SurvivalCurve
from kling_async._scheduling.poll_queue import PollQueue
from kling_async._scheduling.schedules import PollTimer, merged
from kling_async.providers.base import DurationPrior

NameT = TypeVar("NameT")

CLIP = DurationPrior(147.0, 0.158)
KEY = "runblob/o3-video duration=5"

SECONDS = st.floats(0.0, 1e6)
ANY = st.floats(allow_nan=True, allow_infinity=True)
HOSTILE = st.one_of(ANY, st.sampled_from([0.0, -0.0, -1.0, 5e-324, 1e-300, 147.0, 1e300, inf, -inf, nan]))
PRIORS = st.builds(DurationPrior, st.floats(1e-2, 1e5), st.floats(0.01, 3.0))
LAMBDAS = st.floats(0.01, 100.0)


def polls_of(timer: PollTimer, number: int) -> list[float]:
    """The first polls of a job that never ends."""
    return list(accumulate(range(number - 1), lambda last, _: timer.next_poll(last), initial=timer.next_poll(0.0)))


def polls_until(timer: PollTimer, ended: float) -> list[float]:
    """The polls of a job that ends at `ended`. The last one finds the end."""
    polls = [timer.next_poll(0.0)]
    while polls[-1] < ended:
        polls.append(timer.next_poll(polls[-1]))
    return polls


def poller(schedule: Learned, ended: float, prior: DurationPrior = CLIP) -> list[float]:
    """One job from submission to end, told to the schedule."""
    timer = schedule.timer(KEY, prior)
    polls = polls_until(timer, ended)
    timer.observe_end(polls[-2] if len(polls) > 1 else 0.0, polls[-1])
    return polls


class TestDurationPrior:
    @pytest.mark.parametrize(("median", "sigma"), [(0.0, 0.1), (-1.0, 0.1), (inf, 0.1), (nan, 0.1), (1.0, 0.0)])
    def test_a_prior_that_is_no_distribution_is_refused(self, median: float, sigma: float) -> None:
        with pytest.raises(ValueError, match="positive finite"):
            DurationPrior(median, sigma)

    def test_reads_a_documented_range_as_the_middle_four_fifths(self) -> None:
        model = DurationPrior.from_range(120.0, 180.0)
        assert model.median == pytest.approx(146.97, abs=0.01)
        assert model.sigma == pytest.approx(0.158, abs=0.001)


class TestProgressive:
    def test_polls_after_each_interval_and_repeats_the_last(self) -> None:
        assert polls_of(Progressive(5, 5, 10, 15).timer(KEY, CLIP), 6) == [5, 10, 20, 35, 50, 65]

    def test_first_comes_before_the_intervals(self) -> None:
        assert polls_of(Progressive(5, 5, 10, 15, first=10).timer(KEY, CLIP), 6) == [10, 15, 20, 30, 45, 60]

    def test_a_late_poll_shifts_the_later_ones(self) -> None:
        assert Progressive(5, 5, 10, 15).timer(KEY, CLIP).next_poll(12.0) == 22.0

    def test_an_old_job_is_not_polled_as_if_it_were_new(self) -> None:
        assert Progressive(5, 5, 10, 15).timer(KEY, CLIP).next_poll(600.0) == 615.0

    def test_learns_nothing(self) -> None:
        schedule = Progressive(5, 15)
        before = polls_of(schedule.timer(KEY, CLIP), 9)
        schedule.timer(KEY, CLIP).observe_end(1.0, 2.0)
        schedule.timer(KEY, CLIP).observe_running(900.0)
        assert polls_of(schedule.timer(KEY, CLIP), 9) == before

    @pytest.mark.parametrize("intervals", [(), (0.0,), (5.0, -1.0), (inf,), (nan,)])
    def test_intervals_that_cannot_be_waited_are_refused(self, intervals: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="positive finite intervals"):
            Progressive(*intervals)

    def test_is_a_value(self) -> None:
        assert Progressive(5, 15, first=3) == Progressive(5, 15, first=3) != Progressive(5, 15)


class TestSurvivalCurve:
    LOGNORMAL = SurvivalCurve([(1.0, log(147.0), 0.158)])

    @pytest.mark.parametrize(("share", "score"), [(0.03, -1.8808), (0.5, 0.0), (0.97, 1.8808)])
    def test_quantiles_are_those_of_the_distribution(self, share: float, score: float) -> None:
        assert self.LOGNORMAL.quantile(share) == pytest.approx(147.0 * exp(0.158 * score), rel=2e-3)

    def test_lag_is_the_mean_of_what_a_late_poll_costs(self) -> None:
        """Against jobs drawn from the model, of those still running at 130 s."""
        random = Random(8)
        durations = [147.0 * exp(0.158 * random.gauss()) for _ in range(40_000)]
        running = [time for time in durations if time > 130.0]
        drawn = sum(max(145.0 - time, 0.0) for time in running) / len(running)
        assert self.LOGNORMAL.lag(130.0, 145.0) == pytest.approx(drawn, rel=0.03)

    @given(
        st.lists(
            st.tuples(st.floats(0.01, 1.0), st.floats(-3.0, 8.0), st.floats(0.02, 3.0)),
            min_size=1,
            max_size=5,
        ),
        st.floats(0.0, 0.97),
        st.floats(1e-3, 100.0),
    )
    def test_time_for_lag_inverts_lag(self, parts: list[tuple[float, float, float]], age: float, lag: float) -> None:
        total = sum(weight for weight, _, _ in parts)
        survival = SurvivalCurve([(weight / total, mean, sd) for weight, mean, sd in parts])
        last = survival.quantile(age)
        then = survival.time_for_lag(last, lag)
        assert then > last
        assert survival.lag(last, then) == pytest.approx(lag, rel=1e-6, abs=1e-9 * then)

    @given(st.floats(0.0, 400.0), st.floats(0.0, 400.0), st.floats(0.0, 60.0))
    def test_lag_never_falls_and_grows_by_at_most_a_second_a_second(
        self, last: float, waited: float, more: float
    ) -> None:
        """`PollQueue` finds the highest claim because of this."""
        before = self.LOGNORMAL.lag(last, last + waited)
        grown = self.LOGNORMAL.lag(last, last + waited + more) - before
        assert -1e-6 <= grown <= more + 1e-6
        assert 0.0 <= before <= last + waited - last  # as floats are added


class TestDurationModel:
    @given(st.lists(st.tuples(HOSTILE, HOSTILE), max_size=12), PRIORS)
    @example([(0.0, 0.0)] * 12, CLIP)
    @example([(inf, inf)] * 12, CLIP)
    @example([(-inf, -inf), (nan, 1.0), (1.0, nan), (5.0, 1.0), (0.0, inf)], CLIP)
    def test_no_sequence_of_ends_breaks_it(self, ends: list[tuple[float, float]], prior: DurationPrior) -> None:
        model = DurationModel(prior)
        model.observe(Observation(after, by) for after, by in ends)
        survival = model.survival
        assert isfinite(survival.median)
        assert 0 < survival.quantile(0.01) < survival.median < survival.cutoff < inf

    @given(st.lists(st.floats(0.0, 1e4), min_size=1, max_size=10), st.randoms(use_true_random=False))
    def test_the_order_of_ends_changes_nothing_but_what_is_forgotten(self, times: list[float], random: Random) -> None:
        ends = [Observation(time, time + 8.0) for time in times]
        shuffled = random.sample(ends, len(ends))
        one, other = DurationModel(CLIP, memory=1.0), DurationModel(CLIP, memory=1.0)
        one.observe(ends)
        other.observe(shuffled)
        for share in (0.03, 0.5, 0.97):
            assert one.survival.quantile(share) == pytest.approx(other.survival.quantile(share), rel=1e-6)

    @given(st.permutations(range(20)))
    @settings(max_examples=25)
    def test_the_order_of_ordinary_ends_hardly_matters_with_forgetting(self, order: list[int]) -> None:
        times = [147.0 * exp(0.158 * (place - 9.5) / 6) for place in range(20)]
        one, other = DurationModel(CLIP), DurationModel(CLIP)
        one.observe(Observation(times[place], times[place] + 8.0) for place in range(20))
        other.observe(Observation(times[place], times[place] + 8.0) for place in order)
        assert one.survival.median == pytest.approx(other.survival.median, rel=0.01)

    @pytest.mark.parametrize("wrong", [0.2, 0.5, 1.0, 2.0, 5.0])
    def test_finds_the_distribution_from_intervals_even_if_the_documents_are_wrong(self, wrong: float) -> None:
        random = Random(3)
        model = DurationModel(DurationPrior(147.0 * wrong, 0.158))
        for _ in range(100):
            polled = 15.0 * (147.0 * exp(0.158 * random.gauss()) // 15.0)
            model.observe([Observation(polled, polled + 15.0)])
        assert model.survival.median == pytest.approx(147.0, rel=0.05)
        assert model.survival.cutoff == pytest.approx(147.0 * exp(0.158 * 1.88), rel=0.08)

    def test_one_absurd_end_among_thirty_moves_the_median_by_less_than_a_percent(self) -> None:
        ends = [Observation(135.0 + place, 145.0 + place) for place in range(30)]
        plain, disturbed = DurationModel(CLIP), DurationModel(CLIP)
        plain.observe(ends)
        disturbed.observe([*ends, Observation(86_000.0, 86_400.0)])
        assert plain.survival.median != disturbed.survival.median
        assert plain.survival.median == pytest.approx(disturbed.survival.median, rel=0.01)

    def test_the_predictive_distribution_is_computed_again_after_the_first_ends_and_then_after_every_few(self) -> None:
        model = DurationModel(CLIP)
        priors = [model.survival]
        for _ in range(128):
            model.observe([Observation(140.0, 148.0)])
            priors.append(model.survival)
        made = [place for place, (before, after) in enumerate(pairwise(priors)) if before is not after]
        assert made[:8] == list(range(8))
        assert [later - sooner for sooner, later in pairwise(made[-4:])] == [8, 8, 8]

    def test_follows_a_provider_that_becomes_slower(self) -> None:
        model = DurationModel(CLIP)
        model.observe([Observation(140.0, 150.0)] * 200)
        model.observe([Observation(280.0, 300.0)] * 200)
        assert model.survival.median > 250.0

    def test_a_job_given_up_while_running_is_evidence_of_longer_ones(self) -> None:
        model = DurationModel(CLIP)
        before = model.survival.median
        model.observe([Observation(200.0, inf)] * 3)
        assert model.survival.median > 1.05 * before

    def test_an_exact_time_says_more_than_an_interval_around_it(self) -> None:
        exact, wide = DurationModel(CLIP), DurationModel(CLIP)
        exact.observe([Observation(200.0, 200.0)] * 10)
        wide.observe([Observation(150.0, 260.0)] * 10)
        spread = [model.survival.cutoff / model.survival.median for model in (exact, wide)]
        assert spread[0] < spread[1]

    def test_the_first_ends_of_a_burst_do_not_hide_that_the_rest_still_runs(self) -> None:
        """The first of many jobs to end are the short ones. What still runs corrects the belief."""
        blind, seeing = DurationModel(CLIP), DurationModel(CLIP)
        ages = [seeing.running(0, 108.0) for _ in range(95)]
        for model in (blind, seeing):
            model.observe([Observation(92.0, 100.0), Observation(92.0, 100.0), *[Observation(100.0, 108.0)] * 3])
        assert blind.survival.median < 113.0
        assert seeing.survival.median > 123.0
        for age in ages:
            seeing.running(age, 0.0)
        seeing.observe([Observation(100.0, 108.0)])
        blind.observe([Observation(100.0, 108.0)])
        assert seeing.survival.median == pytest.approx(blind.survival.median, rel=1e-9)


class TestLearned:
    @given(PRIORS, LAMBDAS, st.lists(st.tuples(HOSTILE, HOSTILE), max_size=6), st.lists(SECONDS, max_size=20))
    def test_steps_stay_within_their_clamps(
        self, prior: DurationPrior, lag_per_poll: float, ends: list[tuple[float, float]], ages: list[float]
    ) -> None:
        schedule = Learned(lag_per_poll)
        for after, by in ends:
            schedule.timer(KEY, prior).observe_end(after, by)
        model = DurationModel(prior)
        model.observe(Observation(after, by) for after, by in ends)
        survival = model.survival
        timer = schedule.timer(KEY, prior)
        first = timer.next_poll(0.0)
        assert first <= max(survival.cutoff, 15.0, survival.median / 8) * (1 + 1e-9)
        for last in [0.0, *ages]:
            then = timer.next_poll(last)
            assert then >= last + 0.5
            assert then <= max(first, last + max(15.0, survival.median / 8)) * (1 + 1e-9)

    @given(HOSTILE)
    def test_ends_and_abandonments_of_any_value_are_taken(self, seconds: float) -> None:
        schedule = Learned()
        schedule.timer(KEY, CLIP).observe_running(seconds)
        schedule.timer(KEY, CLIP).observe_end(seconds, seconds)
        assert all(isfinite(poll) for poll in polls_of(schedule.timer(KEY, CLIP), 30))
        json.dumps(schedule.state(), allow_nan=False)

    @given(st.floats(0.0, 3000.0), st.floats(0.0, 3000.0), st.floats(0.0, 100.0))
    def test_a_priority_never_falls_and_grows_by_at_most_a_second_a_second(
        self, last: float, waited: float, more: float
    ) -> None:
        timer = Learned().timer(KEY, CLIP)
        grown = timer.expected_lag(last, last + waited + more) - timer.expected_lag(last, last + waited)
        assert -1e-6 <= grown <= more + 1e-6

    @pytest.mark.parametrize("last", [0.0, 100.0, 200.0, 500.0, 5000.0])
    def test_a_job_is_due_when_its_priority_is_lambda(self, last: float) -> None:
        timer = Learned(0.5).timer(KEY, CLIP)
        assert timer.expected_lag(last, timer.next_poll(last)) == pytest.approx(0.5, rel=1e-3)

    def test_past_the_97th_percentile_steps_grow_by_a_third_to_15_s(self) -> None:
        timer = Learned().timer(KEY, CLIP)
        polls = [poll for poll in polls_of(timer, 60) if poll > 1.1 * CLIP.median * exp(4 * 0.3)]
        assert {round(later - sooner, 6) for sooner, later in pairwise(polls)} == {15.0}
        guard = DurationModel(CLIP).survival.cutoff
        second = timer.next_poll(timer.next_poll(guard))
        assert (second - timer.next_poll(guard)) / (timer.next_poll(guard) - guard) == pytest.approx(1.3)

    def test_a_poll_out_of_turn_does_not_bring_the_first_one_forward(self) -> None:
        timer = Learned().timer(KEY, CLIP)
        assert timer.next_poll(3.0) == pytest.approx(timer.next_poll(0.0), rel=0.02)

    def test_a_larger_lag_per_poll_means_fewer_polls(self) -> None:
        numbers = [len(polls_until(Learned(price).timer(KEY, CLIP), 147.0)) for price in (0.05, 0.5, 5.0)]
        assert numbers[0] > numbers[1] > numbers[2] >= 1

    @pytest.mark.parametrize("wrong", [0.5, 1.0, 2.0])
    def test_after_twenty_ends_halves_the_polls_and_the_lag_of_the_documented_schedule(self, wrong: float) -> None:
        """The figure that `benchmarks/cadence` measures in full."""
        random = Random(5)
        durations = [147.0 * exp(0.158 * random.gauss()) for _ in range(320)]
        schedule, prior = Learned(0.5), DurationPrior(147.0 * wrong, 0.158)
        ours = [(len(polls), polls[-1] - ended) for ended in durations for polls in [poller(schedule, ended, prior)]]
        documented = Progressive(5, 5, 10, 15).timer(KEY, CLIP)
        theirs = [(len(polls), polls[-1] - end) for end in durations for polls in [polls_until(documented, end)]]
        polls, lag = (sum(column) for column in zip(*ours[20:], strict=True))
        their_polls, their_lag = (sum(column) for column in zip(*theirs[20:], strict=True))
        assert polls <= 0.57 * their_polls
        assert lag <= 0.5 * their_lag

    def test_each_variant_learns_on_its_own(self) -> None:
        schedule = Learned()
        poller(schedule, 80.0)
        fresh = Learned().timer("another", CLIP).next_poll(0.0)
        assert schedule.timer("another", CLIP).next_poll(0.0) == fresh
        assert schedule.timer(KEY, CLIP).next_poll(0.0) < fresh

    def test_a_dropped_job_is_no_evidence(self) -> None:
        dropped, clean = Learned(), Learned()
        for _ in range(50):
            dropped.timer(KEY, CLIP).next_poll(250.0)
        for schedule in (dropped, clean):
            schedule.timer(KEY, CLIP).observe_end(140.0, 145.0)
        assert dropped.timer(KEY, CLIP).next_poll(0.0) == clean.timer(KEY, CLIP).next_poll(0.0)

    @pytest.mark.parametrize("lag_per_poll", [0.0, -1.0, inf, nan])
    def test_a_lag_per_poll_that_is_no_time_is_refused(self, lag_per_poll: float) -> None:
        with pytest.raises(ValueError, match="lag_per_poll"):
            Learned(lag_per_poll)


class TestState:
    def test_survives_json_and_starts_where_it_stopped(self) -> None:
        schedule = Learned()
        for ended in (90.0, 95.0, 100.0, 105.0):
            poller(schedule, ended)
        schedule.timer(KEY, CLIP).observe_running(130.0)
        state = json.loads(json.dumps(schedule.state(), allow_nan=False))
        restored = Learned()
        restored.restore(state)
        assert restored.state() == state
        there, here = (one.timer(KEY, CLIP) for one in (schedule, restored))
        assert polls_of(here, 10) == pytest.approx(polls_of(there, 10), rel=1e-3)

    def test_is_small_however_many_jobs_there_were(self) -> None:
        schedule = Learned()
        for place in range(300):
            schedule.timer(KEY, CLIP).observe_end(140.0 + place % 9, 150.0 + place % 9)
        assert len(json.dumps(schedule.state())) < 1500
        restored = Learned()
        restored.restore(schedule.state())
        there, here = (one.timer(KEY, CLIP) for one in (schedule, restored))
        assert polls_of(here, 10) == pytest.approx(polls_of(there, 10), rel=0.03)

    def test_what_several_have_learned_adds_up(self) -> None:
        first, second = Learned(), Learned()
        for schedule in (first, second):
            schedule.restore({"version": 1, "ends": {KEY: [[1.0, 2.0]], "another": [[3.0, 4.0]]}})
        first.timer(KEY, CLIP).observe_end(90.0, 95.0)
        second.timer(KEY, CLIP).observe_end(100.0, 105.0)
        second.timer("third", CLIP).observe_running(7.0)
        stored = merged({"version": 1, "ends": {KEY: [[1.0, 2.0]], "another": [[3.0, 4.0]]}}, first.new_state())
        stored = merged(stored, second.new_state())
        assert stored["ends"] == {
            KEY: [[1.0, 2.0], [90.0, 95.0], [100.0, 105.0]],
            "another": [[3.0, 4.0]],
            "third": [[7.0, None]],
        }
        second.forget_new()
        assert second.new_state() == {"version": 1, "ends": {}}
        for place in range(100):
            first.timer(KEY, CLIP).observe_end(place, place + 1.0)
        assert merged(stored, first.new_state())["ends"][KEY] == [[float(n), n + 1.0] for n in range(36, 100)]

    @pytest.mark.parametrize("stored", [None, 3, {}, {"version": 2, "ends": {KEY: []}}, {"version": 1, "ends": 5}])
    def test_what_cannot_be_added_to_is_replaced(self, stored: object) -> None:
        new = {"version": 1, "ends": {KEY: [[1.0, 2.0]]}}
        assert merged(stored, new) == new

    def test_does_not_replace_what_was_learned_here(self) -> None:
        schedule = Learned()
        poller(schedule, 147.0)
        before = schedule.state()
        schedule.restore({"version": 1, "ends": {KEY: [[1.0, 2.0]]}})
        assert schedule.state() == before

    @pytest.mark.parametrize(
        "state",
        [
            {},
            {"version": 2, "ends": {KEY: [[1.0, 2.0]]}},
            {"version": 1, "ends": [1, 2]},
            {"version": 1, "ends": {KEY: None}},
            {"version": 1, "ends": {KEY: [1, None, "x", [1], [None, 2], ["a", "b"], [nan, 1.0], [0, None]]}},
        ],
    )
    def test_what_cannot_be_read_is_ignored(self, state: dict[str, object]) -> None:
        schedule = Learned()
        schedule.restore(state)
        assert schedule.timer(KEY, CLIP).next_poll(0.0) == Learned().timer(KEY, CLIP).next_poll(0.0)


@dataclass
class Runner(Generic[NameT]):
    """A job in a queue."""

    name: NameT
    timer: PollTimer
    submitted: float
    last: float | None = None
    queue_number: int | None = None

    def due(self) -> float:
        return self.submitted + self.timer.next_poll(self._looked)

    def priority(self, now: float) -> float:
        return self.timer.expected_lag(self._looked, now - self.submitted)

    @property
    def _looked(self) -> float:
        return (self.submitted if self.last is None else self.last) - self.submitted


def popped(queue: PollQueue[Runner[NameT]], now: float) -> NameT | None:
    winner = queue.pop_most_urgent(now)
    return None if winner is None else winner.name


class TestPollQueue:
    def test_no_job_is_due_before_its_next_poll(self) -> None:
        queue = PollQueue[Runner[str]]()
        timer = Progressive(10).timer(KEY, CLIP)
        queue.enter(Runner("late", timer, submitted=5.0))
        queue.enter(Runner("early", timer, submitted=0.0))
        assert queue.next_due() == 10.0
        assert popped(queue, 9.9) is None
        assert [popped(queue, 10.0), popped(queue, 10.0)] == ["early", None]
        assert queue.next_due() == 15.0
        assert len(queue) == 1

    def test_an_empty_queue_is_never_due(self) -> None:
        assert PollQueue[Runner[str]]().next_due() == inf
        assert PollQueue[Runner[str]]().pop_most_urgent(1e9) is None

    def test_the_job_near_its_end_goes_before_the_one_that_waited_longer(self) -> None:
        schedule = Learned()
        queue = PollQueue[Runner[str]]()
        queue.enter(Runner("young", schedule.timer(KEY, CLIP), submitted=70.0))
        queue.enter(Runner("ripe", schedule.timer(KEY, CLIP), submitted=0.0, last=100.0))
        assert [popped(queue, 200.0), popped(queue, 200.0)] == ["ripe", "young"]

    def test_price_is_the_priority_of_the_last_job(self) -> None:
        queue = PollQueue[Runner[str]]()
        timer = Learned(0.5).timer(KEY, CLIP)
        queue.enter(Runner("job", timer, submitted=1000.0))
        assert popped(queue, 1000.0 + timer.next_poll(0.0)) == "job"
        assert queue.price == pytest.approx(0.5, rel=1e-6)

    def test_a_job_that_left_is_not_polled(self) -> None:
        queue = PollQueue[Runner[str]]()
        timer = Progressive(1).timer(KEY, CLIP)
        one, two = (Runner(name, timer, submitted=0.0) for name in ("one", "two"))
        queue.enter(one)
        queue.enter(two)
        queue.leave(one)
        queue.leave(Runner("unknown", timer, 0.0))
        assert [popped(queue, 5.0), popped(queue, 5.0)] == ["two", None]
        assert queue.next_due() == inf

    def test_entering_again_replaces(self) -> None:
        queue = PollQueue[Runner[str]]()
        runner = Runner("one", Progressive(1).timer(KEY, CLIP), submitted=0.0)
        for _ in range(2):
            queue.enter(runner)
        assert [popped(queue, 5.0), popped(queue, 5.0)] == ["one", None]

    def test_a_priority_that_jumped_counts_when_the_job_enters_again(self) -> None:
        """As the poller does for a job whose deadline has passed."""

        class Urgent:
            def next_poll(self, last: float) -> float:
                return last

            def expected_lag(self, last: float, now: float) -> float:
                return inf

            def observe_end(self, after: float, by: float) -> None: ...
            def observe_running(self, at: float) -> None: ...

        queue = PollQueue[Runner[int]]()
        runners = [Runner(job, Progressive(1).timer(KEY, CLIP), submitted=float(job)) for job in range(20)]
        for runner in runners:
            queue.enter(runner)
        assert popped(queue, 100.0) == 0
        runners[19].timer, runners[19].last = Urgent(), 60.0
        queue.enter(runners[19])
        assert popped(queue, 100.0) == 19
        assert popped(queue, 100.0) == 1

    def test_jobs_that_come_and_go_leave_nothing_behind(self) -> None:
        queue = PollQueue[Runner[int]]()
        for job in range(1000):
            runner = Runner(job, Progressive(1).timer(KEY, CLIP), submitted=0.0)
            queue.enter(runner)
            queue.leave(runner)
        assert len(queue) == 0
        assert len(queue._waiting) + len(queue._due) <= 64
        assert len(queue._jobs) <= 64

    def test_numbers_that_are_used_again_mix_up_no_jobs(self) -> None:
        dice = Random(11)
        queue = PollQueue[Runner[int]]()
        runners = [Runner(job, Progressive(3).timer(KEY, CLIP), submitted=0.0) for job in range(60)]
        inside: set[int] = set()
        for step in range(4_000):
            now = step / 10
            runner = dice.choice(runners)
            if dice.random() < 0.6:
                runner.last = now
                queue.enter(runner)
                inside.add(runner.name)
            else:
                queue.leave(runner)
                inside.discard(runner.name)
            for found in filter(None, [queue.pop_most_urgent(now), *queue.pop_batch(now, step % 3)]):
                assert found.due() <= now
                inside.remove(found.name)
            assert len(queue) == len(inside)
            assert {each.name for each in queue} == inside
            assert queue.next_due() in (-inf, min((runners[name].due() for name in inside), default=inf))
        assert len(queue._jobs) <= 60 * 2 + 16

    def test_a_batch_has_the_jobs_that_are_due_earliest_and_takes_them_out(self) -> None:
        queue = PollQueue[Runner[int]]()
        for job in range(6):
            queue.enter(Runner(job, Progressive(10).timer(KEY, CLIP), submitted=float(job)))
        assert popped(queue, 10.0) == 0
        assert [each.name for each in queue.pop_batch(13.0, room=2)] == [1, 2]
        assert [each.name for each in queue.pop_batch(13.0, room=9)] == [3]
        assert queue.pop_most_urgent(15.0) is not None
        assert len(queue.pop_batch(15.0, room=9)) == 1
        assert len(queue) == 0

    @given(
        st.lists(st.tuples(st.floats(0.0, 300.0), st.floats(0.0, 1.0)), min_size=1, max_size=30),
        st.lists(st.floats(0.0, 20.0), min_size=1, max_size=30),
    )
    def test_each_poll_goes_to_the_highest_priority(self, jobs: list[tuple[float, float]], gaps: list[float]) -> None:
        """The lazy heap agrees with asking every job, whatever the moments of asking."""
        schedule = Learned()
        queue = PollQueue[Runner[int]]()
        bids: dict[int, tuple[PollTimer, float, float]] = {}
        for job, (age, polled) in enumerate(jobs):
            timer = schedule.timer(KEY, CLIP)
            submitted, last = 300.0 - age, 300.0 - age * polled
            queue.enter(Runner(job, timer, submitted=submitted, last=last))
            bids[job] = timer, submitted, last
        for now in accumulate(gaps, initial=300.0):
            claims = {
                job: timer.expected_lag(last - submitted, now - submitted)
                for job, (timer, submitted, last) in bids.items()
                if submitted + timer.next_poll(last - submitted) <= now
            }
            winner = popped(queue, now)
            assert (winner is None) == (not claims)
            if winner is not None:
                assert claims[winner] == pytest.approx(max(claims.values()), abs=1e-6)
                assert queue.price == pytest.approx(claims[winner])
                del bids[winner]

    def test_every_job_is_polled_when_polls_are_far_too_few(self) -> None:
        """200 endless jobs, each under a model of its own, one poll a second: no one waits for two rounds."""
        queue = PollQueue[Runner[int]]()
        timers = [Learned().timer(KEY, CLIP) for _ in range(200)]
        for job, timer in enumerate(timers):
            queue.enter(Runner(job, timer, submitted=float(job % 40)))
        last: dict[int, float] = {}
        for now in range(300, 3000):
            winner = popped(queue, float(now))
            assert winner is not None
            assert now - last.get(winner, 300.0) <= 400.0
            last[winner] = float(now)
            queue.enter(Runner(winner, timers[winner], submitted=float(winner % 40), last=float(now)))
        assert len(last) == 200
        assert min(last.values()) > 2400

    def test_few_priorities_are_computed_per_poll(self) -> None:
        """1 000 jobs, all due: finding the highest claim does not ask each of them."""
        asked = 0

        class Counting:
            def __init__(self, timer: PollTimer) -> None:
                self._cadence = timer

            def next_poll(self, last: float) -> float:
                return self._cadence.next_poll(last)

            def expected_lag(self, last: float, now: float) -> float:
                nonlocal asked
                asked += 1
                return self._cadence.expected_lag(last, now)

            def observe_end(self, after: float, by: float) -> None: ...
            def observe_running(self, at: float) -> None: ...

        schedule = Learned()
        random = Random(1)
        queue = PollQueue[Runner[int]]()
        for job in range(1000):
            queue.enter(Runner(job, Counting(schedule.timer(KEY, CLIP)), submitted=random.uniform(0.0, 200.0)))
        assert popped(queue, 400.0) is not None
        asked = 0
        for second in range(500):
            assert popped(queue, 400.0 + second) is not None
        assert asked < 500 * 20
