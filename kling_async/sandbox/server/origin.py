"""Protects the sandbox against web pages: a page in a browser on this machine must not be able to control it.

A page can send requests to 127.0.0.1, and with DNS rebinding it can even read the answers under a host name of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOSTS = {"127.0.0.1", "localhost"}


def is_local_host(headers: Mapping[str, str]) -> bool:
    """Whether the `Host` header names this machine, as it does unless a foreign name was bound to its address."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname in _HOSTS
    except ValueError:
        return False


def is_foreign_page(headers: Mapping[str, str]) -> bool:
    """Whether a browser sent the request for a page that the sandbox did not serve. Programs send neither header."""
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{headers.get('host')}":
        return True
    return headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
