"""Who may use the page: the token, the Host and Origin of each call, and what the browser may load."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LOOPBACK", "Access"]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_COOKIE = "kling_studio"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
_SAFE = frozenset({"GET", "HEAD"})
_NO_COOKIE = "The studio was started again, or this is another browser. Open the address that `kling studio` printed.\n"


class Access:
    """Lets in who has the token, calls by a known host name, and no other web site.

    Args:
        app: The application behind it.
        token: The secret of this start. If None, the application around it decides who is let in.
        hosts: Host names, without ports, that the page is called by.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        await (refused or self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a call that is not passed on. None if it is."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            return PlainTextResponse("The studio is not served under this host name.\n", 421)
        if scope["method"] not in _SAFE and not _same_origin(headers, host):
            return PlainTextResponse("Only the studio's own page may do this.\n", 403)
        if self._token is None:
            return None
        cookie = f"{_COOKIE}_{host.rpartition(':')[2] if ':' in host else 80}"  # cookies do not know ports
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if given and secrets.compare_digest(given.encode(), self._token.encode()):
            answer = RedirectResponse(f"{scope.get('root_path', '')}/", 303)
            answer.set_cookie(cookie, self._token, httponly=True, samesite="strict", path="/")
            return answer
        held = cookie_parser(headers.get("cookie", "")).get(cookie, "")
        if secrets.compare_digest(held.encode(), self._token.encode()):
            return None
        return PlainTextResponse(_NO_COOKIE, 401)


def _name(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _same_origin(headers: Headers, host: str) -> bool:
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin"
    return urlsplit(origin).netloc.lower() == host.lower()
