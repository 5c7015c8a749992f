"""Which proxy a request goes through."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import urllib.request
import warnings
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from urllib.parse import urlsplit
import anyio
import httpcore
from anyio import to_thread
from anyio.lowlevel import current_token
from kling_async._errors import ConfigurationError, UnreadableReply
from kling_async._http.connection_pool import ConnectionPool, PoolStatistics
from kling_async._http.limits import Limits
from kling_async._http.response import Response, _GZIP, _PIECE

if TYPE_CHECKING:
    import httpx

__all__ = []


def _environment_proxy(address: str) -> str | None:
    """The proxy that the environment names for `address`, by the usual variables."""
    parts = urlsplit(address)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _require_proxy(url: str) -> None:
    """Refuse what is no proxy's URL, without repeating it: it may carry a password."""
    import httpx  # noqa: PLC0415  # when it is needed

    try:
        proxy = httpx.Proxy(url)
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or not proxy.url.host:
        raise ConfigurationError(
            "the text given as Client(http=...) is not the URL of a proxy; one looks like http://proxy.example:3128 "
            "(also https, socks5, socks5h)"
        )
