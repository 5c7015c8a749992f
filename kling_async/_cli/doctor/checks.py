"""What can be found out without buying: settings, keys, clock, proxy, certificates, ledger, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import anyio

import kling_async
from kling_async import (
    Client,
    ConfigurationError,
    JobNotFound,
    KlingError,
    LedgerFailed,
    Limits,
    TransportFailed,
    Unauthorized,
    inspect_ledger,
)
from kling_async._cli.doctor.findings import Finding
from kling_async._cli.doctor.taps import Exchange, tapped
from kling_async._cli.errors import explain
from kling_async._cli.ledger import usual
from kling_async._cli.places import state_file
from kling_async._cli.settings import found_files
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import Provider

__all__ = ["at_home", "at_providers", "keyed"]

_PATIENCE = 20.0  # s for the one call to each provider
_SKEW = 60.0  # s that a clock may be wrong
_TOKEN_SKEW = 4.0  # s, where a token with our time is signed. Kling allows 5
_SPACE = 500 * 1024**2  # bytes
_OURS = ("anyio", "httpx", "httpcore", "pydantic", "stamina", "typer", "rich")
_PRIVATE = stat.S_IRWXG | stat.S_IRWXO
_JOBS = ("fal/image/fal-ai~kling-image:o3~text-to-image:{}", "kling/image-generation/{}")
"""A job that nobody has, where its id must have a form or any endpoint will not do."""


def keyed() -> list[type[Provider]]:
    """The providers whose keys are in the environment."""
    return [kind for kind in ALL_PROVIDERS if kind.identity().found_in(os.environ)]


async def at_home(ledger: Path | None) -> list[Finding]:
    """What this machine tells."""
    return [*_versions(), *_extras(), *_files(), *_keys(), *_proxies(), *_certificates(), *(await _ledger(ledger))]


def _versions() -> Iterator[Finding]:
    yield Finding(
        "version",
        "ok",
        f"kling_async {kling_async.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}",
    )
    yield Finding("version", "ok", ", ".join(f"{name} {_version(name)}" for name in _OURS))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras() -> Iterator[Finding]:
    """The extras that are installed, as the metadata of this package names them."""
    try:
        requirements = importlib.metadata.requires("kling-async") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("extras", "note", "kling_async runs from its source, so its extras are not known")
        return
    wanted: dict[str, list[str]] = {}
    for text in requirements:
        if extra := re.search(r"extra == ['\"]([\w-]+)['\"]", text):
            wanted.setdefault(extra[1], []).append(re.split(r"[^\w.-]", text, maxsplit=1)[0])
    usable = {name: all(_version(one) for one in ones) for name, ones in wanted.items() if name not in _FOR_DEVELOPERS}
    installed = ", ".join(name for name, found in usable.items() if found) or "none"
    rest = ", ".join(name for name, found in usable.items() if not found)
    yield Finding("extras", "ok", f"installed: {installed}{f'; not installed: {rest}' if rest else ''}")


_FOR_DEVELOPERS = frozenset({"all", "bench", "dev", "docs"})


def _files() -> Iterator[Finding]:
    for path in found_files():
        mode = path.stat().st_mode if path.exists() else 0
        if os.name == "posix" and mode & _PRIVATE and "KEY" in path.read_text("utf-8", "replace").upper():
            yield Finding("settings", "warning", f"{path} has keys, and others may read it", f"chmod 600 {path}")
        else:
            yield Finding("settings", "ok", f"{path} is read")


def _keys() -> Iterator[Finding]:
    """Which keys are there, by the names of their variables alone."""
    for kind in ALL_PROVIDERS:
        names = {secret.variable for group in kind.identity().secrets for secret in group}
        there = sorted(name for name in names if os.environ.get(name))
        if not there:
            continue
        try:
            kind().with_environment(os.environ)
        except ConfigurationError as error:
            yield Finding(kind.name, "error", error.message, f"check {' and '.join(there)}")
    if not keyed():
        every = ", ".join(kind.env_vars[0] for kind in ALL_PROVIDERS)
        yield Finding("keys", "error", "no API key is set", f"export one of {every}; to try without one: kling demo")


def _proxies() -> Iterator[Finding]:
    """Which proxies are used. What stands before an @ is a password."""
    found = {}
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        value = os.environ.get(name.lower()) or os.environ.get(name)
        if value:
            found[name] = value if name == "NO_PROXY" else _host(value)
    text = ", ".join(f"{name}={value}" for name, value in found.items())
    yield Finding("proxy", "note" if found else "ok", text or "none")


def _host(address: str) -> str:
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(no address)"
    return f"{parts.scheme}://{'...@' if parts.username else ''}{parts.hostname or ''}{port}"


def _certificates() -> Iterator[Finding]:
    for name, is_there in (("SSL_CERT_FILE", Path.is_file), ("SSL_CERT_DIR", Path.is_dir)):
        value = os.environ.get(name)
        if value and not is_there(Path(value)):
            yield Finding("TLS", "error", f"{name} is {value}, which is not there", f"correct it, or: unset {name}")
        elif value:
            yield Finding("TLS", "note", f"only the certificates of {name}={value} are trusted")


async def _ledger(named: Path | None) -> list[Finding]:
    path = named or usual()
    if not path.exists():
        place = path.parent if named else state_file()
        parent = next((folder for folder in (place, *place.parents) if folder.exists()), place)
        if not os.access(parent, os.W_OK) or not parent.is_dir():
            text = f"{path} cannot be made: {parent} cannot be written"
            return [Finding("ledger", "error", text, "name another one: export KLING_LEDGER=FILE")]
        return [Finding("ledger", "ok", f"{path} will be made by the first kling generate"), *_space(parent)]
    try:
        contents = await inspect_ledger(path, unfinished=True)
    except ConfigurationError as error:
        return [Finding("ledger", "error", error.message, "name another one: export KLING_LEDGER=FILE")]
    except LedgerFailed as error:
        return [Finding("ledger", "error", error.message, "check the file and its disk")]
    found = [Finding("ledger", "ok", str(path)), *_space(path.parent)]
    if contents.unfinished:
        text = f"{path} has {contents.unfinished:,} unfinished"
        found.append(Finding("ledger", "note", text, "kling jobs --unfinished; kling resume"))
    if not os.access(path, os.W_OK):
        found.append(Finding("ledger", "error", f"{path} cannot be written", "check its permissions"))
    return found


def _space(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    if free < _SPACE:
        yield Finding("ledger", "warning", f"{folder} has {free // 1024**2} MiB left", "free some space")


async def at_providers(kinds: Sequence[type[Provider]]) -> list[Finding]:
    """What the providers tell of the keys. Each is asked for a job that nobody has, which costs nothing."""
    found: dict[str, list[Finding]] = {kind.name: [] for kind in kinds}

    async def ask(kind: type[Provider]) -> None:
        found[kind.name] = await _asked(kind)

    async with anyio.create_task_group() as group:
        for kind in kinds:
            group.start_soon(ask, kind)
    return [finding for findings in found.values() for finding in findings]


async def _asked(kind: type[Provider]) -> list[Finding]:
    log: list[Exchange] = []
    provider = tapped(kind().with_environment(os.environ), log)
    usual = f"{kind.endpoints[0].name}/{{}}"
    job = next((job for job in _JOBS if job.startswith(f"{kind.name}/")), usual).format(uuid.uuid4())
    place, name = _host(provider.base_url), kind.name
    error: KlingError | None = None
    limits = Limits(connect=_PATIENCE / 2, call=_PATIENCE, max_attempts=1, throttle_timeout=1, poll_failure_timeout=0)
    try:
        async with Client([provider], limits=limits) as client:
            await client.attach(job).refresh()
    except KlingError as raised:
        error = raised
    except ValueError as raised:
        return [Finding(name, "error", f"{place}: {raised}")]
    if isinstance(error, Unauthorized):
        return [Finding(name, "error", f"{place} does not accept the key", _other_key(kind)), *_clock(name, log)]
    if isinstance(error, TransportFailed) or not log:
        text = explain(error).message if error is not None else "no answer"
        return [Finding(name, "error", f"{place} cannot be reached: {text}", _way(provider))]
    milliseconds = f"{log[0].seconds * 1000:.0f} ms"
    if error is not None and not isinstance(error, JobNotFound):
        return [
            Finding(name, "warning", f"{place} answers in {milliseconds}: {explain(error).message}"),
            *_clock(name, log),
        ]
    secure = "" if provider.base_url.startswith("https:") else ", without TLS, on this machine"
    text = f"{place} accepts the key, and answers in {milliseconds}{secure}"
    return [Finding(name, "ok", text), *_clock(name, log)]


def _other_key(kind: type[Provider]) -> str:
    """Why a key may be refused."""
    names = " or ".join(secret.variable for group in kind.identity().secrets for secret in group)
    if kind.name == "kling":
        return (
            f"check {names}, and the region: a key of one site is not valid at the other (Kling(region='china'), or "
            f"export {kind.env_vars[1]}=...)"
        )
    return f"check {names}, or make a new key on {kind.display_name}'s website"


def _way(provider: Provider) -> str:
    """What stands between us and a provider."""
    variables = ["HTTPS_PROXY", "SSL_CERT_FILE", provider.env_vars[1]]
    named = [name for name in variables if os.environ.get(name) or os.environ.get(name.lower())]
    return "check the network" + (f", and {' and '.join(named)}" if named else "")


def _clock(name: str, log: Sequence[Exchange]) -> Iterator[Finding]:
    """How far our clock is from that of the provider, which is exact to a second."""
    try:
        theirs = parsedate_to_datetime(log[0].reply.headers["date"]).timestamp()
    except (IndexError, KeyError, ValueError, TypeError):
        return
    off = log[0].at - theirs
    most = _TOKEN_SKEW if name == "kling" and os.environ.get("KLING_SECRET_KEY") else _SKEW
    if abs(off) - 1 > most:
        word = "ahead of" if off > 0 else "behind"
        text = f"this clock is {abs(off):.0f} s {word} that of {name}"
        yield Finding("clock", "error" if most == _TOKEN_SKEW else "warning", text, "set the clock (NTP)")
