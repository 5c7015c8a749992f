"""Writes ``docs/configuration.md`` from the docstrings and signatures of what a user configures.

Run ``python tests/support/configuration_page.py`` after a change of an argument or an environment variable.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kling_async
from kling_async import Budget, Client, Learned, Limits, Polling, PostgresLedger, Progressive, SqliteLedger, Webhooks
from kling_async.otel import Telemetry
from kling_async.providers import load_providers
from kling_async.providers.base import Provider

__all__ = ["PATH", "arguments", "page", "settings"]

PATH = Path(kling_async.__file__).parents[1] / "docs" / "configuration.md"
HEAD = """# Configuration

Every argument and every environment variable. This page is made from the docstrings, by
`tests/support/configuration_page.py`.
"""
VARIABLES = {
    "KLING_HTTP": '`fast` reads HTTP by httptools, like `Client(http="fast")`.',
    "KLING_CONFIG": "The settings of the program `kling`, in place of `~/.config/kling/config.toml`. Empty: none.",
    "KLING_LEDGER": "The ledger of the program `kling`, where `--ledger` is not given.",
    "KLING_SANDBOX_SPEED": "How much faster than real time a sandbox runs. Counts only for an address on this machine.",
    "KLING_TRACEBACK": "If set, the program `kling` shows the traceback of an unexpected error.",
    "SSL_CERT_FILE": "A file of certificates to trust, in place of the system's.",
    "SSL_CERT_DIR": "A directory of certificates to trust.",
    "HTTP_PROXY": "The proxy for http addresses.",
    "HTTPS_PROXY": "The proxy for https addresses.",
    "ALL_PROXY": "The proxy for all addresses that have none of their own.",
    "NO_PROXY": "Hosts that are reached without the proxy.",
    "XDG_STATE_HOME": "Where `kling` keeps its history. Defaults to `~/.local/state` (Windows: `LOCALAPPDATA`).",
    "XDG_CONFIG_HOME": "Where `kling/config.toml` is. Defaults to `~/.config` (Windows: `APPDATA`).",
}
FILES = """## The files of the program `kling`

An argument counts more than an environment variable, that more than `.env` in the working directory, and that more than
`config.toml` of the user.

| file | what it may have |
|---|---|
| `.env` in the working directory | Keys, addresses and `KLING_...` from the list above. All else is ignored. |
| `~/.config/kling/config.toml` | `[environment]` with the same variables, and a table of options for each command. |

```toml
[environment]
RUNBLOB_API_KEY = "..."

[generate]
output = "~/Pictures/kling"
prefer = "cheapest"

[bulk]
in-flight = 20
```

- No value of these files is ever shown. A name that `kling` does not know is an error in `config.toml`.
- Options that decide about money (`--budget`, `--yes`, `--force`, `--resubmit`, `--forget`, `--spend`) are given each
  time.
- A `.env` may come with a folder of somebody else. So the address of a provider in it is used only if the key is in the
  same file, or if it is an address of this machine.
- The library itself reads the environment alone. A program of yours loads `.env` as it does for its other libraries.
"""


def settings() -> list[Any]:
    """What takes arguments."""
    return [
        Client,
        *load_providers(),
        Limits,
        Polling,
        Learned,
        Progressive,
        Budget,
        Webhooks,
        SqliteLedger,
        PostgresLedger,
        Telemetry,
    ]


def arguments(made: Any) -> Iterator[inspect.Parameter]:
    """The arguments of a class."""
    for parameter in inspect.signature(made).parameters.values():
        if not parameter.name.startswith("_"):
            yield parameter


def variables() -> dict[str, str]:
    """Every environment variable, and what it is for."""
    found = {}
    for kind in load_providers():
        identity = kind.identity()
        for group in identity.secrets:
            for secret in group:
                others = " and ".join(f"`{s.variable}`" for s in group if s is not secret)
                found[secret.variable] = f"A key of {kind.display_name}{f', with {others}' if others else ''}."
        found[identity.url_variable] = f"The address of {kind.display_name}'s API, in place of its own."
        if kind.webhook_secret_variable is not None:
            found[kind.webhook_secret_variable] = (
                f"The secrets with which {kind.display_name} signs webhooks, with commas."
            )
    return found | VARIABLES


def _described(made: Any) -> dict[str, str]:
    """The sentences of a docstring about each argument or attribute."""
    text = inspect.getdoc(made) or ""
    found = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE):
        for name, words in re.findall(
            r"^(\*?\w+): ((?:.*\n?)(?:[ ]{4,}.*\n?)*)", textwrap.dedent(section), re.MULTILINE
        ):
            found[name.lstrip("*")] = " ".join(words.split())
    return found


def _cell(text: str) -> str:
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    return text.replace("|", "\\|")


def _default(parameter: inspect.Parameter) -> str:
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return ""
    if parameter.default is inspect.Parameter.empty:
        return "required"
    if type(parameter.default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
        return "empty"
    return f"`{parameter.default!r}`"


def page() -> str:
    """The text of the page."""
    lines = [HEAD]
    for made in settings():
        described = _described(made)
        if issubclass(made, Provider):  # those that take no other arguments have the base's description
            own = {name: words for name, words in described.items() if not words.startswith("Same as")}
            described = _described(Provider) | own
        if dataclasses.is_dataclass(made):
            names = {field.name for field in dataclasses.fields(made)}
            described = {name: words for name, words in described.items() if name in names}
        rows = [f"| `{p.name}` | {_default(p)} | {_cell(described.get(p.name, ''))} |" for p in arguments(made)]
        lines += [f"## `{made.__name__}`\n", "| argument | default | meaning |", "|---|---|---|", *rows, ""]
    lines += ["## Environment variables\n", "| variable | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {words} |" for name, words in variables().items()]
    return "\n".join([*lines, "", FILES])


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
