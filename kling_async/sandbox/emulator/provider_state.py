"""The simulated company behind every dialect: customers, jobs, results. No HTTP, no tasks."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from typing import TYPE_CHECKING

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError, OrderError
from kling_async.sandbox.emulator.clock import Clock
from kling_async.sandbox.emulator.counters import Counters
from kling_async.sandbox.emulator.jobs import Clip, File, Job, Order, Phase, Picture, ScriptedOutcome, directive, plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class DuplicateJobError(OrderError):
    """A job with the id that the customer chose exists already."""


async def _nobody_draws(media: Picture | Clip) -> bytes:
    raise RuntimeError(f"this world has no renderer for {media!r}: it is not behind a Sandbox")


class ProviderState:
    """All the providers' customers and jobs.

    Args:
        clock: The time that passes.
        seed: Decides ids, durations and pictures; the same orders give the same jobs.
        lifetime: Simulated seconds that a result can be downloaded for; None: for ever.

    Attributes:
        counters: What happened so far.
        jobs: Every job sold, by id.
        draw: Makes the bytes of a result file (in a worker thread; the server sets it).
        afflict: May spoil a job that is being bought (the server sets it to its faults).
        cdn: Where result files are served (the server sets it).
        clip_extension: The container of videos (the server sets it).
    """

    def __init__(
        self,
        clock: Clock | None = None,
        seed: int = 0,
        *,
        lifetime: float | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.seed = seed
        self.lifetime = lifetime
        self.counters = Counters()
        self.jobs: dict[str, Job] = {}
        self.cdn = ""
        self.draw: Callable[[Picture | Clip], Awaitable[bytes]] = _nobody_draws
        self.afflict: Callable[[Job], None] = lambda _: None
        self.clip_extension = "mp4"
        self._accounts: dict[tuple[str, str], Account] = {}
        self._files: dict[str, tuple[Job, File]] = {}
        self._orders: Counter[str] = Counter()
        self._scripts: deque[tuple[str | None, ScriptedOutcome]] = deque()
        self._watchers: list[Callable[[Job], None]] = []

    def secret(self, label: str) -> str:
        """32 hexadecimal characters, by seed: API keys that tests can search logs for."""
        return hashlib.sha256(f"{self.seed}|{label}".encode()).hexdigest()[:32]

    def open_account(self, account: Account) -> Account:
        """Add a customer."""
        self._accounts[account.provider, account.key] = account
        return account

    def account(self, provider: str, authorization: str | None) -> Account | None:
        """The customer behind an `Authorization: Bearer ...` header; None: nobody this provider serves."""
        scheme, _, key = (authorization or "").partition(" ")
        account = self._accounts.get((provider, key.strip()))
        if account is None or account.revoked or scheme.lower() != "bearer":
            return None
        return account

    def accounts(self, provider: str) -> list[Account]:
        """All customers of a provider."""
        return [account for (name, _), account in self._accounts.items() if name == provider]

    def script(self, ending: ScriptedOutcome, *, provider: str | None = None, times: int = 1) -> None:
        """Decide how the next `times` jobs of a provider (None: of any) end; scripts are used in order."""
        self._scripts.extend((provider, ending) for _ in range(times))

    def submit(self, order: Order) -> Job:
        """Sell a job: charge it, plan its life, count it.

        Raises:
            InsufficientCreditsError: The account cannot pay; nothing happened.
            DuplicateJobError: The chosen id is taken; nothing happened.
            UnknownDirectiveError: The prompt gives an order that the sandbox does not know; nothing happened.
        """
        asked = directive(order.prompt)
        if order.id is not None and order.id in self.jobs:
            raise DuplicateJobError(order.id)
        now = self.clock.now()
        balance = order.account.balance(now)
        if balance is not None and balance < order.price:
            raise InsufficientCreditsError(f"{order.price} asked, {balance} left")
        job = self._plan(order, asked or self._scripted(order.account.provider) or ScriptedOutcome(), now)
        self.afflict(job)
        order.account.charge(order.price, job.ends if job.failure else None)
        self.jobs[job.id] = job
        self._files.update((file.id, (job, file)) for file in job.files)
        self.counters.bought[job.provider] += 1
        self._tell(job)
        return job

    def look(self, account: Account, job_id: str) -> Job | None:
        """The job as its provider would admit to it; None: no such job of this customer (yet)."""
        job = self.jobs.get(job_id)
        if job is None or job.order.account is not account:
            return None
        if job.hidden > 0:
            job.hidden -= 1
            return None
        return job

    def cancel(self, job: Job) -> bool:
        """Stop a job; False: it had ended already."""
        now = self.clock.now()
        if job.phase(now).terminal:
            return False
        job.cancelled = now
        self._tell(job)
        return True

    def phase(self, job: Job) -> Phase:
        """Where the job stands now."""
        return job.phase(self.clock.now())

    def file_url(self, job: Job, file: File) -> str:
        """Where a finished file can be downloaded now; asking again after it expired gives a new address."""
        extension = self.clip_extension if isinstance(file.media, Clip) else file.media.format.replace("jpeg", "jpg")
        return f"{self.cdn}/{file.id}-{job.edition}.{extension}"

    def file(self, file_id: str) -> tuple[Job, File] | None:
        """The job and file behind a name on the content delivery network; None: no such file."""
        return self._files.get(file_id)

    def downloadable(self, job: Job, file: File, edition: int) -> bool:
        """Whether this edition of a file's address still works."""
        now = self.clock.now()
        alive = self.lifetime is None or now < file.ready + self.lifetime
        done = file.ready <= now and file.failure is None and not job.failure and job.cancelled is None
        return edition == job.edition and alive and done

    def expire(self, job: Job) -> None:
        """Kill the addresses given out for the job's results so far; the next status answer has new ones."""
        job.edition += 1

    def watch(self, watcher: Callable[[Job], None]) -> None:
        """Call `watcher(job)` when a job is bought or cancelled, from the thread that does it."""
        self._watchers.append(watcher)

    def _tell(self, job: Job) -> None:
        for watcher in self._watchers:
            watcher(job)

    def _scripted(self, provider: str) -> ScriptedOutcome | None:
        # A copy, because tests write scripts from their own thread.
        for script in list(self._scripts):
            if script[0] in {None, provider}:
                self._scripts.remove(script)
                return script[1]
        return None

    def _plan(self, order: Order, ending: ScriptedOutcome, now: float) -> Job:
        # The same order again is another job: told apart by how often it was seen, not by arrival.
        identity = f"{self.seed}|{order.account.provider}|{order.endpoint}|{order.prompt}|{order.params}"
        self._orders[identity] += 1
        dice = random.Random(f"{identity}|{self._orders[identity]}")  # noqa: S311 - a simulation
        return plan(order, ending, now, dice)
