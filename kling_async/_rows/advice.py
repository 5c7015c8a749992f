"""An error in words: what happened, and the library's `Remedy` values as commands of ``kling``."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path

from kling_async import GenerationTimeout, KlingError, Remedy

__all__ = ["advise_with", "as_command", "as_commands", "facts_of", "in_one_sentence", "message_of", "steps_of"]

_ledger_option: ContextVar[str] = ContextVar("ledger_option", default="")


def advise_with(ledger: Path | None, usual: str) -> None:
    """Name the ledger in all commands that are advised from now on, unless they use it by default.

    Args:
        ledger: The ledger that the program works with. If None, it has none.
        usual: The ledger that the commands use by default.
    """
    named = ledger is not None and str(ledger) != usual
    _ledger_option.set(f" --ledger {shlex.quote(str(ledger))}" if named else "")


def as_commands(remedies: Iterable[Remedy]) -> list[str]:
    """The remedies as users of the command line carry them out, each one once."""
    found: dict[str, None] = {}
    forgotten = False
    for remedy in remedies:
        if remedy.action == "forget" and forgotten:
            continue  # the same command stands before it
        forgotten = forgotten or (remedy.action == "resubmit" and remedy.needs_request)
        found.setdefault(as_command(remedy))
    return list(found)


def as_command(remedy: Remedy) -> str:
    """The remedy as a command, with the reason for it, or as an instruction, where no command does it."""
    if remedy.action == "resubmit" and remedy.needs_request:
        command = "`kling resolve {key} --forget{ledger}`, then generate it again"
    elif remedy.action == "configure" and remedy.detail.isupper():
        return f"`export {remedy.detail}=...`"
    else:
        command = _COMMANDS.get(remedy.action, "")
    if not command:
        return str(remedy)
    text = command.format(
        key="KEY" if remedy.key is None else shlex.quote(remedy.key),
        ref="REF" if remedy.ref is None else shlex.quote(remedy.ref),
        ledger=_ledger_option.get(),
        detail=remedy.detail,
    )
    return f"{text} {remedy.detail}" if remedy.detail and "{detail}" not in command else text


_COMMANDS = {
    "attach": "`kling watch {ref}`",
    "resume": "`kling resume{ledger}`",
    "resolve": "`kling resolve {key} {ref}{ledger}`",
    "resubmit": "`kling resolve {key} --resubmit{ledger}`",
    "forget": "`kling resolve {key} --forget{ledger}`",
    "raise_budget": "give a larger --budget, such as 20{detail}",
    "check_account": "check the {detail} account; `kling watch REF` follows a job that is there",
}
"""The actions for which the command line has words of its own."""


def facts_of(error: KlingError) -> str:
    """What happened, without the advice, which would be Python."""
    bare = copy.copy(error)
    bare.remedies = ()
    return str(bare)


def message_of(error: KlingError) -> str:
    """What happened, with the facts and without the advice. A timeout is told as it is: nothing is lost."""
    if isinstance(error, GenerationTimeout):
        return f"timed out: the job is still {error.job.status}; it was not cancelled and may yet finish"
    return facts_of(error)


def steps_of(error: KlingError) -> Sequence[str]:
    """What can be done about it. Of a timeout the reports name the command."""
    return () if isinstance(error, GenerationTimeout) else as_commands(error.remedies)


def in_one_sentence(message: str, steps: Sequence[str]) -> str:
    """What happened and what can be done about it, on one line."""
    return f"{message}. Next: {', or '.join(steps)}" if steps else message
