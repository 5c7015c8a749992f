"""What a Kling account has besides jobs: elements, voices, and money. ``client.kling`` is a `KlingAccount`."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from kling_async._errors import ConfigurationError
from kling_async._exchange import Call, Effect, Flow
from kling_async.providers.kling.errors import KlingErrors

__all__ = ["KlingAccount", "KlingCollection"]

Run = Callable[[Flow[Any]], Awaitable[Any]]
_MOST_ON_A_PAGE = 500


class KlingCollection:
    """The elements or the voices of an account.

    No public source names the fields of these calls completely, so they are passed on as given, and the answers are
    returned as Kling writes them.
    """

    def __init__(self, run: Run, errors: KlingErrors, own: str, presets: str, removal: str) -> None:
        self._run = run
        self._errors = errors
        self._own, self._presets, self._removal = own, presets, removal

    async def create(self, fields: Mapping[str, Any], *, attempt_id: str | None = None) -> Mapping[str, Any]:
        """Make one. Kling makes it in the background: `get` returns it when it is ready.

        Args:
            fields: The body, in Kling's own words.
            attempt_id: Our id of the purchase, as Kling stores it (``external_task_id``). Creating again under the same
                id makes nothing twice. If None, a new one.

        Returns:
            The task: ``task_id``, ``task_status`` and so on.

        Raises:
            KlingError: It was refused, or the answer was lost (create it again under the same `attempt_id`).
        """
        body = {**fields, "external_task_id": attempt_id or str(uuid.uuid4())}
        call = Call.post(self._own, body, Effect.PAID, repeatable=True)
        found: Mapping[str, Any] = await self._run(self._data(call))
        return found

    async def get(self, task_id: str) -> Mapping[str, Any]:
        """The task that makes one, by Kling's id or by our `attempt_id`.

        Raises:
            KlingError: It is not known, or the call failed.
        """
        if not task_id or not all(letter.isalnum() or letter in "-_" for letter in task_id):
            raise ConfigurationError(f"{task_id!r:.80} cannot be the id of a task", provider="kling")
        found: Mapping[str, Any] = await self._run(self._data(Call.get(f"{self._own}/{task_id}")))
        return found

    async def list(self, *, presets: bool = False, page: int = 1, page_size: int = 100) -> Sequence[Mapping[str, Any]]:
        """One page of them.

        Args:
            presets: List those that Kling offers to everybody, not the account's own.
            page: From 1 to 1 000.
            page_size: From 1 to 500.

        Raises:
            KlingError: The call failed.
        """
        if not (1 <= page <= 1000 and 1 <= page_size <= _MOST_ON_A_PAGE):  # noqa: PLR2004  # Kling's limits
            raise ConfigurationError(
                f"page={page}, page_size={page_size}: Kling allows 1 to 1000, and 1 to {_MOST_ON_A_PAGE}",
                provider="kling",
            )
        path = self._presets if presets else self._own
        found = await self._run(self._data(Call.get(f"{path}?pageNum={page}&pageSize={page_size}")))
        return found if isinstance(found, list) else []

    async def delete(self, fields: Mapping[str, Any]) -> None:
        """Delete one.

        Args:
            fields: The body, in Kling's own words, such as ``{"voice_id": "..."}``.

        Raises:
            KlingError: The call failed.
        """
        await self._run(self._data(Call.post(self._removal, dict(fields), Effect.WRITE)))

    def _data(self, call: Call) -> Flow[Any]:
        return self._errors.data((yield call))


class KlingAccount:
    """A Kling account, besides its jobs.

    Attributes:
        elements: Characters and things that requests may refer to.
        voices: Voices that requests may refer to.
    """

    def __init__(self, run: Run, errors: KlingErrors) -> None:
        self._run = run
        self._errors = errors
        base = "/v1/general"
        self.elements = KlingCollection(
            run,
            errors,
            f"{base}/advanced-custom-elements",
            f"{base}/advanced-presets-elements",
            f"{base}/delete-advanced-elements",
        )
        self.voices = KlingCollection(
            run, errors, f"{base}/custom-voices", f"{base}/presets-voices", f"{base}/delete-voices"
        )

    @classmethod
    def of(cls, client: Any) -> Self:
        """The account of a client's Kling provider: same as ``client.kling``, for type checkers."""
        found: Self = client.kling
        return found

    async def balance(self) -> Mapping[str, Any]:
        """What the account has left, as Kling writes it: no public source names the fields.

        Raises:
            KlingError: The call failed.
        """
        found: Mapping[str, Any] = await self._run(self._data(Call.post("/account/billing/balance", {}, Effect.READ)))
        return found

    async def costs(self, start: datetime, end: datetime) -> Mapping[str, Any]:
        """What the resource packs were used for, up to 12 hours late. Kling allows one such call a second.

        Args:
            start: Aware.
            end: Aware.

        Raises:
            KlingError: The call failed.
        """
        if start.tzinfo is None or end.tzinfo is None or end <= start:
            raise ConfigurationError("costs() takes two aware moments, the earlier one first", provider="kling")
        times = f"start_time={int(start.timestamp() * 1000)}&end_time={int(end.timestamp() * 1000)}"
        found: Mapping[str, Any] = await self._run(self._data(Call.get(f"/account/costs?{times}")))
        return found

    def _data(self, call: Call) -> Flow[Any]:
        return self._errors.data((yield call))
