"""A pooler as a client sees it that shares connections between transactions: everything works, and ``LISTEN`` is deaf.

It passes all messages on, except for the server's notifications.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from support.postgres import Server

__all__ = ["deaf_pooler"]

_NOTIFICATION = b"A"


@contextlib.contextmanager
def deaf_pooler(server: Server) -> Iterator[str]:
    """The address of a pooler before the server."""
    with (
        tempfile.TemporaryDirectory(prefix="kling-pooler-", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX) as door,
    ):
        door.bind(str(Path(folder) / ".s.PGSQL.5432"))
        door.listen()
        threading.Thread(target=_serve, args=(door, server), daemon=True).start()
        yield server.dsn().replace(quote(str(server.home), safe=""), quote(folder, safe=""))
        door.shutdown(socket.SHUT_RDWR)


def _serve(door: socket.socket, server: Server) -> None:
    with contextlib.suppress(OSError):  # the door is closed
        while True:
            client, _ = door.accept()
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(str(server.home / ".s.PGSQL.5432"))
            for work, source, target in ((_copy, client, upstream), (_copy_without_notifications, upstream, client)):
                threading.Thread(target=work, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with source, contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _copy_without_notifications(source: socket.socket, target: socket.socket) -> None:
    with source, source.makefile("rb") as stream, contextlib.suppress(OSError):
        while head := stream.read(1):
            if head == b"N" and not stream.peek(1):  # the answer to a wish for TLS is one byte
                target.sendall(head)
                continue
            length = stream.read(4)
            body = stream.read(int.from_bytes(length) - 4)
            if head != _NOTIFICATION:
                target.sendall(head + length + body)
        target.shutdown(socket.SHUT_WR)
