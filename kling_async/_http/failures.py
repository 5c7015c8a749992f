"""Whether a request was sent, according to the error that ended it.

This is the one table of errors. It goes by the names of classes, base classes included, because httpx, httpcore and
their successors share them, and because only one of these libraries is installed for certain.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterator, Mapping

__all__ = ["Sent", "forget_frames", "was_sent"]


class Sent(enum.Enum):
    """Whether a request was sent."""

    NO = "no"
    """No byte of it was sent: the connection was never made."""
    YES = "yes"
    """It was sent, and an answer came that cannot be used."""
    UNKNOWN = "unknown"
    """The connection broke: it may have been sent or not."""


_BY_NAME: Mapping[str, Sent] = {
    # httpx, httpcore and their successors
    "ConnectError": Sent.NO,
    "ConnectTimeout": Sent.NO,
    "PoolTimeout": Sent.NO,
    "ProxyError": Sent.NO,  # the proxy made no connection to the provider
    "UnsupportedProtocol": Sent.NO,
    "InvalidURL": Sent.NO,
    "CookieConflict": Sent.NO,
    "ConnectionNotAvailable": Sent.NO,
    "PoolClosed": Sent.NO,
    "DecodingError": Sent.YES,
    "TooManyRedirects": Sent.YES,
    "HTTPStatusError": Sent.YES,
    "ReadError": Sent.UNKNOWN,
    "ReadTimeout": Sent.UNKNOWN,
    "WriteError": Sent.UNKNOWN,
    "WriteTimeout": Sent.UNKNOWN,
    "CloseError": Sent.UNKNOWN,
    "RemoteProtocolError": Sent.UNKNOWN,
    "LocalProtocolError": Sent.UNKNOWN,  # the body may be at fault after the headers were sent
    "StreamError": Sent.UNKNOWN,
    # anyio
    "ConnectionFailed": Sent.NO,
    "BrokenResourceError": Sent.UNKNOWN,
    "ClosedResourceError": Sent.UNKNOWN,
    "BusyResourceError": Sent.UNKNOWN,
    "EndOfStream": Sent.UNKNOWN,
    "IncompleteRead": Sent.UNKNOWN,
    # the operating system and TLS
    "gaierror": Sent.NO,
    "herror": Sent.NO,
    "ConnectionRefusedError": Sent.NO,
    "SSLCertVerificationError": Sent.NO,  # found in the handshake
    "SSLError": Sent.UNKNOWN,
    "ConnectionResetError": Sent.UNKNOWN,
    "ConnectionAbortedError": Sent.UNKNOWN,
    "BrokenPipeError": Sent.UNKNOWN,
    "TimeoutError": Sent.UNKNOWN,
}
# A socket could not be made at all. "Unreachable" is not among them: it may end an open connection as well.
_NO_SOCKET = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_KNOWN_LIBRARIES = frozenset(
    {"httpx", "httpcore", "httpx2", "httpcore2", "anyio", "trio", "asyncio", "builtins", "socket", "ssl", "respx"}
) | {"h11", "h2", "socksio", "idna", "httptools", "kling_async"}
_NO_CONNECTION = frozenset({"ClientConnectorError", "ClientHttpProxyError", "ClientProxyConnectionError"})


def was_sent(error: BaseException) -> Sent:
    """Whether the request that `error` ended was sent.

    Backends built on another library translate its errors, and not always well: httpx-aiohttp 0.2 calls a connection
    that was reset a connection that was never made. So a translated error counts only as what it was before.
    """
    names = [kind.__name__ for kind in type(error).__mro__]
    judged = next((_BY_NAME[name] for name in names if name in _BY_NAME), Sent.UNKNOWN)
    if type(error) is OSError and error.errno in _NO_SOCKET:
        judged = Sent.NO
    if judged is Sent.NO and not all(_made_no_connection(origin) for origin in _origins(error)):
        return Sent.UNKNOWN
    return judged


def _made_no_connection(origin: BaseException) -> bool:
    """Whether an error that another one was made from agrees that there was no connection."""
    if type(origin).__module__.partition(".")[0] in _KNOWN_LIBRARIES:
        return True
    return any(kind.__name__ in _NO_CONNECTION for kind in type(origin).__mro__)


def _origins(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}
    origin = error.__cause__ or error.__context__
    while origin is not None and id(origin) not in seen:
        yield origin
        seen.add(id(origin))
        origin = origin.__cause__ or origin.__context__


def forget_frames(error: BaseException) -> None:
    """Remove the tracebacks of a network library's error and of what it was made from.

    The frames of these libraries have the request's headers and body as local variables, and with them the API key.
    What reports local variables (Sentry does by default) would send them away.
    """
    for each in (error, *_origins(error)):
        each.__traceback__ = None
