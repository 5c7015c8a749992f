"""The address of a database server: what it says, and how it is shown. Its password never is.

The libpq of psycopg reads the address, so its variables (``PGPASSWORD``, ``PGSSLMODE``) and its files (``~/.pgpass``,
``pg_service.conf``) hold as in every other program. One parameter is ours: ``?schema=``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from kling_async._errors import ConfigurationError
from kling_async._exchange.redaction import HiddenText
from kling_async._validation import given, require

__all__ = ["DEFAULT_SCHEMA", "PostgresAddress", "is_address", "parse_address"]

DEFAULT_SCHEMA = "kling"
_SCHEME = re.compile(r"postgres(ql)?:/", re.IGNORECASE)
_SECRETS = ("password", "sslpassword", "passfile", "sslkey")
_LONGEST_NAME = 63  # bytes of a name that PostgreSQL keeps. It cuts the rest off
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 5,  # s
    "fallback_application_name": "kling_async",
    # A server that has vanished is noticed within half a minute, also while nothing is sent.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # ms
}


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where a database is.

    Attributes:
        shown: The address as it may be shown.
        schema: The schema that has the ledger's tables.
        parameters: What libpq takes, with the password.
    """

    shown: str
    schema: str
    parameters: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return self.shown


def is_address(place: object) -> bool:
    """Whether this is the address of a PostgreSQL database, and not the name of a file."""
    return _SCHEME.match(_text(place)) is not None


def _text(place: object) -> str:
    """The text of an address. A program may keep it in an object of its own, which hides the password."""
    found = os.fspath(place) if isinstance(place, os.PathLike) else place
    return found if isinstance(found, str) else ""


def parse_address(dsn: object, schema: str | None = None) -> PostgresAddress:
    """What an address says.

    Args:
        dsn: ``postgresql://user:password@host:port/database?parameter=value``.
        schema: The schema. If None, the address names it (``?schema=``), or it is `DEFAULT_SCHEMA`.

    Raises:
        ConfigurationError: It is not such an address, or psycopg is not installed.
    """
    if not is_address(dsn):
        shown = "" if isinstance(dsn, str) else f", not {given(dsn)}"  # a text may hold a password
        raise ConfigurationError(
            f'PostgresLedger(dsn) takes an address that begins with postgresql://, such as "postgresql://host/db"{shown}'
        )
    try:
        from psycopg import ProgrammingError  # noqa: PLC0415  # an optional dependency
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415  # the same
    except ImportError as error:
        raise ConfigurationError(
            f"a ledger in PostgreSQL needs psycopg, which cannot be loaded ({error}). Nothing was opened or sent; "
            "install it: pip install 'kling-async[postgres]'"
        ) from None
    named, address = _take_schema(_text(dsn))
    try:
        read = {name: value for name, value in conninfo_to_dict(address).items() if value is not None}
        _require_plausible(read)
    except (ProgrammingError, ValueError):
        # What libpq says quotes the part that it cannot read, which may be one of the password.
        raise ConfigurationError(
            "the address of the ledger cannot be read: it is postgresql://user:password@host:port/database, where "
            "characters such as @ : / ? # % in the password are percent-encoded (urllib.parse.quote). It may hold a "
            "password, and is not shown. Nothing was opened or sent"
        ) from None
    for name in _SECRETS:
        if name in read:
            read[name] = HiddenText(read[name])
    chosen = schema if schema is not None else (named or DEFAULT_SCHEMA)
    require("PostgresLedger(schema=...)", chosen, str, 'a name, such as "kling"')
    if not chosen or "\0" in chosen or len(chosen.encode()) > _LONGEST_NAME:
        raise ConfigurationError(
            f"PostgresLedger(schema=...) takes a name of at most {_LONGEST_NAME} bytes, not {given(chosen)}"
        )
    return PostgresAddress(_shown(read, chosen), chosen, {**_DEFAULTS, **read})


def _require_plausible(read: dict[str, Any]) -> None:
    """Check that no part of a password that is not percent-encoded was taken for a host, a port or a database.

    Raises:
        ValueError: One was.
    """
    if "@" in f"{read.get('host', '')}{read.get('dbname', '')}":
        raise ValueError
    for port in str(read.get("port", "")).split(","):
        if port and not port.isdecimal():
            raise ValueError


def _take_schema(dsn: str) -> tuple[str | None, str]:
    """The schema that an address names, and the address without it."""
    head, mark, query = dsn.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True) if mark else []
    schemas = [value for name, value in pairs if name == "schema"]
    if not schemas:
        return None, dsn
    rest = urlencode([(name, value) for name, value in pairs if name != "schema"], quote_via=quote)
    return schemas[-1], f"{head}?{rest}" if rest else head


def _shown(read: dict[str, Any], schema: str) -> str:
    """The address without its secrets, as a user may type it again."""
    hosts = str(read.get("host", "")).split(",")
    ports = str(read.get("port", "")).split(",")
    paired = [
        quote(host, safe="") + (f":{port}" if port else "")
        for host, port in zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=False)
    ]
    user = f"{quote(str(read['user']), safe='')}@" if "user" in read else ""
    query = "" if schema == DEFAULT_SCHEMA else f"?schema={quote(schema, safe='')}"
    return f"postgresql://{user}{','.join(paired)}/{quote(str(read.get('dbname', '')), safe='')}{query}"
