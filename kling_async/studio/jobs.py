"""The jobs of the ledger as the page shows them, and the task that follows and saves them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
from pydantic import ValidationError

from kling_async._client import Client
from kling_async._errors import KlingError, Remedy
from kling_async._job.job import Job
from kling_async._ledger.protocol import Ledger, Submission, SubmissionState
from kling_async._ledger.serialization import request_from_json
from kling_async._models import Cost, JobRef, Status
from kling_async.providers._base.public_body import OPERATOR_FIELDS
from kling_async.providers.base import Request
from kling_async.studio.forms import Forms, kind_of

__all__ = ["MEDIA", "Jobs", "described"]

log = logging.getLogger("kling_async")

MEDIA: Mapping[str, str] = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
}
"""What is shown, by the ending of its name. Nothing else is served."""
_LONGEST = 2000  # characters of a provider's text that the page shows
_RECENT = timedelta(days=7)  # no provider keeps a result for longer
_AT_ONCE = 4  # results that are saved at once
_BUTTONS = {
    "resume": "Look again",
    "resubmit": "Send it again",
    "forget": "Forget it",
    "resolve": "It is this job",
    "attach": "Go on waiting",
}


class Jobs:
    """What the page knows of jobs: all of it from the client's ledger.

    Args:
        client: The client. It has a ledger.
        ledger: Its ledger.
        forms: Its endpoints.
        directory: Where results are saved.
    """

    def __init__(self, client: Client, ledger: Ledger, forms: Forms, directory: Path) -> None:
        self._client = client
        self._ledger = ledger
        self._forms = forms
        self._directory = directory
        self._driving = anyio.Lock()
        self._limiter = anyio.Semaphore(_AT_ONCE)
        self._followed: set[str] = set()
        self._wanted: dict[str, JobRef] = {}  # by key: to be followed or saved, whatever became of it before
        self._errors: dict[str, KlingError] = {}  # by key: why a job is not followed or saved any more
        self._times: dict[str, tuple[float | None, float | None]] = {}  # by attempt: when half and nine of ten end
        self._changes: dict[str, int] = {}
        self._count = 0
        self._news = anyio.Event()

    async def drive(self) -> None:
        """Follow every unfinished job and save every result, until cancelled. Of several tasks here, one works."""
        async with self._driving:
            self._followed.clear()
            try:
                await self._client.resume()
            except KlingError:
                log.exception("the studio cannot go on with the jobs of its ledger")
            async with anyio.create_task_group() as group:
                for one in await self._ledger.submissions():
                    if self._unsaved(one) and one.ref is not None and self._possible(one):
                        self._wanted[one.key] = one.ref
                while True:
                    news = self._news
                    while self._wanted:
                        wanted, ref = self._wanted.popitem()
                        self._followed.add(wanted)
                        group.start_soon(self._follow, self._client.attach(ref), wanted)
                    for job in self._client.jobs:
                        if (key := job.key) and key not in self._followed and key not in self._errors:
                            self._followed.add(key)
                            group.start_soon(self._follow, job, key)
                    await news.wait()

    async def _follow(self, job: Job, key: str) -> None:
        try:
            async for _ in job:
                self.changed(key)
            if job.status is Status.COMPLETED:
                async with self._limiter:
                    result = await job
                    paths = await result.save(self._directory)
                    for artifact, path in zip(result.artifacts, paths, strict=True):
                        await self._ledger.record_file(job.ref, artifact.index, path)
        except KlingError as error:
            log.warning("the studio cannot follow or save job %s: %s", job.ref, error)
            self._errors[key] = error
        finally:
            self._followed.discard(key)
            self.changed(key)

    def _unsaved(self, one: Submission) -> bool:
        recent = datetime.now(UTC) - one.started < _RECENT
        return one.status is Status.COMPLETED and not one.files and recent and one.released is None

    def _possible(self, one: Submission) -> bool:
        return one.endpoint in self._forms.endpoints

    def changed(self, key: str) -> None:
        """Tell all open pages, and the task that follows, that something is new about a submission."""
        self._count += 1
        self._changes[key] = self._count
        self._news.set()
        self._news = anyio.Event()

    @property
    def count(self) -> int:
        """The number of changes so far."""
        return self._count

    async def changes(self, seen: int) -> tuple[int, list[dict[str, Any]]]:
        """Wait for changes after the one of that number. Return the number of the last one, and the cards."""
        while self._count <= seen:
            await self._news.wait()
        now = self._count
        keys = [key for key, number in self._changes.items() if number > seen]
        found = [await self._ledger.find(key=key) for key in keys]
        return now, await self.cards(one for one in found if one is not None)

    async def submit(self, request: Request, key: str) -> dict[str, Any]:
        """Buy one generation. The same key again returns the same job.

        Raises:
            KlingError: It was not bought, or may have been.
        """
        try:
            await self._client.submit(request, key=key)
        finally:
            self.changed(key)
        return await self.card(key)

    async def act(self, key: str, action: str, ref: str | None = None) -> dict[str, Any]:
        """Do what a button of a card does.

        Raises:
            KeyError: There is no such submission.
            ValueError: There is no such action, or the reference is none.
            KlingError: It could not be done.
        """
        one = await self._found(key)
        self._errors.pop(key, None)
        try:
            match action:
                case "cancel" if one.ref is not None:
                    await self._client.attach(one.ref).cancel()
                case "resume":
                    await self._client.resume()
                case "attach" | "save" if one.ref is not None:
                    self._wanted[key] = one.ref
                case "resubmit":
                    await self._client.resubmit(key)
                case "resolve":
                    await self._client.resolve(key, JobRef.of(ref or ""))
                case "forget":
                    await self._client.forget(key, force=True)
                case _:
                    raise ValueError(f"there is nothing called {action!r:.40} to do here")
        finally:
            self.changed(key)
        return await self.card(key)

    async def _found(self, key: str) -> Submission:
        one = await self._ledger.find(key=key)
        if one is None:
            raise KeyError(key)
        return one

    async def card(self, key: str) -> dict[str, Any]:
        """One submission as the page shows it.

        Raises:
            KeyError: There is no such submission.
        """
        return (await self.cards([await self._found(key)]))[0]

    async def listed(self, *, most: int = 500) -> list[dict[str, Any]]:
        """The last submissions, the newest first."""
        every = sorted(await self._ledger.submissions(), key=lambda one: one.started, reverse=True)
        return await self.cards(one for one in every[:most] if not _forgotten(one))

    async def cards(self, submissions: Iterable[Submission]) -> list[dict[str, Any]]:
        """Submissions as the page shows them."""
        read = time.time()
        found = list(submissions)
        advised: dict[str, Submission] = {}
        if any(one.state in {SubmissionState.UNKNOWN, SubmissionState.SENDING} for one in found):
            advised = {one.key: one for one in await self._client.unresolved()}
        return [{"read": read, **await self._card(advised.get(one.key, one))} for one in found]

    async def _card(self, one: Submission) -> dict[str, Any]:
        latest = one.latest
        error = self._errors.get(one.key)
        cost, estimated = self.cost(one)
        running = one.ref is not None and not (one.status and one.status.terminal)
        median, p90 = await self._expected(one) if running else (None, None)
        kind = self._forms.providers.get(one.provider)
        failures = "; ".join(map(str, latest.failures)) if latest else ""
        files = [(number, found) for number, path in enumerate(one.files) if (found := _shown(path)) is not None]
        remedies = [*one.remedies, *(error.remedies if error else ())]
        return {
            "key": one.key,
            "endpoint": one.endpoint,
            "provider": kind.display_name if kind else one.provider,
            "kind": kind_of(one.endpoint),
            "prompt": str(one.request.get("prompt") or "")[:20_000],
            "settings": {name: _short(value) for name, value in self.settings(one).items() if name != "prompt"},
            "state": str(one.state),
            "status": "forgotten" if _forgotten(one) else str(one.status or one.state),
            "ref": str(one.ref) if one.ref else None,
            "started": one.started.timestamp(),
            "ended": latest.at.timestamp() if latest and latest.status.terminal else None,
            "progress": latest.progress if latest else None,
            "median": median,
            "p90": p90,
            "cost": str(cost) if cost else None,
            "estimated": estimated,
            "refunded": self.refunded(one),
            "message": (error.message if error else failures or one.reason or "")[:_LONGEST],
            "files": [
                {"href": f"files/{one.ref}/{number}", "type": MEDIA[path.suffix.lower()], "name": path.name}
                for number, path in files
            ],
            "missing": one.status is Status.COMPLETED and not files and one.key not in self._followed,
            "cancel": running and kind is not None and kind.features.cancel,
            "remedies": described(remedies),
        }

    def settings(self, one: Submission) -> dict[str, Any]:
        """What was asked for, without what belongs to the operator."""
        return {
            name: value
            for name, value in one.request.items()
            if name not in OPERATOR_FIELDS and value is not None and value not in ([], ())
        }

    async def request(self, key: str) -> tuple[Submission, dict[str, Any]]:
        """A submission, and what was asked for, whole.

        Raises:
            KeyError: There is no such submission.
        """
        one = await self._found(key)
        return one, self.settings(one)

    async def _expected(self, one: Submission) -> tuple[float | None, float | None]:
        """Seconds within which half, and nine of ten, such jobs end."""
        if one.attempt_id not in self._times:
            request = self._request(one)
            quotes = await self._client.quote(request) if request is not None else []
            self._times[one.attempt_id] = (quotes[0].median, quotes[0].p90) if quotes else (None, None)
        return self._times[one.attempt_id]

    def _request(self, one: Submission) -> Request | None:
        endpoint = self._forms.endpoints.get(one.endpoint)
        return request_from_json(endpoint.request, one.request) if endpoint is not None else None

    def cost(self, one: Submission) -> tuple[Cost | None, bool]:
        """What a submission costs, and whether that is an estimate. None if it bought nothing or is not known."""
        if one.cost is not None:
            return one.cost, False
        if one.key_reusable and one.released is None:
            return None, False
        request = self._request(one)
        if request is None:
            return None, False
        try:
            price = self._forms.endpoints[one.endpoint].price(request)
        except ValidationError:
            return None, False
        return (Cost(price.amount, price.unit), True) if price else (None, False)

    def refunded(self, one: Submission) -> bool:
        """Whether the provider gave the cost back."""
        kind = self._forms.providers.get(one.provider)
        return kind is not None and kind.features.refunded(one.status)

    async def file(self, ref: str, index: int) -> Path | None:
        """A saved file, if the ledger has it, it is there, and it is a picture, a clip or a sound."""
        try:
            one = await self._ledger.find(ref=JobRef.parse(ref))
        except ValueError:
            return None
        if one is None or not 0 <= index < len(one.files):
            return None
        return _shown(one.files[index])


def _forgotten(one: Submission) -> bool:
    """Whether the user has freed its key. What bought nothing for sure is then kept as not submitted."""
    return one.released is not None or (one.state is SubmissionState.NOT_SUBMITTED and one.reason == "forgotten")


def _shown(path: str | Path) -> Path | None:
    """The file, if it is there, and it is a picture, a clip or a sound."""
    found = Path(path)
    return found if found.suffix.lower() in MEDIA and found.is_file() else None


def described(remedies: Iterable[Remedy]) -> list[dict[str, Any]]:
    """Remedies as the page shows them: those with a label are buttons, the others are advice."""
    return [
        {
            "action": remedy.action,
            "label": None if remedy.needs_request else _BUTTONS.get(remedy.action),
            "detail": (remedy.detail if remedy.action in _BUTTONS else str(remedy))[:400],
        }
        for remedy in remedies
    ]


def _short(value: Any) -> Any:
    """A setting without the content of images."""
    if isinstance(value, list | tuple):
        return [_short(one) for one in value]
    if isinstance(value, str) and value.startswith(("data:", "sha256:")):
        return "an image of yours"
    return value[:400] if isinstance(value, str) else value
