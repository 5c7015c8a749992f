"""Which proxy a request goes through: parsed once, decided for each host."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from kling_async._errors import ConfigurationError, Remedy
from kling_async._exchange.urls import Url
from kling_async._records import record

__all__ = ["Proxy", "bypasses_proxy", "environment_proxy"]

_SCHEMES = {"http": "http", "https": "https", "socks": "socks5", "socks5": "socks5", "socks5h": "socks5h"}


@record
class Proxy:
    """A proxy's address.

    Attributes:
        url: The address, which may contain a password.
        shown: The address without user and password.
        source: Where it was named: a variable, or ``Client(http=...)``.
    """

    url: str
    shown: str
    source: str

    def __repr__(self) -> str:
        return f"Proxy({self.shown!r}, source={self.source!r})"

    @classmethod
    def parse(cls, text: str, source: str) -> Proxy:
        """Parse the address of a proxy. ``host:port`` without a scheme is an http proxy, as for other programs.

        A text with neither scheme nor port is refused: it may be a key that has come into the wrong place.

        Raises:
            ConfigurationError: It is none, or this installation cannot use it. The message never repeats the text,
                which may contain a password.
        """
        given = text.strip()
        if "://" not in given:
            given = f"http://{given}"
        try:
            parts = urlsplit(given)
            user, at, _ = parts.netloc.rpartition("@")
            # The host is checked like that of any URL, with every scheme.
            origin = Url.parse(f"http://{parts.netloc.removeprefix(user + at)}")
            port = parts.port
        except ValueError as error:
            raise _unusable(source, f"is not the address of a proxy: {error}") from None
        if parts.scheme not in _SCHEMES:
            kinds = "http, https, socks5 or socks5h"
            raise _unusable(source, f"names a proxy of the kind {parts.scheme[:20]!r}; it must be {kinds}")
        if port is None and "://" not in text:
            raise _unusable(source, "is not the address of a proxy: it has neither a scheme nor a port")
        scheme = _SCHEMES[parts.scheme]
        if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise _unusable(source, "names a SOCKS proxy, which needs one more package: pip install 'httpx[socks]'")
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        address = host if port is None else f"{host}:{port}"
        return cls(f"{scheme}://{user}{at}{address}", f"{scheme}://{address}", source)


def _unusable(source: str, flaw: str) -> ConfigurationError:
    advice = "pass an address such as http://proxy.example:3128, or 'fast' to read HTTP by httptools"
    if not source.startswith("Client"):
        advice = "correct or unset the variable, or name the host in NO_PROXY"
    return ConfigurationError(
        f"{source} {flaw}; a proxy looks like http://proxy.example:3128", remedies=(Remedy("configure", detail=advice),)
    )


def environment_proxy(url: Url) -> Proxy | None:
    """The proxy that the environment (or the system) names for an address, or None if it is reached directly.

    Raises:
        ConfigurationError: The environment names one that cannot be used.
    """
    proxies = urllib.request.getproxies()
    scheme = url.scheme if proxies.get(url.scheme) else "all"
    named = proxies.get(scheme)
    if not named:
        return None
    if (exceptions := proxies.get("no")) is not None:
        if bypasses_proxy(url, exceptions):
            return None
    elif not urllib.request.getproxies_environment() and urllib.request.proxy_bypass(url.host):
        return None  # the settings of macOS or Windows
    return Proxy.parse(named, _variable(f"{scheme}_proxy", os.environ))


def _variable(name: str, environment: Mapping[str, str]) -> str:
    return next((each for each in (name, name.upper()) if environment.get(each)), name.upper())


def bypasses_proxy(url: Url, exceptions: str) -> bool:
    """Whether ``NO_PROXY`` excepts an address.

    Its entries are separated by commas or blanks. Each is ``*``, a host (which stands for the hosts below it as well,
    with or without a leading dot or ``*.``), an IP address, or a network such as ``10.0.0.0/8``. A port may follow.
    """
    return any(_excepts(entry, url) for entry in re.split(r"[\s,]+", exceptions.strip().lower()) if entry)


def _excepts(entry: str, url: Url) -> bool:
    entry = entry.rpartition("://")[2]
    if entry == "*":
        return True
    if "/" in entry:
        network = _network(entry)
        return network is not None and url.address is not None and url.address in network
    host, port = entry, ""
    if match := re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d{1,5})", entry):
        host, port = match.groups()
    host = host.strip("[]").removeprefix("*").strip(".")
    if not host or (port and int(port) != url.port):
        return False
    if url.address is not None:
        network = _network(host)
        return network is not None and url.address in network
    return url.host == host or url.host.endswith(f".{host}")


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network that an entry names. An address is a network of one."""
    try:
        return ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None
