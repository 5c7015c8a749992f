"""What a job is: what was ordered, how long it takes, how it ends, what it yields.

A job's whole life is decided when it is bought, from the seed and from what was ordered, not from the order
of arrival. Asking about it compares that plan with the clock. So ten thousand jobs in flight cost nothing
until somebody asks.
"""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from kling_async.sandbox.emulator.accounts import Account, OrderError

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from decimal import Decimal

_STARTED_BY = 0.9  # a job is processing at the latest after this share of its life
_SPREAD = 0.2  # the files of one job become ready over this last share of its processing


class Phase(StrEnum):
    """Where a job stands. A emulation translates this into its provider's words."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the job will never change again."""
        return self not in {Phase.PENDING, Phase.PROCESSING}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to be drawn. Equal descriptions give equal bytes. Several `shots` share it as tiles.

    `references` are small PNG files of the images that were sent. They are seen in it.
    """

    width: int
    height: int
    format: Literal["jpeg", "png", "webp"]
    prompt: str
    seed: int = 0
    quality: int = 90
    shots: Literal[1, 4] = 1
    references: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Clip:
    """A video to be drawn. Equal descriptions give equal frames. `references` as in `Picture`."""

    width: int
    height: int
    seconds: float
    prompt: str
    seed: int = 0
    references: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class DurationRange:
    """How long generations of one kind take.

    Args:
        median: Simulated seconds from purchase to end, half of the jobs take less.
        sigma: Standard deviation of the logarithm (lognormal durations).
        pending: Range of the share of that time spent waiting in the queue.
        limit: Simulated seconds after which the provider itself gives up, or None if it never does.
    """

    median: float
    sigma: float
    pending: tuple[float, float] = (0.08, 0.25)
    limit: float | None = None


#: docs/performance.md: distributions fitted to the durations that the providers document.
IMAGE_DURATION = DurationRange(median=24, sigma=0.545)
CLIP_DURATIONS: Mapping[int, DurationRange] = MappingProxyType(
    {5: DurationRange(147, 0.158), 10: DurationRange(232, 0.199), 15: DurationRange(355, 0.131)}
)


@dataclass(frozen=True, slots=True)
class ScriptedOutcome:
    """How a job shall end, when a test or a prompt decides instead of chance.

    Args:
        fail: Failure code in the provider's words, or None if the job succeeds.
        duration: Simulated seconds from purchase to end. If None, drawn from the durations.
        stuck: The job never ends, past every limit of the provider.
        files: With `fail`: only so many of the job's files fail and the job itself completes.
    """

    fail: str | None = None
    duration: float | None = None
    stuck: bool = False
    files: int | None = None


@dataclass(frozen=True, slots=True)
class File:
    """One file of a job's result.

    Args:
        id: Its name on the content delivery network, without extension.
        media: What it shows.
        ready: Simulated moment from which it can be had. The last file's is the job's end.
        failure: Code, when this one file of several failed.
    """

    id: str
    media: Picture | Clip
    ready: float
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What a emulation sells, after it has validated the request.

    Args:
        account: Who pays.
        endpoint: The provider's endpoint, such as `o3-video`.
        prompt: The prompt as sent. It may carry a directive (see `directive`).
        media: What the result will show, one entry per file.
        durations: How long it takes.
        price: In the provider's unit.
        params: Anything else that the emulation wants to find again on the job.
        callback_url: The URL to call when the job has ended.
        id: The job's id if the customer chose it. If None, the state chooses one.
        lifetime: Simulated seconds that the results can be downloaded for. If None, as long as all others.
        upload_url: Where to send the result files with PUT. If None, nowhere.
        references: Small PNG files of the images that were sent (`images.thumbnails`).
    """

    account: Account
    endpoint: str
    prompt: str
    media: tuple[Picture | Clip, ...]
    durations: DurationRange
    price: Decimal
    params: Mapping[str, Any] = field(default_factory=dict)
    callback_url: str | None = None
    id: str | None = None
    lifetime: float | None = None
    upload_url: str | None = None
    references: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Job:
    """One accepted, paid generation.

    Args:
        id: The provider's id.
        order: What was bought.
        created: Simulated moment of the purchase.
        began: Simulated moment at which it leaves the queue.
        ends: Simulated moment of its end. Infinite for a stuck job.
        failure: Code with which it ends, or None if it succeeds.
        files: Its results (to be had from `File.ready` on).
        cancelled: Moment at which it was cancelled, or None if it was not.
        hidden: How many more times the provider claims not to know it yet.
        edition: Which URLs are valid: expiring the results raises it.
        webhook_first: The webhook is sent before the submit response.
    """

    id: str
    order: Order
    created: float
    began: float
    ends: float
    failure: str | None
    files: tuple[File, ...]
    cancelled: float | None = None
    hidden: int = 0
    edition: int = 0
    webhook_first: bool = False

    @property
    def provider(self) -> str:
        """The provider that sold it."""
        return self.order.account.provider

    def end_at(self, moment: float) -> None:
        """Change the plan: the job and its files are done at that moment."""
        self.began, self.ends = min(self.began, moment), moment
        self.files = tuple(replace(file, ready=moment) for file in self.files)

    def phase(self, now: float) -> Phase:
        """Where the job stands at a simulated moment."""
        if self.cancelled is not None and self.cancelled <= now:
            return Phase.CANCELLED
        if now >= self.ends:
            return Phase.FAILED if self.failure else Phase.COMPLETED
        return Phase.PROCESSING if now >= self.began else Phase.PENDING


class UnknownDirectiveError(OrderError):
    """The prompt holds a `[sandbox: ...]` directive that nobody understands."""


_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
#: What a `[sandbox: ...]` directive in a prompt can ask for, and its effect.
DIRECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "[sandbox: fail=CODE]": "The job fails with that code, in the provider's words.",
        "[sandbox: duration=SECONDS]": "The job takes that many simulated seconds.",
        "[sandbox: stuck]": "The job never ends.",
    }
)
_DIRECTIVE = re.compile(r"\[sandbox:([^\]]*)\]")


def directive(prompt: str) -> ScriptedOutcome | None:
    """Read how a job shall end out of its prompt, for users of the command line.

    `[sandbox: fail=CONTENT_POLICY_VIOLATION]`, `[sandbox: duration=3]` (simulated seconds) and
    `[sandbox: stuck]` stand anywhere in the prompt and combine: `[sandbox: fail=TASK_FAILED duration=20]`.

    Raises:
        UnknownDirectiveError: A directive is there, but not one of these.
    """
    found = _DIRECTIVE.search(prompt)
    if found is None:
        return None
    ending = ScriptedOutcome()
    for word in found[1].replace(",", " ").split():
        name, _, value = word.partition("=")
        if name == "fail" and value:
            ending = replace(ending, fail=value)
        elif name == "duration" and _NUMBER.fullmatch(value):
            ending = replace(ending, duration=float(value))
        elif word == "stuck":
            ending = replace(ending, stuck=True)
        else:
            raise UnknownDirectiveError(
                f"{word!r} in {found[0]!r} means nothing to the sandbox; it knows fail=CODE, duration=SECONDS and stuck"
            )
    return ending


def plan(order: Order, ending: ScriptedOutcome, now: float, rng: random.Random) -> Job:
    """Decide the whole life of a job that is bought now."""
    began, ends, failure = _life(order.durations, ending, rng)
    job_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    failing = ending.files or 0
    count = len(order.media)
    spread = (ends - began) * _SPREAD / count if math.isfinite(ends) else 0.0
    files = tuple(
        File(
            id=f"{rng.getrandbits(96):024x}",
            media=replace(media, seed=rng.getrandbits(31), references=media.references or order.references),
            ready=now + ends - spread * (count - 1 - index),
            failure=failure if index < failing else None,
        )
        for index, media in enumerate(order.media)
    )
    return Job(
        id=order.id or job_id,
        order=order,
        created=now,
        began=now + began,
        ends=now + ends,
        failure=None if failing else failure,
        files=files,
    )


def _life(durations: DurationRange, ending: ScriptedOutcome, rng: random.Random) -> tuple[float, float, str | None]:
    """Seconds until the start, seconds until the end, and the failure code of a job about to be planned."""
    drawn = durations.median * math.exp(durations.sigma * rng.gauss())
    share = rng.uniform(*durations.pending)
    duration = drawn if ending.duration is None else ending.duration
    if ending.stuck:
        return drawn * share, math.inf, None
    if durations.limit is not None and duration > durations.limit:
        return durations.limit * share, durations.limit, "TIMEOUT"
    return min(share, _STARTED_BY) * duration, duration, ending.fail
