"""How long a submission waits before anything of it is sent: until it is given up."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import anyio

from kling_async._errors import GivenUp

__all__ = ["Patience"]


class Patience:
    """The patience of who waits for one submission: ``with patience: await submit(..., patience=patience)``.

    A submission waits for many things: a slot of the account, a provider that says "not now", room in a budget, another
    process that sends the same key, a connection. When it is given up, the block ends at once, whatever it waits for. A
    submission that may have been sent is not given up. It goes on to its outcome, and the block with it, unless it
    turns out that nothing was bought and it has to wait again.
    """

    __slots__ = ("_scope", "_sent", "given_up")

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._sent = False
        self.given_up = False

    def __enter__(self) -> Self:
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        ended = self._scope.__exit__(kind, error, trace)
        return bool(ended) or isinstance(error, GivenUp)

    @property
    def leaving(self) -> bool:
        """Whether it was given up with nothing sent."""
        return self.given_up and not self._sent

    def give_up(self) -> None:
        """Wait no longer. What may have been sent goes on."""
        self.given_up = True
        if not self._sent:
            self._scope.cancel()

    def note_sent(self, *, maybe: bool) -> None:
        """Note whether the submission may have been sent."""
        self._sent = maybe
        if self.leaving:
            self._scope.cancel()

    def require(self) -> None:
        """Make sure that it was not given up, before anything is sent.

        Raises:
            GivenUp: It was.
        """
        if self.given_up:
            raise GivenUp("the run was stopped while the submission waited; nothing was sent")
