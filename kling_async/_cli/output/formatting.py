"""Text from elsewhere (prompts, file names, providers' words), made fit to be shown on a terminal."""

from __future__ import annotations

import ast
import re
import shlex
from contextvars import ContextVar
from decimal import Decimal
from functools import partial
from pathlib import Path

from kling_async._models import Cost

__all__ = ["advise_with", "counted", "duration", "in_commands", "money", "printable", "size"]

# C0 and C1 controls (escape sequences begin with one), line and paragraph separators, lone surrogates, and the marks
# that turn the direction of what follows (https://trojansource.codes).
_BREAKS = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_KIB = 1024


def printable(text: object) -> str:
    """`text` on one line, without anything that a terminal would obey instead of show."""
    return _UNSAFE.sub("", _BREAKS.sub(" ", str(text)))


_KEY = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""  # as repr writes it
_ADVICE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"call resubmit\({_KEY}, request\)"), "`kling resolve {} --forget`, then generate it again"),
    (re.compile(rf"client\.resubmit\({_KEY}, request\)"), "`kling resolve {} --forget` and generating it again"),
    (re.compile(rf"client\.resubmit\({_KEY}\)"), "`kling resolve {} --resubmit`"),
    (re.compile(rf"client\.resolve\({_KEY}, ref\)"), "`kling resolve {} REF`"),
    (re.compile(rf"(?:client\.)?forget\({_KEY}\)"), "`kling resolve {} --forget`"),
    (re.compile(rf"client\.attach\({_KEY}\)"), "`kling watch {}`"),
    (re.compile(r"attach the job if"), "follow the job with `kling watch REF` if"),
    (re.compile(r"configure it, then call resume\(\)"), "export its API key, then run `kling resume`"),
    (re.compile(r"(?:client\.)?resume\(\)"), "`kling resume`"),
    (re.compile(r"client\.unresolved\(\) lists"), "`kling jobs` lists"),
    (re.compile(r"Budget\(usd=\.\.\.\)"), "`--budget ...usd`"),
    (re.compile(r"Budget\(credits=\.\.\.\)"), "`--budget ...credits`"),
)
"""What the library advises, and what does the same on the command line."""
_option: ContextVar[str] = ContextVar("option", default="")
_OF_A_LEDGER = re.compile(r"`kling (?:resolve|resume|jobs)\b[^`]*")


def advise_with(ledger: Path | None, usual: str) -> None:
    """Have the commands that are advised from now on name the ledger that the program works with.

    Args:
        ledger: Its file; None: there is none.
        usual: The one that they work with where they name none.
    """
    named = ledger is not None and str(ledger) != usual
    _option.set(f" --ledger {shlex.quote(str(ledger))}" if named else "")


def in_commands(text: str) -> str:
    """The library's advice in terms of the command line."""
    option = _option.get().replace("{", "{{").replace("}", "}}")
    for call, command in _ADVICE:
        whole = _OF_A_LEDGER.sub(lambda found: found[0] + option, command)
        text = call.sub(partial(_spelled, whole), text)
    return text


def _spelled(command: str, call: re.Match[str]) -> str:
    """The command, with the keys of the call as a shell needs them."""
    return command.format(*(shlex.quote(ast.literal_eval(key)) for key in call.groups()))


def duration(seconds: float) -> str:
    """Seconds as ``0:05``, ``2:05`` or ``1:02:05``: as a clock shows them, so that they can be compared at a glance."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def counted(count: int, noun: str) -> str:
    """A number of things and its verb: ``1 row is``, ``2 rows are``."""
    return f"{count:,} {noun} is" if count == 1 else f"{count:,} {noun}s are"


def size(count: float) -> str:
    """A number of bytes as ``1.2 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < _KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KIB
    return f"{count:.1f} GiB"


def money(cost: Cost) -> str:
    """An amount without needless zeros at its end, as ``$0.60``, ``$0.056`` or ``3 credits``."""
    least = "0.01" if cost.unit == "USD" else "1"
    return str(Cost(cost.amount.normalize() + Decimal(least) - Decimal(least), cost.unit))
