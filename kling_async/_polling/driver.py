"""The election of a driver: one of those who wait runs a loop for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

__all__ = ["DriverElection", "Voter"]


class Voter(Protocol):
    """Somebody who waits, and may be called to drive."""

    def wake(self) -> None:
        """End the wait: the voter checks again what there is to do."""

    @property
    def busy(self) -> bool:
        """Whether the voter was given something else to do, and has not begun it."""


VoterT = TypeVar("VoterT", bound=Voter)


class DriverElection(Generic[VoterT]):
    """Makes sure that somebody drives as long as anybody waits, and never two at once.

    Everybody follows the same rule: drive if nobody does (`driver` is None), else rest (`begin_rest`). When the driver
    stops, one of those who rest is woken. If that one leaves before it drives, it wakes another on its way out.

    Attributes:
        driver: Who drives now. None if nobody does. It is changed here alone.
    """

    def __init__(self) -> None:
        self.driver: VoterT | None = None
        self._resting: dict[VoterT, None] = {}

    def __bool__(self) -> bool:
        return self.driver is not None or bool(self._resting)

    @contextmanager
    def driving(self, voter: VoterT) -> Iterator[None]:
        """Drive within this block, which only somebody enters who saw that nobody drives."""
        self.driver = voter
        try:
            yield
        finally:
            self.driver = None
            self.call()

    def begin_rest(self, voter: VoterT) -> None:
        """Note that the voter waits, ready to be called. `end_rest` must follow. Every poll of a bulk run does this."""
        self._resting[voter] = None

    def end_rest(self, voter: VoterT) -> None:
        """Note that it waits no more."""
        del self._resting[voter]

    def wake_driver(self) -> None:
        """Let the driver check again what there is to do. Nothing happens if nobody drives."""
        if self.driver is not None:
            self.driver.wake()

    def call(self) -> None:
        """Wake one of those who rest, if nobody drives.

        Everybody who stops waiting calls this, because it may have been the one that was woken.
        """
        if self.driver is None:
            for voter in self._resting:
                if not voter.busy:
                    voter.wake()
                    break
