"""A cap on what a client spends: reserved before each paid call, settled from what the provider tells.

Theory of operation
-------------------
Before a submission is sent, what it will cost is *reserved*: the documented price, or what the provider took for the
same settings before. Nothing is sent that does not fit into what is left. The answer turns the reservation into what
the provider says that it took; a refusal, or a call that was not sent, gives it back; so does a failed job where the
provider refunds those. A submission whose outcome is unknown may have bought something, so it stays reserved.

A price that nobody knows beforehand is taken to be `FALLBACK_PRICE`, and such jobs are bought one at a time: the answer
to the first tells the price for those that follow. So the sum never passes the limit, however many submissions are
under way, unless a provider takes more than it documents or took before, or than that for a job.

A submission that does not fit waits while answers are on the way that may make room, and fails when none can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import anyio

from kling_async._concurrency import cooperative_map
from kling_async._errors import BudgetExceeded, ConfigurationError, Remedy
from kling_async._ledger.protocol import SpendingGroup, Submission
from kling_async._models import Cost, JobRef, Status
from kling_async._submission.pricing import _ZERO, FALLBACK_PRICE, Amount, PriceInfo, Unit, _amount, _at_least

__all__ = ["Budget", "BudgetAccount", "BudgetStatistics", "Reservation", "account_of"]


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    """Where a budget stands; one entry a unit.

    Attributes:
        spent: What providers took, as far as they told, less what they gave back.
        reserved: Estimates: of submissions under way, of jobs whose price is not told yet, and of submissions whose
            outcome is unknown.
        left: What may still be spent; units without a limit have no entry.
    """

    spent: tuple[Cost, ...]
    reserved: tuple[Cost, ...]
    left: tuple[Cost, ...]


@dataclass(slots=True)
class Reservation:
    """A part of the budget that one submission holds."""

    attempt_id: str
    price: PriceInfo
    unit: Unit
    amount: Decimal
    pending: bool
    """Whether its answer is on the way, which may make room."""
    reported: bool = False
    """Whether the amount is the provider's own word."""
    guessed: bool = False
    """Whether it is nobody's word."""


@dataclass(slots=True)
class UnitBalance:
    """What may be spent in one unit, and what is."""

    limit: Decimal
    spent: Decimal = _ZERO
    reserved: Decimal = _ZERO
    pending: Decimal = _ZERO
    """The part of `reserved` about which an answer is on the way."""
    guesses: int = 0
    """Answers on the way that will tell a price that nobody knows."""

    @property
    def left(self) -> Decimal:
        return self.limit - self.spent - self.reserved

    @property
    def reachable(self) -> Decimal:
        """What could be left when all answers are in."""
        return self.left + self.pending

    def put(self, hold: Reservation, sign: int) -> None:
        """Count a hold (1), or take it out again (-1)."""
        if hold.reported:
            self.spent += sign * hold.amount
        else:
            self.reserved += sign * hold.amount
        if hold.pending:
            self.guesses += sign * hold.guessed
            self.pending += sign * hold.amount


class Budget:
    """How much a client may spend: ``Client(budget=Budget(usd=5, credits=200))``. It belongs to one client.

    A unit that is not named may not be spent at all. ``math.inf`` sets no limit to it. With a ledger, what earlier runs
    spent counts, at all providers, so that an interrupted run that is continued stays within the same budget.

    Args:
        usd: US dollars.
        credits: Credits.

    Raises:
        ConfigurationError: An amount is not a number, or is negative.
    """

    def __init__(self, usd: Amount | None = None, credits: Amount | None = None) -> None:  # noqa: A002  # the word users know
        self._account = BudgetAccount(usd, credits)

    def __repr__(self) -> str:
        return f"<Budget {self._account}>"

    def statistics(self) -> BudgetStatistics:
        """What is spent, reserved and left."""
        return self._account.statistics()


def account_of(budget: Budget) -> BudgetAccount:
    """Return the account that the library keeps behind a budget."""
    return budget._account  # noqa: SLF001  # both are of this module


class BudgetAccount:
    """Reserves, counts and learns what submissions cost.

    Args:
        usd: The limit in US dollars.
        credits: The limit in credits.

    Raises:
        ConfigurationError: An amount is not a number, or is negative.
    """

    def __init__(self, usd: Amount | None = None, credits: Amount | None = None) -> None:  # noqa: A002  # the word users know
        self._named = {unit for unit, amount in (("USD", usd), ("credits", credits)) if amount is not None}
        if not self._named:
            raise ConfigurationError("a budget needs an amount: Budget(usd=5), Budget(credits=200), or both")
        self._balances: dict[Unit, UnitBalance] = {
            "USD": UnitBalance(_amount("usd", usd)),
            "credits": UnitBalance(_amount("credits", credits)),
        }
        self._learned: dict[tuple[str, frozenset[tuple[str, str]]], Decimal] = {}
        self._submissions: dict[str, Reservation] = {}  # by purchase, until there is a job
        self._jobs: dict[JobRef, Reservation] = {}  # until they end
        self._counted: set[str] = set()  # attempts of earlier runs
        self._history_counted = False
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
        """What a request is expected to cost; None: nobody knows.

        It is the documented price, or what the provider took for the same settings, if that was more.
        """
        seen = self._learned.get((wanted.endpoint, wanted.settings))
        amounts = [amount for amount in (wanted.price, seen) if amount is not None]
        return Cost(max(amounts), wanted.unit) if amounts else None

    async def reserve(self, attempt_id: str, wanted: PriceInfo) -> Reservation:
        """Set aside what a submission may cost, before it is sent.

        Waits while answers are on the way that may make room.

        Args:
            attempt_id: The purchase's id.
            wanted: What is known of its price.

        Raises:
            BudgetExceeded: It does not fit into what is left.
        """
        balance = self._balances[wanted.unit]
        while True:
            estimate = self.estimate(wanted)
            needed = estimate.amount if estimate else FALLBACK_PRICE[wanted.unit]
            if needed > balance.reachable:
                raise self._exceeded(wanted, estimate)
            if needed <= balance.left and (estimate or not balance.guesses):
                hold = Reservation(attempt_id, wanted, wanted.unit, needed, pending=True, guessed=estimate is None)
                self._submissions[attempt_id] = hold
                balance.put(hold, 1)
                return hold
            self._change = self._change or anyio.Event()
            await self._change.wait()

    def commit(self, submission: Submission) -> None:
        """Take note of what became of a submission."""
        hold = self._submissions.get(submission.attempt_id)
        if hold is None:
            return
        if submission.state.key_reusable:
            del self._submissions[submission.attempt_id]
            self._take_out(hold)
        elif submission.ref is not None:
            self._jobs[submission.ref] = self._submissions.pop(submission.attempt_id)
        else:
            self._alter(hold, pending=False)

    def record_cost(self, ref: JobRef, status: Status, cost: Cost | None) -> None:
        """Take note of where a job stands, and of what it costs if that was told."""
        hold = self._jobs.get(ref)
        if hold is None:
            return
        if cost is not None:
            self._learn(hold.price, cost)
            self._alter(hold, pending=False, cost=_at_least(hold.price, status, cost))
        else:
            self._alter(hold, pending=False)
        if status.terminal:
            del self._jobs[ref]
            self._take_out(hold)
            if not (status is Status.FAILED and hold.price.refunds):
                self._balances[hold.unit].spent += hold.amount

    def release(self, hold: Reservation) -> None:
        """The attempt is over: what it did not come to spend is given back."""
        if hold.pending and self._submissions.get(hold.attempt_id) is hold:  # it was never sent
            del self._submissions[hold.attempt_id]
            self._take_out(hold)
        elif hold.pending:
            self._alter(hold, pending=False)

    async def load_history(
        self,
        attempts: Sequence[tuple[Submission, PriceInfo]],
        groups: Sequence[tuple[SpendingGroup, PriceInfo]] = (),
    ) -> None:
        """Count what earlier runs spent, and learn its prices. To be done before `reserve`.

        Args:
            attempts: Single attempts, such as the unfinished ones, with what is known of their prices.
            groups: All others, grouped by what they bought.
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
            cost = self.estimate(wanted) or Cost(FALLBACK_PRICE[wanted.unit], wanted.unit)
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
        estimate = known or Cost(FALLBACK_PRICE[wanted.unit], wanted.unit)
        hold = Reservation(
            submission.attempt_id, wanted, estimate.unit, estimate.amount, pending=False, reported=reported
        )
        self._balances[hold.unit].put(hold, 1)
        if submission.ref is None:
            self._submissions[submission.attempt_id] = hold
            return
        self._jobs[submission.ref] = hold
        if submission.status is not None and submission.status.terminal:
            self.record_cost(submission.ref, submission.status, submission.cost)

    def _learn(self, wanted: PriceInfo, cost: Cost) -> None:
        if cost.unit == wanted.unit:
            known = (wanted.endpoint, wanted.settings)
            self._learned[known] = max(self._learned.get(known, _ZERO), cost.amount)

    def _alter(self, hold: Reservation, *, pending: bool, cost: Cost | None = None) -> None:
        self._balances[hold.unit].put(hold, -1)
        hold.pending = pending
        if cost is not None:
            hold.unit, hold.amount, hold.reported = cost.unit, cost.amount, True
        self._balances[hold.unit].put(hold, 1)
        self._wake()

    def _take_out(self, hold: Reservation) -> None:
        self._balances[hold.unit].put(hold, -1)
        hold.pending = False
        self._wake()

    def _wake(self) -> None:
        """Let those who wait look again."""
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
            else (
                f"has a price that is not known before one was bought, and may be up to "
                f"{Cost(FALLBACK_PRICE[unit], unit)}"
            )
        )
        return BudgetExceeded(
            f"{wanted.endpoint} {price}, and {Cost(max(balance.left, _ZERO), unit)} of the budget of "
            f"{Cost(balance.limit, unit)} is left ({Cost(balance.spent, unit)} spent, {Cost(balance.reserved, unit)} "
            f"reserved); nothing was sent",
            provider=provider,
            remedies=(Remedy("raise_budget", detail=name),),
        )
