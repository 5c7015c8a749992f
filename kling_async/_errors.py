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
    ├── GenerationFailed            the provider says that the job failed
    ├── GenerationCancelled         the job was cancelled
    ├── GenerationTimeout           the job's deadline passed; it may still be running
    ├── BudgetExceeded              the next submission would overstep the budget
    ├── BulkStopped                 a bulk run stopped submitting; carries ``cause``
    ├── WebhookRejected             a delivery is not authentic, or not readable
    └── DownloadFailed              a result could not be saved; the job is kept

What is malformed before anything is sent (a request's fields) is a ``pydantic.ValidationError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from kling_async._job import Job

__all__ = [
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
    "JobNotFound",
    "KeyConflict",
    "KlingError",
    "LedgerFailed",
    "ProviderUnavailable",
    "RateLimited",
    "SubmissionUnknown",
    "TransportFailed",
    "Unauthorized",
    "UnreadableReply",
    "WebhookRejected",
]


ErrorT = TypeVar("ErrorT", bound="KlingError")


class KlingError(Exception):
    """Base of all errors of this library.

    Args:
        message: What happened, and what to do next.
        provider: Name of the provider, such as ``"runblob"``.
        ref: Text of the job's ``JobRef``, where there is a job.
        http_status: Status code of the provider's answer, where there was one.
        code: The provider's own word for the error.
        request_id: The provider's id of the HTTP request, for its support.
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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.ref = ref
        self.http_status = http_status
        self.code = code
        self.request_id = request_id

    def __str__(self) -> str:
        facts = {
            "job": self.ref,
            "provider": None if self.ref else self.provider,
            "HTTP": self.http_status,
            "code": self.code,
            "request id": self.request_id,
        }
        shown = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
        return f"{self.message} [{shown}]" if shown else self.message

    def __copy__(self) -> Self:
        return _restored(type(self), self.args, self.__dict__)

    def __deepcopy__(self, memo: object) -> Self:
        return self.__copy__()  # a job is one, however often its error is copied

    def __reduce__(self) -> tuple[Any, ...]:
        # A handle belongs to its process; in another one `ref` tells the job.
        return _restored, (type(self), self.args, {**self.__dict__, **({"job": None} if hasattr(self, "job") else {})})


def _restored(kind: type[ErrorT], args: tuple[Any, ...], facts: dict[str, Any]) -> ErrorT:
    """The same error once more: made from its facts, as constructors differ."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class ConfigurationError(KlingError):
    """The client cannot do this as it was set up: no key, no provider for the request, used after close."""


class InvalidRequest(KlingError):
    """The provider refused the request as malformed; nothing was bought."""


class Unauthorized(KlingError):
    """The provider does not accept the API key, or the key may not do this."""


class InsufficientCredits(KlingError):
    """The account cannot pay for the generation; nothing was bought."""


class ContentRejected(KlingError):
    """The provider's content policy refused the request; the same request will be refused again."""


class JobNotFound(KlingError):
    """The provider does not know the job (or no longer does)."""


class RateLimited(KlingError):
    """The provider says that too many calls were made.

    Args:
        message: What happened, and what to do next.
        retry_after: Seconds after which the provider wants to be asked again, if it said so.
        **facts: As of `KlingError`.
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
    """A paid call was sent, and what became of it is not known. Users meet it as `SubmissionUnknown`."""


class SubmissionUnknown(KlingError):
    """The answer to a paid submission was lost: a job may have been bought. It is not sent again by us.

    Args:
        message: What is known, and the ways out.
        key: The submission's key: the user's own, or the one that was made for it.
        **facts: As of `KlingError`.
    """

    def __init__(self, message: str, *, key: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.key = key


class KeyConflict(KlingError):
    """A submission key that was already used came again with another request; nothing was sent."""


class LedgerFailed(KlingError):
    """The ledger cannot be read or written (a full disk, a damaged file). What was to be sent was not sent."""


class _JobError(KlingError):
    """An error about one job; ``job`` is its handle, which does not travel: unpickled, it is None.

    ``ref`` is the job's address then as ever: ``client.attach(error.ref)``.
    """

    def __init__(self, message: str, *, job: Job, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.job = job


class GenerationFailed(_JobError):
    """The provider says that the job failed.

    Attributes:
        job: The job; None once the error was pickled, where `ref` is left.
        code: The provider's word for the reason, such as ``"CONTENT_POLICY_VIOLATION"``.
        retryable: Whether submitting the same request again may succeed. Never true for policy.
    """

    def __init__(self, message: str, *, job: Job, retryable: bool, **facts: Any) -> None:
        super().__init__(message, job=job, **facts)
        self.retryable = retryable


class GenerationCancelled(_JobError):
    """The job was cancelled at the provider."""


class GenerationTimeout(_JobError):
    """The job's deadline passed while it was still running. It is not cancelled; ``attach`` finds it again."""


class BudgetExceeded(KlingError):
    """The next submission would overstep the budget; nothing was sent."""


class BulkStopped(KlingError):
    """A bulk run stopped submitting; what was in flight has finished.

    Args:
        message: What is done and what is left.
        cause: The error that stopped it.
        **facts: As of `KlingError`.
    """

    def __init__(self, message: str, *, cause: KlingError | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.cause = cause


class WebhookRejected(KlingError):
    """A webhook delivery is not authentic, too large, or not readable; no job was changed."""


class DownloadFailed(KlingError):
    """A result could not be saved. The job is kept: saving may be tried again."""
