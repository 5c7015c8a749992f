"""The errors users meet, each with its facts and never with a key.

::

    KlingError
    ├── ConfigurationError          no key, no provider for this request, wrong loop use
    ├── InvalidRequest              refused by the provider as malformed
    ├── Unauthorized                the provider does not accept the key
    ├── InsufficientCredits         the account cannot pay
    ├── ContentRejected             refused by the provider's content policy
    ├── JobNotFound                 the provider does not know the job
    ├── RateLimited                 too many calls; carries ``retry_after``
    ├── ProviderUnavailable         the provider cannot serve, or answers nonsense
    ├── TransportFailed             no answer could be had; nothing was bought
    ├── SubmissionUnknown           the answer to a paid POST was lost; not sent again
    ├── KeyConflict                 the same key was used with another request
    ├── LedgerFailed                the ledger cannot be read or written; nothing was sent
    ├── GenerationFailed            the provider reports that the job failed
    ├── GenerationCancelled         the job was cancelled
    ├── GenerationTimeout           the job's deadline passed; it may still be running
    ├── NotOffered                  no provider of the client makes exactly this; carries ``reasons``
    ├── AllRefused                  every provider that makes it refused; carries ``errors``
    ├── BudgetExceeded              the next submission would overstep the budget
    ├── BulkStopped                 a bulk run stopped submitting; carries ``cause``
    ├── WebhookRejected             a delivery is not authentic, or not readable
    └── DownloadFailed              a result could not be saved; the job is kept

A request whose fields are malformed is refused before anything is sent, with a ``pydantic.ValidationError``.

`AnswerLost` and `UnreadableReply` are internal: users receive them as `SubmissionUnknown` and `ProviderUnavailable`.

What to do about an error is data: ``error.remedies`` holds `Remedy` values. ``error.message`` holds the facts only, and
``str(error)`` shows the message, the facts and the remedies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, TypeVar

if TYPE_CHECKING:
    from kling_async._models import Cost, Event, JobRef, Result, Status

__all__ = [
    "AllRefused",
    "AnswerLost",
    "BudgetExceeded",
    "BulkStopped",
    "ConfigurationError",
    "ContentRejected",
    "DownloadFailed",
    "GenerationCancelled",
    "GenerationFailed",
    "GenerationTimeout",
    "InsufficientCredits",
    "InvalidRequest",
    "JobHandle",
    "JobNotFound",
    "KeyConflict",
    "KlingError",
    "LedgerFailed",
    "NotOffered",
    "ProviderUnavailable",
    "RateLimited",
    "ReceivedAnswer",
    "Remedy",
    "SubmissionUnknown",
    "TransportFailed",
    "Unauthorized",
    "UnreadableReply",
    "WebhookRejected",
]


ErrorT = TypeVar("ErrorT", bound="KlingError")
Action: TypeAlias = Literal[
    "attach",
    "resume",
    "resolve",
    "resubmit",
    "forget",
    "retry",
    "raise_budget",
    "configure",
    "check_account",
    "change_request",
]


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing that the user can do about an error or an unfinished submission.

    Attributes:
        action: What to do. ``attach``, ``resume``, ``resolve``, ``resubmit`` and ``forget`` are methods of `Client`.
        key: The key of the submission, for ``resolve``, ``resubmit`` and ``forget``.
        ref: The job's reference, for ``attach`` and ``resolve``, where it is known.
        detail: The fact that the action needs: the variable to set or what else to set up (``configure``), the amount
            to name (``raise_budget``: ``usd`` or ``credits``), the account to check (``check_account``), what to change
            (``change_request``), what to try again (``retry``). Of a method: when it is the right one, or its effect.
        needs_request: The request must be passed to ``resubmit``, because the ledger does not have all of it.
    """

    action: Action
    key: str | None = None
    ref: str | None = None
    detail: str = ""
    needs_request: bool = False

    def as_python(self) -> str:
        """The remedy as Python code, such as ``client.forget('row-1')``; as an instruction where no call does it."""
        template, usual = _PYTHON[self.action]
        detail = self.detail or usual
        if self.action == "configure" and detail.isupper():
            detail = f"set {detail}"
        return template.format(
            key="key" if self.key is None else repr(self.key),
            ref="ref" if self.ref is None else repr(self.ref),
            request=", request" if self.needs_request else "",
            detail=detail,
        )

    def __str__(self) -> str:
        called = self.action in _METHODS
        return f"{self.as_python()} {self.detail}" if called and self.detail else self.as_python()


_METHODS = frozenset({"attach", "resume", "resolve", "resubmit", "forget"})
_PYTHON: Mapping[Action, tuple[str, str]] = {
    "attach": ("client.attach({ref})", ""),
    "resume": ("client.resume()", ""),
    "resolve": ("client.resolve({key}, {ref})", ""),
    "resubmit": ("client.resubmit({key}{request})", ""),
    "forget": ("client.forget({key})", ""),
    "retry": ("{detail}", "try again later"),
    "raise_budget": ("Budget({detail}=...)", "usd"),
    "configure": ("{detail}", "set the API key"),
    "check_account": ("check the {detail} account", "provider's"),
    "change_request": ("change {detail}", "the request"),
}
"""For each action its Python, and the detail where the remedy has none."""


@dataclass(frozen=True, slots=True)
class ReceivedAnswer:
    """The start of an HTTP answer that could not be used, without secrets.

    Attributes:
        status: The HTTP status code.
        headers: The headers.
        body: The first 300 characters of the body.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


class JobHandle(Protocol):
    """The part of `Job` that an error's ``job`` is sure to have."""

    @property
    def ref(self) -> JobRef:
        """The job's reference."""

    @property
    def key(self) -> str | None:
        """The key of its submission, where it is known."""

    @property
    def tags(self) -> Mapping[str, str]:
        """What was stored with its submission."""

    @property
    def request(self) -> Any:
        """What was submitted, where it is known."""

    @property
    def status(self) -> Status:
        """The last known status."""

    @property
    def events(self) -> tuple[Event, ...]:
        """The events so far."""

    @property
    def cost(self) -> Cost | None:
        """What the job costs, where the provider reports it."""

    @property
    def refunded(self) -> bool:
        """Whether the provider gave the cost back."""

    def __await__(self) -> Generator[Any, Any, Result]: ...

    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def wait(self, timeout: float | None = None) -> Status:  # noqa: ASYNC109  # a bound, not an error
        """Wait for the end."""
        ...

    async def refresh(self) -> Status:
        """Ask the provider now."""
        ...

    async def cancel(self) -> bool:
        """Ask the provider to cancel the job."""
        ...


class KlingError(Exception):
    """Base of all errors of this library.

    Args:
        message: What happened. It does not contain what to do next.
        provider: Name of the provider, such as ``"runblob"``.
        ref: Text of the job's ``JobRef``, where there is a job.
        http_status: Status code of the provider's answer, where there was one.
        code: The provider's own word for the error.
        request_id: The provider's id of the HTTP request, for its support.
        remedies: What can be done about it, the best first.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        ref: str | None = None,
        http_status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        remedies: tuple[Remedy, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.ref = ref
        self.http_status = http_status
        self.code = code
        self.request_id = request_id
        self.remedies = remedies

    def __str__(self) -> str:
        facts = {
            "job": self.ref,
            "provider": None if self.ref else self.provider,
            "HTTP": self.http_status,
            "code": self.code,
            "request id": self.request_id,
        }
        shown = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
        text = f"{self.message} [{shown}]" if shown else self.message
        return f"{text}. Next step: {', or '.join(map(str, self.remedies))}" if self.remedies else text

    def __copy__(self) -> Self:
        return _restored(type(self), self.args, self.__dict__)

    def __deepcopy__(self, memo: object) -> Self:
        return self.__copy__()  # copies of an error share its job

    def __reduce__(self) -> tuple[Any, ...]:
        # A handle belongs to its process. In another one `ref` names the job.
        return _restored, (type(self), self.args, {**self.__dict__, **({"job": None} if hasattr(self, "job") else {})})


def _restored(kind: type[ErrorT], args: tuple[Any, ...], facts: dict[str, Any]) -> ErrorT:
    """A copy of the error, made from its facts because constructors differ."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class ConfigurationError(KlingError):
    """The client cannot do this as it was set up: no key, no provider for the request, used after close."""


class GivenUp(ConfigurationError):
    """A submission whose run was stopped before anything was sent. Users do not receive it: the row counts as left."""


class InvalidRequest(KlingError):
    """The provider refused the request as malformed. Nothing was bought."""


class Unauthorized(KlingError):
    """The provider does not accept the API key, or the key may not do this."""


class InsufficientCredits(KlingError):
    """The account cannot pay for the generation. Nothing was bought."""


class ContentRejected(KlingError):
    """The provider's content policy refused the request. The same request will be refused again."""


class JobNotFound(KlingError):
    """The provider does not know the job (or no longer does)."""


class RateLimited(KlingError):
    """The provider reports that too many calls were made.

    Args:
        message: What happened.
        retry_after: Seconds to wait before the next call, where the provider named them.
        **facts: Same as `KlingError`.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class ProviderUnavailable(KlingError):
    """The provider cannot serve now (5xx, maintenance), or its answers cannot be read."""

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class UnreadableReply(ProviderUnavailable):
    """An answer that is not what the provider documents: cut JSON, an HTML page, missing fields."""


class TransportFailed(KlingError):
    """No answer could be had from the provider: DNS, connection, TLS or time-out."""


class AnswerLost(KlingError):
    """A paid call was sent, and its outcome is not known. Users receive it as `SubmissionUnknown`.

    Args:
        message: What is known.
        answer: The answer that could not be used, where there was one.
        **facts: Same as `KlingError`.
    """

    def __init__(self, message: str, *, answer: ReceivedAnswer | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.answer = answer


class SubmissionUnknown(KlingError):
    """The answer to a paid submission was lost: a job may have been bought. It is not sent again automatically.

    Args:
        message: What is known.
        key: The submission's key: the user's own, or the one that was made for it.
        answer: The answer that could not be used, where there was one.
        **facts: Same as `KlingError`. ``ref`` is the job's reference where the id is chosen by us: the job exists under
            it if it was bought.
    """

    def __init__(self, message: str, *, key: str = "", answer: ReceivedAnswer | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.key = key
        self.answer = answer


class KeyConflict(KlingError):
    """A submission key that was already used came again with another request. Nothing was sent."""


class LedgerFailed(KlingError):
    """The ledger cannot be read or written (a full disk, a damaged file). What was to be sent was not sent.

    Attributes:
        temporary: Whether the same call works later, and nobody has to mend anything but a server that was there before
            and does not answer now. ``client.map`` waits for it.
    """

    def __init__(self, message: str, *, temporary: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.temporary = temporary


class _JobError(KlingError):
    """An error about one job. ``job`` is its handle, which is not pickled: in another process it is None.

    There, ``client.attach(error.ref)`` makes a new handle.
    """

    def __init__(self, message: str, *, job: JobHandle, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.job = job


class GenerationFailed(_JobError):
    """The provider reports that the job failed.

    Attributes:
        job: The job. If None, the error was pickled, and `ref` names the job.
        code: The provider's word for the reason, such as ``"CONTENT_POLICY_VIOLATION"``.
        retryable: Whether submitting the same request again may succeed. False for policy. If None, it is not known,
            because the provider gave no code or one that is not documented.
    """

    def __init__(self, message: str, *, job: JobHandle, retryable: bool | None, **facts: Any) -> None:
        super().__init__(message, job=job, **facts)
        self.retryable = retryable


class GenerationCancelled(_JobError):
    """The job was cancelled at the provider."""


class GenerationTimeout(_JobError):
    """The job's deadline passed while it was still running. It is not cancelled: ``attach`` makes a new handle."""


class NotOffered(KlingError):
    """No provider of the client makes exactly what a portable request describes; nothing was sent.

    Args:
        message: What happened.
        reasons: Why not, by endpoint.
        change: The nearest change that would work: fields of the request with other values. Empty if none is known.
        **facts: Same as `KlingError`.
    """

    def __init__(
        self,
        message: str,
        *,
        reasons: Mapping[str, str] | None = None,
        change: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.reasons = dict(reasons or {})
        self.change = dict(change or {})


class AllRefused(KlingError):
    """Every provider that makes what a portable request describes refused it; nothing was bought.

    Args:
        message: What happened.
        errors: What each of them answered, by endpoint, in the order in which they were tried.
        **facts: Same as `KlingError`.
    """

    def __init__(self, message: str, *, errors: Mapping[str, KlingError] | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.errors = dict(errors or {})


class BudgetExceeded(KlingError):
    """The next submission would overstep the budget. Nothing was sent."""


class BulkStopped(KlingError):
    """A bulk run stopped submitting. What was in flight has finished.

    Args:
        message: What is done and what is left.
        cause: The error that stopped it.
        **facts: Same as `KlingError`.
    """

    def __init__(self, message: str, *, cause: KlingError | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.cause = cause


class WebhookRejected(KlingError):
    """A webhook delivery is not authentic, too large, or not readable. No job was changed."""


class DownloadFailed(KlingError):
    """A result could not be saved. The job is kept: saving may be tried again."""
