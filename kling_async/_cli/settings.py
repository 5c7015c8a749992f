"""Settings that nobody types each time: ``.env`` in the working directory, and ``config.toml`` of the user.

An argument counts more than the environment, the environment more than ``.env``, and that more than the file of the
user. Of ``.env`` only what this library reads is taken, since the rest belongs to other programs. An address in it is
taken only beside its key, or if it leads to this machine: a folder from elsewhere must not send a key of the
environment to a stranger.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from kling_async._cli.errors import CommandError
from kling_async._cli.output.formatting import printable
from kling_async._cli.places import config_file

__all__ = ["VARIABLE", "apply_files", "found_files"]

VARIABLE = "KLING_CONFIG"
"""The environment variable that names the file of settings. If it is empty, none is read."""
_DOTENV = Path(".env")
_ENVIRONMENT = "environment"
_OURS = frozenset({"KLING_HTTP", "KLING_LEDGER", "KLING_SANDBOX_SPEED", "KLING_TRACEBACK"})
_EACH_TIME = frozenset({"budget", "force", "forget", "resubmit", "spend", "yes"})
"""Options that decide about money. A budget that is forgotten in a file is none."""
_MOST = 1 << 20  # bytes of such a file


def found_files() -> list[Path]:
    """The files of settings that are there, the more important one first."""
    named = os.environ.get(VARIABLE)
    config = config_file() if named is None else Path(named).expanduser() if named else None
    return [path for path in (_DOTENV, config) if path is not None and (path.is_file() or (named and path != _DOTENV))]


def apply_files(command: str, commands: Collection[str], parameters: Callable[[], Mapping[str, str]]) -> dict[str, Any]:
    """Set the environment variables that the files have and the environment lacks.

    Args:
        command: The command that is to run.
        commands: All commands.
        parameters: Returns the command's parameters by the names of its options. It is called if the file sets any.

    Returns:
        What ``config.toml`` sets for the command, by parameter.

    Raises:
        CommandError: A file cannot be read, or sets what there is not. No value is shown.
    """
    defaults: dict[str, Any] = {}
    for path in found_files():
        if path == _DOTENV:
            _set(_from_dotenv(path), path, trusted=False)
            continue
        content = _toml(path)
        variables = content.pop(_ENVIRONMENT, {})
        if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
            raise CommandError(f'{path}: [{_ENVIRONMENT}] has names and texts, such as RUNBLOB_API_KEY = "..."')
        known = _variables()
        for name in variables:
            if name not in known:
                raise CommandError(
                    f"{path}: [{_ENVIRONMENT}] has {name!r:.60}, which kling does not read{_near(name, known)}"
                )
        _set(variables, path, trusted=True)
        _require_commands(content, path, commands)
        if options := content.get(command):
            defaults = _options(command, options, path, parameters())
    return defaults


def _from_dotenv(path: Path) -> dict[str, str]:
    """What a file of lines ``NAME=value`` sets. Lines of another form are named and passed over."""
    from dotenv import parser  # noqa: PLC0415  # needed only where there is such a file

    try:
        if path.stat().st_size > _MOST:
            raise CommandError(f"{path} is larger than 1 MiB, and not read; is it a file of settings?")
        with path.open(encoding="utf-8-sig") as stream:
            found = list(parser.parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CommandError(f"{path} cannot be read: {reason}") from None
    for line in found:
        if line.error:
            _warn(f"{path}, line {line.original.line}: it is not NAME=value, and is passed over")
    return {line.key: line.value for line in found if line.key and line.value is not None}


def _set(variables: Mapping[str, str], path: Path, *, trusted: bool) -> None:
    """Set the variables of ours that the environment lacks."""
    from kling_async.providers import ALL_PROVIDERS  # noqa: PLC0415  # needed only where there is such a file

    keyed_before = {kind.name for kind in ALL_PROVIDERS if kind.identity().found_in(os.environ)}
    fresh = {name: value for name, value in variables.items() if name in _variables() and not os.environ.get(name)}
    for kind in ALL_PROVIDERS:
        address = fresh.get(kind.env_vars[1], "")
        if trusted or kind.name not in keyed_before or not address or address.startswith("http:"):
            continue  # a plain http address is acceptable only if it leads to this machine
        del fresh[kind.env_vars[1]]
        _warn(
            f"{path}: {kind.env_vars[1]} is not used, because {kind.display_name}'s key comes from elsewhere; export "
            "the address, if the key may be sent there"
        )
    os.environ.update(fresh)


def _variables() -> set[str]:
    """Every environment variable that may stand in a file."""
    from kling_async.providers import ALL_PROVIDERS  # noqa: PLC0415  # the same

    found = set(_OURS)
    for kind in ALL_PROVIDERS:
        identity = kind.identity()
        found |= {secret.variable for group in identity.secrets for secret in group} | {identity.url_variable}
        found |= {kind.webhook_secret_variable} if kind.webhook_secret_variable else set()
    return found


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"at line \d+, column \d+|at end of document", str(error))  # the rest may quote a key
        raise CommandError(f"{path} is not TOML {place[0] if place else ''}".rstrip()) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CommandError(f"{path} cannot be read: {reason}") from None


def _require_commands(content: Mapping[str, Any], path: Path, commands: Collection[str]) -> None:
    """Refuse what is no table of a command.

    Raises:
        CommandError: Something is not.
    """
    for name, value in content.items():
        if name not in commands:
            raise CommandError(f"{path}: kling has no command {name!r:.60}{_near(name, [_ENVIRONMENT, *commands])}")
        if not isinstance(value, dict):
            raise CommandError(f"{path}: the options of a command are a table, such as [{name}]")


def _options(command: str, options: Mapping[str, Any], path: Path, parameters: Mapping[str, str]) -> dict[str, Any]:
    """What a table sets, by parameter.

    Raises:
        CommandError: The command has no such option, or it does not belong in a file.
    """
    found = {}
    for name, value in options.items():
        option = name.replace("_", "-")
        if option in _EACH_TIME:
            raise CommandError(f"{path}: [{command}] {name}: it is decided each time, and not in a file")
        if option not in parameters:
            near = _near(option, parameters)
            raise CommandError(f"{path}: [{command}] has {name!r:.60}, which is no option of kling {command}{near}")
        if isinstance(value, dict):
            raise CommandError(f"{path}: [{command}] {name}: give a text, a number, true or false, or a list of them")
        found[parameters[option]] = value
    return found


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _warn(text: str) -> None:
    print(f"warning: {printable(text)}", file=sys.stderr)  # noqa: T201  # no report has begun
