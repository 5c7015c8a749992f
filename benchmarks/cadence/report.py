"""The results as Markdown tables, the targets among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cadence.durations import CLIPS, DISTRIBUTIONS
from benchmarks.cadence.study import CHECKPOINTS, CONGESTED, LAMBDA, POLLS_PER_MINUTE, PRIORS, Cost, RateLimited

_INTRODUCTION = f"""\
Made by `{{command}}`: the library's own poller in virtual time, seeded, without network. Figures are polls per job /
mean lag / 95th percentile of the lag, in seconds from a job's end to its detection. Cost is lag + {LAMBDA:g} s
per poll."""

_ABOUT_LEARNING = """\
Polls / mean lag, and in brackets the cost as a part of the cost of the source documents' schedule, and of the
optimum's. The prior is the median in the provider's documents: right, or half or double of the true one."""

_ABOUT_RATE_LIMITS = """\
One poll a second can see at most one end a second, so from about 150 clips of 5 s on the rate limit decides:
more jobs in flight only add lag, in any order. Webhooks need no polls. In a burst all jobs have one age, so there
is no better job to poll: the order hardly matters there, and what `Learned` saves is polls."""

_ABOUT_ARITHMETIC = (
    "CPU time of the rule itself on the machine that made this report, with 100 jobs running under one distribution."
)


@dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        fixed: By (distribution, share of congested jobs), then by schedule.
        learned: By (distribution, share of congested jobs, prior), then by completions.
        kept: By the number of jobs kept in flight.
        bursts: By the number of jobs submitted at once.
        arithmetic: CPU time in microseconds, by what was done.
    """

    fixed: Mapping[tuple[str, float], dict[str, Cost]]
    learned: Mapping[tuple[str, float, str], dict[int, Cost]]
    kept: Mapping[int, RateLimited]
    bursts: Mapping[int, RateLimited]
    arithmetic: Mapping[str, float]

    def against_source(self, distribution: str, congested: float, prior: str, done: int) -> float:
        """Cost of `Learned` over that of the source documents' schedule."""
        return (
            self.learned[distribution, congested, prior][done].total
            / self.fixed[distribution, congested]["source documents"].total
        )

    def regret(self, distribution: str, congested: float, prior: str, done: int) -> float:
        """Cost of `Learned` over that of the optimum."""
        return (
            self.learned[distribution, congested, prior][done].total
            / self.fixed[distribution, congested]["optimum"].total
        )


def markdown(results: Results, command: str) -> str:
    """The whole report."""
    return "\n".join(
        [
            "# When to poll",
            "",
            _INTRODUCTION.format(command=command),
            "",
            "## Schedules",
            "",
            *_schedules(results, 0.0),
            "",
            f"With {CONGESTED:.0%} of the jobs taking three times as long (the optimum knows that):",
            "",
            *_schedules(results, CONGESTED),
            "",
            "## Learning",
            "",
            _ABOUT_LEARNING,
            "",
            *_learning(results),
            "",
            "## Under a rate limit",
            "",
            f"5 s clips, {POLLS_PER_MINUTE:g} polls a minute for all of them, `Learned` starting from the documents.",
            "",
            *_rate_limits(results.kept, "kept in flight"),
            "",
            *_rate_limits(results.bursts, "submitted at once"),
            "",
            _ABOUT_RATE_LIMITS,
            "",
            "## What it costs to think",
            "",
            _ABOUT_ARITHMETIC,
            "",
            *_table(("microseconds", "measured"), ((what, f"{cost:.0f}") for what, cost in results.arithmetic.items())),
            "",
            "## Targets",
            "",
            *_table(
                ("target", "measured", "holds"),
                ((t.what, t.measured, "yes" if t.holds else "**no**") for t in targets(results)),
            ),
            "",
        ]
    )


@dataclass(frozen=True)
class Target:
    """Something that was to be shown."""

    what: str
    measured: str
    holds: bool


def targets(results: Results) -> list[Target]:
    """What issue and performance plan ask for, and what was measured."""
    source = {distribution: results.fixed[distribution, 0.0]["source documents"] for distribution in CLIPS}
    after20 = {distribution: results.learned[distribution, 0.0, "right"][20] for distribution in CLIPS}
    # The plan's own count of the source schedule's polls has one more, at once after the submission.
    polls = max(after20[distribution].polls / (source[distribution].polls + 1) for distribution in CLIPS)
    strict = max(after20[distribution].polls / source[distribution].polls for distribution in CLIPS)
    lag = max(after20[distribution].lag / source[distribution].lag for distribution in CLIPS)
    regret = max(results.regret(distribution, 0.0, "right", 20) for distribution in CLIPS)
    worst = max(
        results.against_source(distribution, congested, prior, done)
        for distribution, congested, prior in results.learned
        for done in CHECKPOINTS
    )
    found = [
        Target(
            "video distributions, 20 completions: polls <= 0.55 of the source documents' (which poll at once, too)",
            f"{polls:.2f} at most ({strict:.2f} if they do not)",
            polls <= 0.55,
        ),
        Target("and lag <= 0.7 of theirs", f"{lag:.2f} at most", lag <= 0.7),
        Target("and regret against the optimum <= 1.05", f"{regret:.3f} at most", regret <= 1.05),
        Target(
            "cost never above the source documents', any distribution, prior, congestion, from the first job on",
            f"{worst:.2f} at most",
            worst <= 1.0,
        ),
    ]
    for number, row in results.kept.items():
        bound = {50: 0.4, 100: 0.4, 150: 0.5}.get(number, 1.0)
        ratio = row.learned.lag / row.round_robin.lag
        found.append(
            Target(
                f"{number} kept in flight: lag <= {bound:g} of round robin", f"{ratio:.3f}", round(ratio, 3) <= bound
            )
        )
    found += [
        Target(f"{what}: under {bound:g} us", f"{cost:.0f}", cost < bound)
        for (what, cost), bound in zip(results.arithmetic.items(), (20, 20, 1000), strict=True)
    ]
    return found


def _schedules(results: Results, congested: float) -> Iterable[str]:
    names = results.fixed[next(iter(DISTRIBUTIONS)), congested]
    rows = [
        (name, *(_full(results.fixed[distribution, congested][name]) for distribution in DISTRIBUTIONS))
        for name in names
    ]
    rows += [
        (
            f"`Learned`, {done} completions",
            *(_full(results.learned[distribution, congested, "right"][done]) for distribution in DISTRIBUTIONS),
        )
        for done in (0, 1, 5, 20, 100)
    ]
    return _table(("schedule", *DISTRIBUTIONS), rows)


def _learning(results: Results) -> Iterable[str]:
    rows = []
    for distribution, congested, prior in results.learned:
        cells = (
            f"{cost.polls:.1f} / {cost.lag:.1f} ({results.against_source(distribution, congested, prior, done):.2f}, "
            f"{results.regret(distribution, congested, prior, done):.2f})"
            for done, cost in results.learned[distribution, congested, prior].items()
        )
        rows.append((f"{distribution}{', congested' if congested else ''}", f"{prior} ({PRIORS[prior]:g})", *cells))
    return _table(("distribution", "prior", *(f"after {done}" for done in CHECKPOINTS)), rows)


def _rate_limits(rows: Mapping[int, RateLimited], how: str) -> Iterable[str]:
    return _table(
        (how, "round robin", "`Learned`", "clairvoyant", "lag, ours / round robin"),
        (
            (
                str(number),
                _full(row.round_robin),
                _full(row.learned),
                _full(row.clairvoyant),
                f"{row.learned.lag / row.round_robin.lag:.2f}",
            )
            for number, row in rows.items()
        ),
    )


def _full(cost: Cost) -> str:
    return (
        f"{cost.polls:.1f} / {cost.lag:.2g} / {cost.late:.2g}"
        if cost.late < 1
        else (f"{cost.polls:.1f} / {cost.lag:.1f} / {cost.late:.1f}")
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
