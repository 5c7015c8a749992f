"""The results as Markdown tables, the targets among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cadence.durations import CLIPS, LAWS
from benchmarks.cadence.study import CHECKPOINTS, CONGESTED, LAMBDA, LOOKS_PER_MINUTE, PRIORS, Cost, Rationed

_INTRODUCTION = f"""\
Made by `{{command}}`: the library's own poller in virtual time, seeded, without network. Figures are looks per job /
mean lag / 95th percentile of the lag, in seconds from the end of a job to our hearing of it. Cost is lag + {LAMBDA:g} s
per look."""

_ABOUT_LEARNING = """\
Looks / mean lag, and in brackets the cost as a part of the cost of the source documents' schedule, and of the
optimum's. The prior is the median in the provider's documents: right, or half or double of the true one."""

_ABOUT_RATIONS = """\
One look a second can see at most one end a second, so from about 150 clips of 5 s on the ration itself is the limit:
more jobs in flight only add lag, whoever looks. Webhooks need no looks. In a burst all jobs are of one age, so there
is no better job to look at: the order hardly matters there, and what `Learned` saves is looks."""

_ABOUT_ARITHMETIC = (
    "CPU time of the rule itself on the machine that made this report, with 100 jobs running under one law."
)


@dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        fixed: By (law, share of congested jobs), then by schedule.
        learned: By (law, share of congested jobs, prior), then by completions.
        kept: By the number of jobs kept in flight.
        bursts: By the number of jobs submitted at once.
        arithmetic: CPU time in microseconds, by what was done.
    """

    fixed: Mapping[tuple[str, float], dict[str, Cost]]
    learned: Mapping[tuple[str, float, str], dict[int, Cost]]
    kept: Mapping[int, Rationed]
    bursts: Mapping[int, Rationed]
    arithmetic: Mapping[str, float]

    def against_source(self, law: str, congested: float, prior: str, done: int) -> float:
        """Cost of `Learned` over that of the source documents' schedule."""
        return self.learned[law, congested, prior][done].total / self.fixed[law, congested]["source documents"].total

    def regret(self, law: str, congested: float, prior: str, done: int) -> float:
        """Cost of `Learned` over that of the optimum."""
        return self.learned[law, congested, prior][done].total / self.fixed[law, congested]["optimum"].total


def markdown(results: Results, command: str) -> str:
    """The whole report."""
    return "\n".join(
        [
            "# When to look",
            "",
            _INTRODUCTION.format(command=command),
            "",
            "## Schedules",
            "",
            *_schedules(results, 0.0),
            "",
            f"With {CONGESTED:.0%} of the jobs held up by a factor of three (the optimum knows that):",
            "",
            *_schedules(results, CONGESTED),
            "",
            "## Learning",
            "",
            _ABOUT_LEARNING,
            "",
            *_learning(results),
            "",
            "## Under a ration",
            "",
            f"5 s clips, {LOOKS_PER_MINUTE:g} looks a minute for all of them, `Learned` starting from the documents.",
            "",
            *_rations(results.kept, "kept in flight"),
            "",
            *_rations(results.bursts, "submitted at once"),
            "",
            _ABOUT_RATIONS,
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
    source = {law: results.fixed[law, 0.0]["source documents"] for law in CLIPS}
    after20 = {law: results.learned[law, 0.0, "right"][20] for law in CLIPS}
    # The plan's own count of the source schedule's looks has one more, at once after the submission.
    looks = max(after20[law].looks / (source[law].looks + 1) for law in CLIPS)
    strict = max(after20[law].looks / source[law].looks for law in CLIPS)
    lag = max(after20[law].lag / source[law].lag for law in CLIPS)
    regret = max(results.regret(law, 0.0, "right", 20) for law in CLIPS)
    worst = max(
        results.against_source(law, congested, prior, done)
        for law, congested, prior in results.learned
        for done in CHECKPOINTS
    )
    found = [
        Target(
            "video laws, 20 completions: looks <= 0.55 of the source documents' (which look at once, too)",
            f"{looks:.2f} at most ({strict:.2f} if they do not)",
            looks <= 0.55,
        ),
        Target("and lag <= 0.7 of theirs", f"{lag:.2f} at most", lag <= 0.7),
        Target("and regret against the optimum <= 1.05", f"{regret:.3f} at most", regret <= 1.05),
        Target(
            "cost never above the source documents', any law, prior, congestion, from the first job on",
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
    names = results.fixed[next(iter(LAWS)), congested]
    rows = [(name, *(_full(results.fixed[law, congested][name]) for law in LAWS)) for name in names]
    rows += [
        (f"`Learned`, {done} completions", *(_full(results.learned[law, congested, "right"][done]) for law in LAWS))
        for done in (0, 1, 5, 20, 100)
    ]
    return _table(("schedule", *LAWS), rows)


def _learning(results: Results) -> Iterable[str]:
    rows = []
    for law, congested, prior in results.learned:
        cells = (
            f"{cost.looks:.1f} / {cost.lag:.1f} ({results.against_source(law, congested, prior, done):.2f}, "
            f"{results.regret(law, congested, prior, done):.2f})"
            for done, cost in results.learned[law, congested, prior].items()
        )
        rows.append((f"{law}{', congested' if congested else ''}", f"{prior} ({PRIORS[prior]:g})", *cells))
    return _table(("law", "prior", *(f"after {done}" for done in CHECKPOINTS)), rows)


def _rations(rows: Mapping[int, Rationed], how: str) -> Iterable[str]:
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
        f"{cost.looks:.1f} / {cost.lag:.2g} / {cost.late:.2g}"
        if cost.late < 1
        else (f"{cost.looks:.1f} / {cost.lag:.1f} / {cost.late:.1f}")
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
