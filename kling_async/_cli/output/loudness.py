"""``-v`` and ``-q``: how much a command says."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Annotated, Any

import typer

__all__ = ["is_quiet", "log_level", "with_loudness"]

_QUIET = -1
_loudness: ContextVar[int] = ContextVar("loudness", default=0)

_Verbose = Annotated[
    int, typer.Option("-v", "--verbose", count=True, help="Log what is submitted and ends; -vv each call as well.")
]
_Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say only results, warnings and errors.")]


def with_loudness(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options ``-v`` and ``-q``."""

    @wraps(command)
    def called(*, verbose: int, quiet: bool, **given: Any) -> None:
        if verbose and quiet:
            raise typer.BadParameter("-v and -q contradict each other: leave one of them out")
        _loudness.set(_QUIET if quiet else verbose)
        command(**given)

    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=0, annotation=_Verbose),
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Quiet),
    ]
    called.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]  # as PEP 362 has it
    return called


def is_quiet() -> bool:
    """Whether only results, warnings and errors are wanted."""
    return _loudness.get() == _QUIET


def log_level() -> int:
    """The least level of the library's log that is shown."""
    return {_QUIET: logging.WARNING, 0: logging.WARNING, 1: logging.INFO}.get(_loudness.get(), logging.DEBUG)
