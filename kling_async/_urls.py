"""URLs, parsed once. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["is_secure", "is_url"]


_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


def is_secure(url: str) -> bool:
    """Whether `url` is https, or plain http to this very machine."""
    scheme, host = _scheme_and_host(url)
    return bool(host) and (scheme == "https" or (scheme == "http" and _LOOPBACK.fullmatch(host) is not None))


def _scheme_and_host(url: str) -> tuple[str, str]:
    """Both empty if the text cannot be a URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


def is_url(reference: object) -> bool:
    """Whether the reference is an http(s) URL."""
    return isinstance(reference, str) and reference.startswith(("https://", "http://"))
