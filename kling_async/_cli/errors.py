"""Exit codes, and errors reported in one message: what happened, to what, what is allowed, what to do."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kling_async import (
    AllRefused,
    BudgetExceeded,
    BulkStopped,
    ConfigurationError,
    ContentRejected,
    DownloadFailed,
    GenerationCancelled,
    GenerationFailed,
    GenerationTimeout,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KeyConflict,
    KlingError,
    LedgerFailed,
    NotOffered,
    ProviderUnavailable,
    RateLimited,
    SubmissionUnknown,
    TransportFailed,
    Unauthorized,
)
from kling_async._cli.output.formatting import printable
from kling_async._rows.advice import in_one_sentence, message_of, steps_of
from kling_async._rows.errors import InputError

__all__ = [
    "EXITS",
    "FAILED",
    "INTERRUPTED",
    "TRACEBACK",
    "UNKNOWN",
    "UNREACHABLE",
    "UNSAVED",
    "CommandError",
    "Problem",
    "close_output",
    "explain",
    "is_output_error",
    "print_final_message",
]

FAILED, USAGE, NO_KEY, CREDITS, TIMED_OUT, REJECTED, NOT_FOUND, UNREACHABLE, UNKNOWN, UNSAVED, CANCELLED = range(1, 12)
LEDGER, BUDGET = 12, 13
FAULT = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED = 141  # 128 + SIGPIPE, the same
_NO_PLACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

EXITS: Mapping[int, str] = {
    0: "success",
    FAILED: "the generation failed; in a bulk run, some rows failed; kling doctor found an error",
    USAGE: "wrong usage or an invalid request; nothing was bought",
    NO_KEY: "no API key, or the provider does not accept it",
    CREDITS: "the account has not enough credits",
    TIMED_OUT: "timed out; the job goes on, and its reference is printed",
    REJECTED: "refused by the provider's content policy",
    NOT_FOUND: "the provider does not know the job",
    UNREACHABLE: "the provider cannot be reached or is not available",
    UNKNOWN: "the outcome of a submission is not known; a job may have been bought",
    UNSAVED: "a result could not be saved or printed; the job is not lost",
    CANCELLED: "the job was cancelled at the provider",
    LEDGER: "the ledger cannot be read or written; nothing was bought without it",
    BUDGET: "the budget is spent; running jobs were waited for",
    FAULT: "an internal error; jobs that were bought are listed, and go on",
    INTERRUPTED: "interrupted; jobs that were bought are listed, and go on",
    PIPE_CLOSED: "the output was closed; jobs that were bought go on",
}
"""Every exit code of the program, and what it means."""

TRACEBACK = "KLING_TRACEBACK"
"""The environment variable with which an internal error is raised instead of reported."""

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (GenerationFailed, FAILED),
    (GenerationCancelled, CANCELLED),
    (GenerationTimeout, TIMED_OUT),
    (Unauthorized, NO_KEY),
    (InsufficientCredits, CREDITS),
    (BudgetExceeded, BUDGET),
    (ContentRejected, REJECTED),
    (JobNotFound, NOT_FOUND),
    (SubmissionUnknown, UNKNOWN),
    (DownloadFailed, UNSAVED),
    (RateLimited, UNREACHABLE),
    (ProviderUnavailable, UNREACHABLE),
    (TransportFailed, UNREACHABLE),
    (AllRefused, UNREACHABLE),
    (NotOffered, USAGE),
    (ConfigurationError, USAGE),
    (InvalidRequest, USAGE),
    (KeyConflict, USAGE),
    (LedgerFailed, LEDGER),
    (OSError, USAGE),
    (ImportError, USAGE),
    (KlingError, FAILED),
)


class CommandError(InputError):
    """The command cannot be done as it was given.

    Args:
        message: What is wrong, and what to do.
        code: The exit code.
    """

    def __init__(self, message: str, *, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as users meet it.

    Attributes:
        kind: The name of the error's class.
        message: What happened, and what to do.
        code: The exit code.
        ref: The job, if it is about one.
        fields: The invalid fields of the request, and why.
        labels: How users write these fields, where not by their names.
        facts: What the provider answered: ``provider``, ``http_status``, ``code``, ``request_id``.
        next_steps: What can be done about it: commands of ``kling``, and instructions.
    """

    kind: str
    message: str
    code: int
    ref: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    next_steps: Sequence[str] = ()

    def lines(self) -> Iterator[str]:
        """The problem in words, and what to do."""
        yield printable(self.message)
        for name, reason in self.fields.items():
            yield f"  {printable(self.labels.get(name, name))}: {printable(reason)}"
        for number, step in enumerate(self.next_steps):
            yield f"  {'or' if number else 'next'}: {printable(step)}"

    @property
    def sentence(self) -> str:
        """The same on one line."""
        return in_one_sentence(self.message, self.next_steps)

    def as_json(self) -> dict[str, Any]:
        """The problem as JSON values."""
        fields: dict[str, Any] = {"type": "error", "error": self.kind, "message": self.message, "exit_code": self.code}
        fields |= {"ref": self.ref} if self.ref else {}
        fields |= {"fields": dict(self.fields)} if self.fields else {}
        fields |= {"next_steps": list(self.next_steps)} if self.next_steps else {}
        return {**fields, **self.facts}


def explain(error: Exception) -> Problem:
    """The report of an error for the user."""
    if isinstance(error, InputError):
        code = error.code if isinstance(error, CommandError) else USAGE
        kind = "UsageError" if code == USAGE else "ConfigurationError"
        return Problem(kind, error.message, code, fields=error.fields, labels=error.labels)
    if isinstance(error, BulkStopped) and error.cause is not None:
        cause = explain(error.cause)
        words = f"the run stopped: {cause.message}. The same command continues once the cause is removed"
        return Problem(type(error).__name__, words, cause.code, next_steps=cause.next_steps)
    if is_output_error(error):
        return Problem("OutputError", f"the output cannot be written: {error}; send it to another place", UNSAVED)
    code = next((code for kind, code in _CODES if isinstance(error, kind)), USAGE if _is_invalid(error) else FAULT)
    if isinstance(error, KlingError):
        if isinstance(error, GenerationFailed) and _by_policy(error):
            code = REJECTED
        facts = {name: getattr(error, name) for name in ("provider", "http_status", "code", "request_id")}
        kept = {("provider_code" if name == "code" else name): fact for name, fact in facts.items() if fact is not None}
        kind, steps = type(error).__name__, steps_of(error)
        return Problem(kind, message_of(error), code, error.ref, facts=kept, next_steps=steps)
    if code == FAULT:
        kind = type(error).__name__
        words = f"{kind}: {error}. This is an internal error of kling; {TRACEBACK}=1 in the environment shows where"
        return Problem(kind, words, code)
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    name = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return Problem(type(error).__name__, f"{name}{words or type(error).__name__}", code)


def _is_invalid(error: Exception) -> bool:
    """Whether pydantic refused a value."""
    from pydantic import ValidationError  # noqa: PLC0415  # a quarter of the time of kling --help, which needs none of it

    return isinstance(error, ValidationError)


def _by_policy(error: GenerationFailed) -> bool:
    """Whether the job failed by the provider's content policy."""
    from kling_async.providers import ALL_PROVIDERS  # noqa: PLC0415  # kling --help does not load the library

    codes = {code: kind for provider in ALL_PROVIDERS for code, kind in provider.error_mapper.codes.items()}
    return error.code is not None and (
        codes.get(error.code) is ContentRejected or _POLICY_CODE.search(error.code) is not None
    )


_POLICY_CODE = re.compile("policy|moderation|nsfw|sensitive", re.IGNORECASE)
"""In codes of providers that do not list theirs."""


def is_output_error(error: BaseException | None) -> bool:
    """Whether it means that our output has no place to go. What is wrong with a file of ours names the file."""
    return isinstance(error, OSError) and error.filename is None and error.errno in _NO_PLACE


def print_final_message(lines: Iterable[str]) -> None:
    """Report what must not be lost on a stream that still works, and write nothing more."""
    text = "".join(f"{printable(line)}\n" for line in lines)
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError):
            stream.write(text)
            stream.flush()
            break
    close_output()


def close_output() -> None:
    """Write nothing more, to standard output or standard error: its reader closed the pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # the interpreter flushes both at its end
        os.dup2(nowhere, stream.fileno())
