"""``--webhook-url`` and ``--listen``: learning of a job's end from a webhook instead of polling."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import anyio
import typer

import kling_async  # what is named by it is loaded where it is used
from kling_async import ConfigurationError
from kling_async._cli.errors import CommandError

if TYPE_CHECKING:
    from kling_async import Client, Webhooks

__all__ = ["Listen", "Listener", "WebhookUrl", "listener"]

WebhookUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Receive webhooks: the public URL that leads to --listen."),
]
Listen: TypeAlias = Annotated[
    str | None, typer.Option(metavar="[HOST:]PORT", help="Where webhooks for --webhook-url arrive.")
]

_TICK = 0.01  # s between two checks that the server is up, which takes a few of them
_GRACE = 1  # s that answers get that are being given when the program ends


@dataclass(frozen=True, slots=True)
class Listener:
    """Where webhooks are sent to, and where they are received."""

    webhooks: Webhooks
    host: str
    port: int

    @asynccontextmanager
    async def receiving(self, client: Client) -> AsyncIterator[None]:
        """Receive the webhooks of `client` until the block ends.

        Raises:
            CommandError: The port cannot be had.
        """
        import uvicorn  # noqa: PLC0415  # not installed with every way to use the library
        from starlette.applications import Starlette  # noqa: PLC0415  # the same

        from kling_async.starlette import webhook_route  # noqa: PLC0415  # the same

        class Server(uvicorn.Server):
            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield  # signals are the program's own

        # The address may have any path, and whether or not a proxy on the way takes it off.
        app = Starlette(routes=[webhook_route(client), webhook_route(client, "/{path:path}")])
        config = uvicorn.Config(
            app, lifespan="off", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE
        )
        server = Server(config)

        async def serve(sock: socket.socket) -> None:
            with anyio.CancelScope(shield=True):  # it ends by itself when it is asked to
                await server.serve([sock])

        with self._bound() as sock:
            async with anyio.create_task_group() as group:
                group.start_soon(serve, sock)
                try:
                    while not server.started:  # noqa: ASYNC110  # uvicorn offers nothing to wait for
                        await anyio.sleep(_TICK)
                    yield
                finally:
                    server.should_exit = True

    def _bound(self) -> socket.socket:
        try:
            return socket.create_server((self.host, self.port))
        except OSError as error:
            raise CommandError(
                f"--listen {self.host}:{self.port}: it cannot be listened on ({error.strerror}); choose another port, "
                "and let --webhook-url lead there"
            ) from error


def listener(url: str | None, listen: str | None) -> Listener | None:
    """What ``--webhook-url`` and ``--listen`` ask for, or None if neither was given.

    Raises:
        CommandError: One was given without the other, or is not acceptable.
    """
    if url is None and listen is None:
        return None
    if url is None or listen is None:
        raise CommandError("--webhook-url and --listen belong together: where to send webhooks, and where they arrive")
    host, _, port = listen.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise CommandError(f"--listen {listen!r:.60}: it is a port, such as 8000, or an address and a port")
    try:
        return Listener(kling_async.Webhooks(url, secrets.token_urlsafe(32)), host or "127.0.0.1", int(port))
    except ConfigurationError as error:
        raise CommandError(
            "--webhook-url: it must be an https:// URL (http:// only to this machine) without user, query and "
            "fragment, at which the provider reaches this program"
        ) from error
