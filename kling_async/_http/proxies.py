"""Which proxy a request goes through."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit

from kling_async._errors import ConfigurationError

__all__ = []


def environment_proxy(address: str) -> str | None:
    """The proxy that the environment names for `address`, by the usual variables."""
    parts = urlsplit(address)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def require_proxy(url: str) -> None:
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
