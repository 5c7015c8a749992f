"""What the attempts in a ledger come to, and which claims fit: the same for every database.

Theory of operation
-------------------
An attempt is claimed with a `Charge`. From then on it *counts*: for what is expected, until its provider reports a
cost, and for nothing once it is certain that nothing was bought, or that a failed job is refunded. An attempt whose
outcome is unknown counts until that is resolved. The database keeps the sums of all attempts, by triggers, in the
transaction in which an attempt changes. So the sums hold for all processes, and nothing is counted twice or forgotten
when one of them dies.

A claim with a limit reads the sums in its own transaction, while no other claim with a limit can take place. It does
not take place if the sums would exceed the limit. Each claim has the limit of its own client.

An attempt also holds a *slot* of its provider's account, for as long as its job may run. A claim with a limit on those
counts the attempts that hold one in its own transaction, while no other such claim of the account can take place. Who
finds none free waits in a queue, of which each process has one place at most (see `_submission.running_jobs`). The next
free slot is for the first of them: otherwise a process that learns of the ends of jobs first would take every slot.
Places of processes that have died count for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from kling_async._ledger.protocol import Balance, Charge, Slot, Submission

__all__ = ["Balances", "Claim", "account_of", "all_fit", "exceeds", "limited", "slots_of"]

_NOTHING = Balance()


class Claim(NamedTuple):
    """A submission whose key is to be claimed, what it counts for, and the slot that it takes."""

    submission: Submission
    charge: Charge | None = None
    slot: Slot | None = None


@dataclass(slots=True)
class Balances:
    """The sums as one open ledger last saw them.

    Attributes:
        wanted: Whether anybody wants to know. If not, they are not read.
        known: By unit.
    """

    wanted: bool = False
    known: Mapping[str, Balance] = field(default_factory=dict)


def limited(claims: Iterable[Claim]) -> bool:
    """Whether any of the claims has a limit, so that they depend on the sums."""
    return any(claim.charge is not None and claim.charge.limit is not None for claim in claims)


def all_fit(claims: Sequence[Claim], balances: Mapping[str, Balance]) -> bool:
    """Whether all of the claims fit, also if all of their keys are free. A guess is looked at by itself."""
    sums: dict[str, Decimal] = {unit: balance.total for unit, balance in balances.items()}
    charges = [claim.charge for claim in claims if claim.charge is not None]
    for charge in charges:
        unit = charge.expected.unit
        sums[unit] = sums.get(unit, Decimal(0)) + charge.expected.amount
    return not any(
        charge.limit is not None and (charge.guessed or sums[charge.expected.unit] > charge.limit) for charge in charges
    )


def exceeds(charge: Charge | None, balances: Mapping[str, Balance]) -> bool:
    """Whether one charge does not fit."""
    if charge is None or charge.limit is None:
        return False
    balance = balances.get(charge.expected.unit, _NOTHING)
    return balance.total + charge.expected.amount > charge.limit or (charge.guessed and balance.guesses > 0)


def account_of(claim: Claim) -> str:
    """Whose slot a claim takes. Where only the provider is known, it counts for every account there."""
    return claim.slot.account if claim.slot is not None else claim.submission.provider


def slots_of(claims: Sequence[Claim]) -> dict[str, tuple[int, int]]:
    """The accounts with a limit: how many slots the claims would take of each, and the lowest limit."""
    limits: dict[str, int] = {}
    for claim in claims:
        if claim.slot is not None and claim.slot.limit is not None:
            account = claim.slot.account
            limits[account] = min(limits.get(account, claim.slot.limit), claim.slot.limit)
    if not limits:  # nearly always
        return {}
    taken = Counter(map(account_of, claims))
    return {account: (taken[account], limits[account]) for account in sorted(limits)}
