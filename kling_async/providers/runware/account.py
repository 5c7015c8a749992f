"""What a Runware account has left: the task ``accountManagement`` (``runware.ai/docs``, account management)."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Self

from kling_async._exchange.calls import Call, Effect, Flow
from kling_async._models import Cost
from kling_async.providers._base.error_mapping import ErrorMapper
from kling_async.providers.runware.responses import Row, entries, text

__all__ = ["RunwareAccount"]


class RunwareAccount:
    """``client.runware``: the account of a client's Runware provider."""

    def __init__(self, run: Callable[[Flow[Any]], Awaitable[Any]], errors: ErrorMapper) -> None:
        self._run = run
        self._errors = errors

    @classmethod
    def of(cls, client: Any) -> Self:
        """The account of a client's Runware provider: same as ``client.runware``, for type checkers."""
        found: Self = client.runware
        return found

    async def balance(self) -> Cost:
        """What the account has left, in US dollars.

        Raises:
            KlingError: The call failed, or its answer has no balance.
        """
        row: Row = await self._run(self._details())
        left = row.get("balance")
        if isinstance(left, bool) or not isinstance(left, int | float):
            raise self._errors.unreadable("the account's details have no balance")
        return Cost(Decimal(str(left)), "USD")

    def _details(self) -> Flow[Row]:
        task = {"taskType": "accountManagement", "taskUUID": str(uuid.uuid4()), "operation": "getDetails"}
        reply = yield Call.post("/v1", [task], Effect.READ)
        rows, errors = entries(reply.json()) if reply.ok or self._errors.parse_error(reply) else ([], [])
        if errors:
            raise self._errors.make_error(reply.status, text(errors[0], "code"), text(errors[0], "message"))
        if not reply.ok or not rows:
            raise self._errors.make_error(reply.status, None, reply.excerpt())
        return rows[0]
