"""Addresses, parsed once: what is judged is what is opened. Pure."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urljoin, urlsplit

import idna

from kling_async._records import record

__all__ = ["Url", "is_secure", "is_url"]

_PORTS = {"http": 80, "https": 443}
# A blank or control character ends an address in one program and not in another. A backslash is a slash in some.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029\u3000]")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_PLAIN = re.compile(r"[\w.~!$%&'()*+,/:;=?@\[\]-]*", re.ASCII)  # a target with nothing to encode: nearly all
_PLAIN_PATH = "!$%&'()*+,/:;=?@[]~"  # characters of a target that are left as they are. Others are percent-encoded

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@record
class Url:
    """An http or https address in the one form in which it is judged and opened.

    Attributes:
        scheme: ``"http"`` or ``"https"``.
        host: Lower case. An IP address in its usual form, IPv6 without brackets. Other names in ASCII (IDNA).
        port: The port, with the default of the scheme filled in.
        target: Path and query, percent-encoded. It begins with a slash.
        user: What stands before an ``@``, which may be a password, empty in nearly all addresses.
    """

    scheme: str
    host: str
    port: int
    target: str = "/"
    user: str = ""

    @classmethod
    def parse(cls, text: str) -> Url:
        """Parse an absolute http or https address.

        Raises:
            ValueError: It is none. The message does not repeat the text, which may contain a password.
        """
        if _FORBIDDEN.search(text):
            raise ValueError("it contains a blank, a control character or a backslash")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError("its host or port is malformed") from None
        scheme = parts.scheme.lower()
        if scheme not in _PORTS:
            raise ValueError("it is not an http:// or https:// address")
        host = _host(parts.hostname or "")
        path = parts.path or "/"
        target = quote(f"{path}?{parts.query}" if parts.query else path, safe=_PLAIN_PATH)
        return cls(scheme, host, _PORTS[scheme] if port is None else port, target, parts.netloc.rpartition("@")[0])

    def below(self, path: str) -> Url:
        """The address whose text is this one's with `path` behind it, without a slash twice between the two.

        Args:
            path: Begins with a slash. A query may follow.

        Raises:
            ValueError: It cannot be part of an address.
        """
        target = path
        if not _PLAIN.fullmatch(path):
            if _FORBIDDEN.search(path):
                raise ValueError("it contains a blank, a control character or a backslash")
            target = quote(path.partition("#")[0], safe=_PLAIN_PATH)
        return Url(self.scheme, self.host, self.port, self.target.rstrip("/") + target, self.user)

    def join(self, location: str) -> Url:
        """The address that a redirect from this one to `location` leads to.

        Raises:
            ValueError: It leads to none.
        """
        if _FORBIDDEN.search(location):
            raise ValueError("it contains a blank, a control character or a backslash")
        return Url.parse(urljoin(f"{self.origin}{self.target}", location))

    @property
    def netloc(self) -> str:
        """Host and port as they stand in an address and in a ``Host`` header, never a password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def address(self) -> Address | None:
        """The host if it is an IP address, or None if it is a name."""
        return _ip(self.host)

    @property
    def on_this_machine(self) -> bool:
        """Whether the host is a loopback address or ``localhost``."""
        address = self.address
        if address is None:
            return self.host == "localhost" or self.host.endswith(".localhost")
        return address.is_loopback

    @property
    def private(self) -> bool:
        """Whether the host is this machine, or an IP address that is not one of the public internet."""
        address = self.address
        return self.on_this_machine if address is None else not address.is_global

    @property
    def secure(self) -> bool:
        """Whether it is https, or http to this machine."""
        return self.scheme == "https" or self.on_this_machine

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"{self.scheme}://{user}{self.netloc}{self.target}"

    def __repr__(self) -> str:
        return f"Url({f'{self.origin}{self.target}'!r})"


def _host(given: str) -> str:
    """The host in the form in which all comparisons are made.

    Raises:
        ValueError: It cannot be a host.
    """
    host = given.lower()
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise ValueError("its host is not a name that the DNS knows") from None
    host = host.removesuffix(".")
    if not host:
        raise ValueError("it names no host")
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("its host is not an IPv6 address") from None
        if address.scope_id is not None:
            raise ValueError("its host is an IPv6 address with a zone")
        return str(address)
    if not _HOST.fullmatch(host):
        raise ValueError("its host has characters that no host has")
    if re.fullmatch(r"0x[0-9a-f]*|\d+", host.rpartition(".")[2]):
        return str(_legacy_ipv4(host))
    return host


def _legacy_ipv4(host: str) -> ipaddress.IPv4Address:
    """Read an IPv4 address as the C library does: ``127.1``, ``0x7f000001`` and ``017700000001`` are 127.0.0.1.

    Raises:
        ValueError: It is none.
    """
    *front, last = host.split(".")
    try:
        numbers = [_legacy_number(part) for part in front]
        tail = _legacy_number(last)
    except ValueError:
        raise ValueError("its host is not an IPv4 address") from None
    if len(front) > 3 or any(number > 255 for number in numbers) or tail >= 256 ** (4 - len(front)):  # noqa: PLR2004
        raise ValueError("its host is not an IPv4 address")
    for place, number in enumerate(numbers):
        tail += number << (8 * (3 - place))
    return ipaddress.IPv4Address(tail)


def _legacy_number(text: str) -> int:
    if text.startswith("0x"):
        return int(text[2:] or "0", 16)
    return int(text, 8 if len(text) > 1 and text.startswith("0") else 10)


def _ip(host: str) -> Address | None:
    try:
        address: Address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_secure(url: str) -> bool:
    """Whether `url` is https, or plain http to this very machine."""
    try:
        return Url.parse(url).secure
    except ValueError:
        return False


def _scheme_and_host(url: str) -> tuple[str, str]:
    """Both empty if the text cannot be a URL."""
    try:
        parsed = Url.parse(url)
    except ValueError:
        return "", ""
    return parsed.scheme, parsed.host


def is_url(reference: object) -> bool:
    """Whether the reference has the form of an http(s) URL, with a scheme in any case."""
    return isinstance(reference, str) and reference[:8].lower().startswith(("https://", "http://"))
