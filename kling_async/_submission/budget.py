"""A limit on what a client spends: reserved before each paid call, replaced by what the provider reports.

Theory of operation
-------------------
Before a submission is sent, its expected cost is *reserved*: the documented price, or what the provider took for the
same settings before if that was more. A submission that does not fit into what is left is not sent. The answer replaces
the reservation by the cost that the provider reports. The reservation is released if the call was refused or not sent,
or if the job failed and the provider refunds failed jobs. A submission whose outcome is unknown stays reserved, because
it may have bought something.

If a price is not known, twice its estimate is reserved, or `FALLBACK_PRICE` where there is no estimate. Such jobs are
submitted one at a time, until the first answer reports the price. So the sum never exceeds the limit, however many
submissions are under way, unless a provider takes more for a job than it documents or took before, or than this.

A submission that does not fit waits while answers are on the way that may make room. It fails when none can.

With a ledger that several processes share, the ledger keeps the sums, for all of them (see `_ledger.charges`). Then the
claim of the key reserves, in the very transaction, and what a process knows here is what the ledger told it last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import anyio

from kling_async._errors import BudgetExceeded, ConfigurationError, Remedy
from kling_async._event_loop.turns import cooperative_map
from kling_async._ledger.protocol import Balance, Charge, SharedLedger, SpendingGroup, Submission
from kling_async._models import Cost, JobRef, Status
from kling_async._submission.pricing import _ZERO, Amount, PriceInfo, Unit, _amount, _at_least, as_cost

__all__ = ["Budget", "BudgetAccount", "BudgetStatistics", "Reservation", "account_of", "as_charge"]

_LOOK_AGAIN = 0.25  # s between two looks at what other processes have left, while a submission waits for that


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    """The state of a budget, with one entry per unit.

    Attributes:
        spent: What providers took, as far as they report it, without what was refunded.
        reserved: Estimates: of submissions under way, of jobs whose price is not reported yet, and of submissions whose
            outcome is unknown.
        left: What may still be spent. Units without a limit have no entry.
    """

    spent: tuple[Cost, ...]
    reserved: tuple[Cost, ...]
    left: tuple[Cost, ...]


@dataclass(slots=True, eq=False, repr=False)
class Reservation:
    """A part of the budget that is set aside for one submission."""

    attempt_id: str
    price: PriceInfo
    unit: Unit
    amount: Decimal
    pending: bool
    """Whether its answer is on the way, which may make room."""
    reported: bool = False
    """Whether the provider reported the amount."""
    guessed: bool = False
    """Whether the amount is the fallback, because the price is not known."""


@dataclass(slots=True)
class UnitBalance:
    """The limit in one unit, and what is spent and reserved."""

    limit: Decimal
    spent: Decimal = _ZERO
    reserved: Decimal = _ZERO
    pending: Decimal = _ZERO
    """The part of `reserved` whose answers are on the way."""
    guesses: int = 0
    """Answers on the way that will report a price that is not known."""

    @property
    def left(self) -> Decimal:
        return self.limit - self.spent - self.reserved

    @property
    def reachable(self) -> Decimal:
        """What could be left when all answers are in."""
        return self.left + self.pending

    def take(self, balance: Balance) -> None:
        """Take over what all processes have spent and reserved."""
        self.spent, self.reserved = balance.spent, balance.reserved
        self.pending, self.guesses = balance.pending, balance.guesses

    def add(self, reservation: Reservation, sign: int) -> None:
        """Add a reservation (1), or remove it (-1)."""
        if reservation.reported:
            self.spent += sign * reservation.amount
        else:
            self.reserved += sign * reservation.amount
        if reservation.pending:
            self.guesses += sign * reservation.guessed
            self.pending += sign * reservation.amount


class Budget:
    """How much a client may spend: ``Client(budget=Budget(usd=5, credits=200))``. It belongs to one client.

    A unit that is not named may not be spent at all. ``math.inf`` sets no limit to it. With a ledger, what earlier runs
    spent counts, at all providers, so that an interrupted run that is continued stays within the same budget. Where
    several processes share the ledger, what all of them spend and reserve counts, and each has the limit of its own
    budget: two with ``Budget(usd=1)`` spend one dollar together.

    Args:
        usd: US dollars.
        credits: Credits.
        max_per_job: The most that one job may cost: an amount in US dollars (in credits, if only these are named), or a
            `Cost`. A job of another unit is refused. Alone, it sets no limit to the sum.
        assume: What one job costs where no price is known, by the full name of the endpoint or by the provider's name:
            ``{"replicate/kling-o1": 1.2}``. Without it, a careful guess is reserved until the provider reports a cost.

    Raises:
        ConfigurationError: An amount is not a number, or is negative.
    """

    def __init__(
        self,
        usd: Amount | None = None,
        credits: Amount | None = None,  # noqa: A002  # the word users know
        *,
        max_per_job: Amount | Cost | None = None,
        assume: Mapping[str, Amount] | None = None,
    ) -> None:
        unit: Unit = "credits" if credits is not None and usd is None else "USD"
        most = None if max_per_job is None else as_cost("Budget", "max_per_job", max_per_job, unit)
        if most is not None and usd is None and credits is None:
            usd, credits = (math.inf, None) if most.unit == "USD" else (None, math.inf)  # noqa: A001  # the same word
        assumed = {name: as_cost("Budget", f"assume[{name!r}]", price).amount for name, price in (assume or {}).items()}
        self._account = BudgetAccount(usd, credits, max_per_job=most, assumed=assumed)

    def __repr__(self) -> str:
        return f"<Budget {self._account}>"

    def statistics(self) -> BudgetStatistics:
        """What is spent, reserved and left."""
        return self._account.statistics()


def account_of(budget: Budget) -> BudgetAccount:
    """Return the account that the library keeps behind a budget."""
    return budget._account  # noqa: SLF001  # both are of this module


def as_charge(
    wanted: PriceInfo, expected: Cost | None = None, *, guessed: bool = False, limit: Decimal | None = None
) -> Charge:
    """What a submission counts for in a shared ledger.

    Args:
        wanted: Its price, as far as it is known.
        expected: What it is expected to cost. If None, the documented price, or what is reserved where there is none.
        guessed: Whether that is a guess.
        limit: What all submissions may come to.
    """
    if expected is None:
        expected = Cost(wanted.reserve if wanted.price is None else wanted.price, wanted.unit)
    return Charge(expected, wanted.price, wanted.refunds, guessed, limit)


class BudgetAccount:
    """Reserves, counts and learns what submissions cost.

    Args:
        usd: The limit in US dollars.
        credits: The limit in credits.
        max_per_job: The most that one job may cost. If None, there is no limit.
        assumed: What one job costs where no price is known, by endpoint or provider.

    Raises:
        ConfigurationError: An amount is not a number, or is negative.
    """

    def __init__(
        self,
        usd: Amount | None = None,
        credits: Amount | None = None,  # noqa: A002  # the word users know
        *,
        max_per_job: Cost | None = None,
        assumed: Mapping[str, Decimal] | None = None,
    ) -> None:
        self.max_per_job = max_per_job
        self.assumed = assumed or {}
        self._named = {unit for unit, amount in (("USD", usd), ("credits", credits)) if amount is not None}
        if not self._named:
            raise ConfigurationError("a budget needs an amount: Budget(usd=5), Budget(credits=200), or both")
        self._balances: dict[Unit, UnitBalance] = {
            "USD": UnitBalance(_amount("usd", usd)),
            "credits": UnitBalance(_amount("credits", credits)),
        }
        self._learned: dict[tuple[str, frozenset[tuple[str, str]]], Decimal] = {}
        self._submissions: dict[str, Reservation] = {}  # by attempt, until there is a job
        self._jobs: dict[JobRef, Reservation] = {}  # until they end
        self._counted: set[str] = set()  # attempts of earlier runs
        self._history_counted = False
        self._shared: SharedLedger | None = None
        self._unreported: dict[JobRef, Reservation] = {}  # in a shared ledger: accepted, and its first report is due
        self._change: anyio.Event | None = None

    def __str__(self) -> str:
        shown = [
            f"{Cost(balance.spent, unit)} spent and {Cost(balance.reserved, unit)} reserved of "
            f"{Cost(balance.limit, unit)}"
            for unit, balance in self._balances.items()
            if unit in self._named
        ]
        return ", ".join(shown)

    def statistics(self) -> BudgetStatistics:
        """What is spent, reserved and left."""
        if self._shared is not None:
            for unit, balance in self._balances.items():
                balance.take(self._shared.balances.get(unit, Balance()))
        balances = self._balances.items()
        return BudgetStatistics(
            spent=tuple(Cost(balance.spent, unit) for unit, balance in balances if balance.spent),
            reserved=tuple(Cost(balance.reserved, unit) for unit, balance in balances if balance.reserved),
            left=tuple(
                Cost(balance.left, unit)
                for unit, balance in balances
                if unit in self._named and balance.limit.is_finite()
            ),
        )

    def estimate(self, wanted: PriceInfo) -> Cost | None:
        """Return what a request is expected to cost. None if nothing is known.

        It is the documented price, or what the provider took for the same settings if that was more. Where the provider
        documents no price, it is an estimate.
        """
        known = self._known(wanted)
        if known is None and wanted.expected is not None:
            return Cost(wanted.expected, wanted.unit)
        return known

    def _known(self, wanted: PriceInfo) -> Cost | None:
        """Return the documented, learned or assumed price. None if there is only an estimate, or nothing."""
        seen = self._learned.get((wanted.endpoint, wanted.settings))
        amounts = [amount for amount in (wanted.price, seen) if amount is not None]
        if not amounts:
            provider = wanted.endpoint.partition("/")[0]
            assumed = self.assumed.get(wanted.endpoint, self.assumed.get(provider))
            amounts = [] if assumed is None else [assumed]
        return Cost(max(amounts), wanted.unit) if amounts else None

    def needed(self, wanted: PriceInfo) -> Cost:
        """Return what is reserved for a request: its cost, or more where that is not sure."""
        return self._known(wanted) or Cost(wanted.reserve, wanted.unit)

    def require_within(self, wanted: PriceInfo, most: Cost | None, name: str) -> None:
        """Make sure that one request does not cost more than is allowed for it.

        Args:
            wanted: Its price, as far as it is known.
            most: The most that it may cost. If None, there is no limit.
            name: What the user set: ``max_cost`` or ``max_per_job``.

        Raises:
            BudgetExceeded: It may cost more, or it is paid in another unit.
        """
        needed = self.needed(wanted)
        if most is None or (needed.unit == most.unit and needed.amount <= most.amount):
            return
        known = self._known(wanted)
        price = (
            f"costs {known}" if known else f"has a price that is not known for sure, and {needed} is reserved for it"
        )
        if needed.unit != most.unit:
            price = f"is paid in {needed.unit}"
        raise BudgetExceeded(
            f"{wanted.endpoint} {price}, and {name} is {most}; nothing was sent",
            code=name,
            provider=wanted.endpoint.partition("/")[0],
            remedies=(Remedy("change_request", detail=f"{name}, or the request"),),
        )

    async def reserve(self, attempt_id: str, wanted: PriceInfo) -> Reservation:
        """Set aside what a submission may cost, before it is sent.

        Waits while answers are on the way that may make room. In a shared ledger, the claim does both (`charge`).

        Args:
            attempt_id: The UUID of the attempt.
            wanted: Its price, as far as it is known.

        Raises:
            BudgetExceeded: It does not fit into what is left.
        """
        self.require_within(wanted, self.max_per_job, "max_per_job")
        while self._shared is None and not self._fits(wanted):
            await self._changed()
        reservation = Reservation(
            attempt_id,
            wanted,
            wanted.unit,
            self.needed(wanted).amount,
            pending=True,
            guessed=self._known(wanted) is None,
        )
        self._submissions[attempt_id] = reservation
        self._add(reservation, 1)
        return reservation

    def _fits(self, wanted: PriceInfo) -> bool:
        """Whether a submission fits now. If not, answers are on the way that may make room.

        Raises:
            BudgetExceeded: It does not fit, whatever the answers are.
        """
        balance, known, needed = self._balances[wanted.unit], self._known(wanted), self.needed(wanted).amount
        unreported = sum((one.amount for one in self._unreported.values() if one.unit == wanted.unit), _ZERO)
        if needed > balance.reachable + unreported:
            raise self._exceeded(wanted, known)
        return needed <= balance.left and (known is not None or not balance.guesses)

    async def share(self, ledger: SharedLedger) -> None:
        """From now on, let the ledger count: it knows what all processes spend."""
        await ledger.read_balances()
        self._shared = ledger

    def charge(self, wanted: PriceInfo) -> Charge:
        """What a new submission counts for in a shared ledger, and what it must fit into."""
        limit = self._balances[wanted.unit].limit
        known = self._known(wanted)
        return as_charge(
            wanted,
            known or Cost(wanted.reserve, wanted.unit),
            guessed=known is None,
            limit=limit if limit.is_finite() else None,
        )

    def earlier_charge(self, wanted: PriceInfo) -> Charge:
        """What an earlier submission counts for in a shared ledger until its cost is known."""
        return as_charge(wanted, self.estimate(wanted))

    async def wait_until_it_fits(self, wanted: PriceInfo) -> None:
        """Wait until a submission fits into a shared ledger's sums. Its claim decides in the end.

        Raises:
            BudgetExceeded: It does not fit, whatever the answers are that are on the way.
        """
        while self._shared is not None:
            found = (await self._shared.read_balances()).get(wanted.unit, Balance())
            self._balances[wanted.unit].take(found)
            if self._fits(wanted):
                return
            await self._look_again()

    async def wait_for_room(self, wanted: PriceInfo, found: Balance) -> None:
        """Wait for a moment, unless a submission that did not fit into a shared ledger's sums fits by now.

        Args:
            wanted: Its price, as far as it is known.
            found: The sums into which it did not fit.

        Raises:
            BudgetExceeded: It does not fit, whatever the answers are that are on the way.
        """
        self._balances[wanted.unit].take(found)
        if not self._fits(wanted):
            await self._look_again()

    async def _look_again(self) -> None:
        """Wait until something changes here, or may have changed in another process."""
        with anyio.move_on_after(_LOOK_AGAIN):
            await self._changed()

    async def _changed(self) -> None:
        self._change = self._change or anyio.Event()
        await self._change.wait()

    def commit(self, submission: Submission) -> None:
        """Process the outcome of a submission."""
        reservation = self._submissions.get(submission.attempt_id)
        if reservation is None:
            return
        if submission.state.key_reusable:
            del self._submissions[submission.attempt_id]
            self._remove(reservation)
        elif submission.ref is not None:
            self._jobs[submission.ref] = self._submissions.pop(submission.attempt_id)
            if self._shared is not None and reservation.pending:
                self._unreported[submission.ref] = reservation
        else:
            self._alter(reservation, pending=False)

    def record_cost(self, ref: JobRef, status: Status, cost: Cost | None) -> None:
        """Process the status of a job, and its cost if that was reported."""
        self._unreported.pop(ref, None)
        reservation = self._jobs.get(ref)
        if reservation is None:
            return
        if cost is not None:
            self._learn(reservation.price, cost)
            self._alter(reservation, pending=False, cost=_at_least(reservation.price, status, cost))
        else:
            self._alter(reservation, pending=False)
        if status.terminal:
            del self._jobs[ref]
            self._remove(reservation)
            if self._shared is None and not (status is Status.FAILED and reservation.price.refunds):
                self._balances[reservation.unit].spent += reservation.amount

    def release(self, reservation: Reservation) -> None:
        """The attempt is over: release what it did not spend."""
        self._unreported = {ref: one for ref, one in self._unreported.items() if one is not reservation}
        if reservation.pending and self._submissions.get(reservation.attempt_id) is reservation:  # it was never sent
            del self._submissions[reservation.attempt_id]
            self._remove(reservation)
        elif reservation.pending:
            self._alter(reservation, pending=False)

    async def load_history(
        self,
        attempts: Sequence[tuple[Submission, PriceInfo]],
        groups: Sequence[tuple[SpendingGroup, PriceInfo]] = (),
    ) -> None:
        """Count what earlier runs spent, and learn its prices. To be done before `reserve`.

        Args:
            attempts: Single attempts, such as the unfinished ones, with what is known of their prices.
            groups: All others, grouped by endpoint, settings, status and cost.
        """
        reported = [(group.cost, wanted) for group, wanted in groups] + [(one.cost, wanted) for one, wanted in attempts]
        for cost, wanted in reported:
            if cost is not None:
                self._learn(wanted, cost)
        if not self._history_counted:
            self._history_counted = True  # once, though the counting may be cancelled and begin again
            for group, wanted in groups:
                self._count_group(group, wanted)
        await cooperative_map(lambda one: self._count(*one), attempts)

    def _count_group(self, group: SpendingGroup, wanted: PriceInfo) -> None:
        """Count what a group of earlier attempts spent, or may have."""
        if group.status is Status.FAILED and wanted.refunds:
            return
        if group.cost is not None:
            cost = _at_least(wanted, group.status, group.cost)
        else:
            cost = self.estimate(wanted) or Cost(wanted.reserve, wanted.unit)
        balance = self._balances[cost.unit]
        if group.status is not None and group.status.terminal:
            balance.spent += cost.amount * group.count
        else:
            balance.reserved += cost.amount * group.count

    def _count(self, submission: Submission, wanted: PriceInfo) -> None:
        """Count what an earlier submission spent, or may spend."""
        if submission.state.key_reusable or submission.attempt_id in self._counted:
            return
        self._counted.add(submission.attempt_id)
        if submission.ref in self._jobs or submission.attempt_id in self._submissions:
            return
        reported = submission.cost is not None
        known = _at_least(wanted, submission.status, submission.cost) if submission.cost else self.estimate(wanted)
        estimate = known or Cost(wanted.reserve, wanted.unit)
        reservation = Reservation(
            submission.attempt_id, wanted, estimate.unit, estimate.amount, pending=False, reported=reported
        )
        self._add(reservation, 1)
        if submission.ref is None:
            self._submissions[submission.attempt_id] = reservation
            return
        self._jobs[submission.ref] = reservation
        if submission.status is not None and submission.status.terminal:
            self.record_cost(submission.ref, submission.status, submission.cost)

    def _learn(self, wanted: PriceInfo, cost: Cost) -> None:
        if cost.unit == wanted.unit:
            known = (wanted.endpoint, wanted.settings)
            self._learned[known] = max(self._learned.get(known, _ZERO), cost.amount)

    def _alter(self, reservation: Reservation, *, pending: bool, cost: Cost | None = None) -> None:
        self._add(reservation, -1)
        reservation.pending = pending
        if cost is not None:
            reservation.unit, reservation.amount, reservation.reported = cost.unit, cost.amount, True
        self._add(reservation, 1)
        self._wake()

    def _remove(self, reservation: Reservation) -> None:
        self._add(reservation, -1)
        reservation.pending = False
        self._wake()

    def _add(self, reservation: Reservation, sign: int) -> None:
        """Add a reservation (1), or remove it (-1). A shared ledger counts by itself."""
        if self._shared is None:
            self._balances[reservation.unit].add(reservation, sign)

    def _wake(self) -> None:
        """Wake the submissions that wait for room."""
        if self._change is not None:
            self._change.set()
            self._change = None

    def _exceeded(self, wanted: PriceInfo, estimate: Cost | None) -> BudgetExceeded:
        unit, balance = wanted.unit, self._balances[wanted.unit]
        provider = wanted.endpoint.partition("/")[0]
        name = "usd" if unit == "USD" else "credits"
        if unit not in self._named:
            return BudgetExceeded(
                f"{wanted.endpoint} is paid in {unit}, for which the budget names no amount; nothing was sent",
                provider=provider,
                remedies=(Remedy("raise_budget", detail=name),),
            )
        price = (
            f"costs {estimate}"
            if estimate
            else f"has a price that is not known before the first answer, and {Cost(wanted.reserve, unit)} is reserved "
            "for it"
        )
        return BudgetExceeded(
            f"{wanted.endpoint} {price}, and the budget of {Cost(balance.limit, unit)} has "
            f"{Cost(max(balance.left, _ZERO), unit)} left ({Cost(balance.spent, unit)} spent, "
            f"{Cost(balance.reserved, unit)} reserved); nothing was sent",
            provider=provider,
            remedies=(Remedy("raise_budget", detail=name),),
        )
