"""The state behind every emulation: accounts, jobs and results. It knows no HTTP and starts no tasks."""

from __future__ import annotations

import hashlib
import math
import random
import secrets
from collections import Counter, deque
from typing import TYPE_CHECKING

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError, OrderError
from kling_async.sandbox.emulator.clock import Clock
from kling_async.sandbox.emulator.counters import Counters
from kling_async.sandbox.emulator.jobs import File, Job, Order, Phase, Picture, ScriptedOutcome, directive, plan
from kling_async.sandbox.faults.catalog import Fault, FaultRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.sandbox.media.renderer import Renderer


class DuplicateJobError(OrderError):
    """A job with the id that the customer chose exists already."""


class ProviderState:
    """The accounts and jobs of all emulated providers.

    Args:
        clock: The simulated time. If None, the real time.
        seed: Decides ids, durations and pictures: the same orders give the same jobs.
        secret: Decides the API keys. If None, they are random.
        lifetime: Simulated seconds that a result can be downloaded for. If None, there is no limit.
        counters: Counts what happens. If None, the state has its own.
        faults: The faults that new jobs may have. If None, they have none.
        renderer: Draws result files. If None, nothing can be downloaded.
        cdn: Returns the URL below which result files are served.

    Attributes:
        jobs: Every submitted job, by id.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        seed: int = 0,
        *,
        secret: str | None = None,
        lifetime: float | None = None,
        counters: Counters | None = None,
        faults: FaultRegistry | None = None,
        renderer: Renderer | None = None,
        cdn: Callable[[], str] = str,
    ) -> None:
        self.clock = clock or Clock()
        self.seed = seed
        self._secret = secret or secrets.token_hex(16)
        self.lifetime = lifetime
        self.counters = counters or Counters()
        self.faults = faults or FaultRegistry(seed)
        self.jobs: dict[str, Job] = {}
        self._renderer = renderer
        self._cdn = cdn
        self._accounts: dict[tuple[str, str], Account] = {}
        self._files: dict[str, tuple[Job, File]] = {}
        self._orders: Counter[str] = Counter()
        self._planned: deque[tuple[str | None, ScriptedOutcome]] = deque()
        self._subscribers: list[Callable[[Job], None]] = []

    def secret(self, label: str) -> str:
        """32 hexadecimal characters that belong to a label, such as an API key."""
        return hashlib.sha256(f"{self._secret}|{label}".encode()).hexdigest()[:32]

    def open_account(self, account: Account) -> Account:
        """Add an account."""
        self._accounts[account.provider, account.key] = account
        return account

    def account(self, provider: str, authorization: str | None) -> Account | None:
        """The account that an `Authorization: Bearer ...` header belongs to, or None if there is none."""
        scheme, _, key = (authorization or "").partition(" ")
        account = self._accounts.get((provider, key.strip()))
        if account is None or account.revoked or scheme.lower() != "bearer":
            return None
        return account

    def accounts(self, provider: str) -> list[Account]:
        """All accounts of a provider."""
        return [account for (name, _), account in self._accounts.items() if name == provider]

    def plan_next(self, outcome: ScriptedOutcome, *, provider: str | None = None, times: int = 1) -> None:
        """Decide how the next `times` jobs of a provider end, or of any provider if None. First planned, first used."""
        self._planned.extend((provider, outcome) for _ in range(times))

    def submit(self, order: Order) -> Job:
        """Accept a job: charge the account, plan the job, count it.

        Raises:
            InsufficientCreditsError: The account cannot pay. Nothing happened.
            DuplicateJobError: The chosen id is taken. Nothing happened.
            UnknownDirectiveError: The prompt has a directive that the sandbox does not know. Nothing happened.
        """
        directed = directive(order.prompt)
        if order.id is not None and order.id in self.jobs:
            raise DuplicateJobError(order.id)
        now = self.clock.now()
        balance = order.account.balance(now)
        if balance is not None and balance < order.price:
            raise InsufficientCreditsError(f"{order.price} needed, {balance} left")
        job = self._plan(order, directed or self._take_planned(order.account.provider) or ScriptedOutcome(), now)
        self._apply_faults(job)
        order.account.charge(order.price, job.ends if job.failure else None)
        self.jobs[job.id] = job
        self._files.update((file.id, (job, file)) for file in job.files)
        self.counters.bought[job.provider] += 1
        self._notify(job)
        return job

    def status(self, account: Account, job_id: str) -> Job | None:
        """The job, or None if the account has no such job (or the provider does not show it yet)."""
        job = self.jobs.get(job_id)
        if job is None or job.order.account is not account:
            return None
        if job.hidden > 0:
            job.hidden -= 1
            return None
        return job

    def cancel(self, job: Job) -> bool:
        """Stop a job. Returns False if it had ended already."""
        now = self.clock.now()
        if job.phase(now).terminal:
            return False
        job.cancelled = now
        self._notify(job)
        return True

    def phase(self, job: Job) -> Phase:
        """The phase that the job is in now."""
        return job.phase(self.clock.now())

    def file_url(self, job: Job, file: File) -> str:
        """The URL from which a finished file can be downloaded. After `expire`, it is another one."""
        return f"{self._cdn()}/{file.id}-{job.edition}.{self.extension(file)}"

    def extension(self, file: File) -> str:
        """How the file's name ends, such as `png`."""
        if isinstance(file.media, Picture):
            return file.media.format.replace("jpeg", "jpg")
        return self._renderer.clip_extension if self._renderer else "mp4"

    async def draw(self, file: File) -> bytes:
        """The content of a result file.

        Raises:
            RuntimeError: The state was made without a renderer.
        """
        if self._renderer is None:
            raise RuntimeError(f"file {file.id} cannot be drawn: this state has no renderer")
        return await self._renderer.draw(file.media)

    def file(self, file_id: str) -> tuple[Job, File] | None:
        """The job and the file with that id, or None if there is no such file."""
        return self._files.get(file_id)

    def downloadable(self, job: Job, file: File, edition: int) -> bool:
        """Whether this edition of a file's URL works now."""
        now = self.clock.now()
        lifetime = self.lifetime if job.order.lifetime is None else job.order.lifetime
        alive = lifetime is None or now < file.ready + lifetime
        done = file.ready <= now and file.failure is None and not job.failure and job.cancelled is None
        return edition == job.edition and alive and done

    def expire(self, job: Job) -> None:
        """Invalidate the URLs of the job's results. The next status report has new ones."""
        job.edition += 1

    def subscribe(self, subscriber: Callable[[Job], None]) -> None:
        """Call `subscriber(job)` when a job is submitted or cancelled, in the thread that does it."""
        self._subscribers.append(subscriber)

    def _notify(self, job: Job) -> None:
        for subscriber in self._subscribers:
            subscriber(job)

    def _take_planned(self, provider: str) -> ScriptedOutcome | None:
        # Iterates over a copy, because tests add plans from their own thread.
        for planned in list(self._planned):
            if planned[0] in {None, provider}:
                self._planned.remove(planned)
                return planned[1]
        return None

    def _apply_faults(self, job: Job) -> None:
        """Change a job that is being submitted, if a fault is due."""
        rule = self.faults.draw(job.provider, "job")
        if rule is None:
            return
        self.counters.faults[rule.fault] += 1
        if rule.fault is Fault.not_found_at_first:
            job.hidden = rule.polls
        elif rule.fault is Fault.stuck:
            job.end_at(math.inf)
        else:
            job.end_at(job.created)
            job.webhook_first = True

    def _plan(self, order: Order, ending: ScriptedOutcome, now: float) -> Job:
        # Equal orders are different jobs: the number of equal ones before it decides, not the time of arrival.
        identity = f"{self.seed}|{order.account.provider}|{order.endpoint}|{order.prompt}|{order.params}"
        self._orders[identity] += 1
        rng = random.Random(f"{identity}|{self._orders[identity]}")  # noqa: S311 - a simulation
        return plan(order, ending, now, rng)
