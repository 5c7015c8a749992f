"""A server that answers every request with the same job status, as cheaply as Python can.

It runs in a process of its own: `with job_server(core=1) as url: ...`, over TLS with a certificate from
`make_certificate`.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

STATUS_BYTES = 213  # of RunBlob's answer about a job in progress


def status_body() -> bytes:
    """Make a job status of STATUS_BYTES bytes."""
    status = {
        "success": True,
        "data": {
            "generation_uuid": "550e8400-e29b-41d4-a716-446655440000",
            "status": "processing",
            "progress": 42,
            "created_at": "2026-11-20T11:14:47Z",
            "result_image_url": None,
            "message": "",
        },
    }
    missing = STATUS_BYTES - len(json.dumps(status))
    status["data"]["message"] = "." * missing  # type: ignore[index]  # the values of a literal dict are objects to mypy
    return json.dumps(status).encode()


_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: benchmark\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (STATUS_BYTES, status_body())
)


class _StatusProtocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._unfinished = b""

    def data_received(self, data: bytes) -> None:
        *requests, self._unfinished = (self._unfinished + data).split(b"\r\n\r\n")
        if requests:
            self._transport.write(_RESPONSE * len(requests))


def make_certificate(folder: Path) -> Path:
    """Make a certificate for localhost with the program openssl, and return its file, which has the key as well."""
    path = folder / "localhost.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    options = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(path), "-out", str(folder / "alone.pem")]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)  # noqa: S603  # no words of others
    with path.open("a") as file:
        file.write((folder / "alone.pem").read_text())
    return path


async def _serve(certificate: str | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_StatusProtocol, "127.0.0.1", 0, backlog=10_000, ssl=context)
    port = server.sockets[0].getsockname()[1]
    host = "http://127.0.0.1" if context is None else "https://localhost"
    print(f"{host}:{port}/api/v1/status", flush=True)
    await server.serve_forever()


def pin_to_core(core: int) -> None:
    """Keep this process on one core, where the system can do that and has so many."""
    if hasattr(os, "sched_setaffinity") and core in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {core})


@contextlib.contextmanager
def job_server(core: int, certificate: Path | None = None) -> Iterator[str]:
    """Run the server in another process, pinned to a core, over TLS if there is a certificate.

    Yields:
        The URL of a job's status.
    """
    command = [sys.executable, "-m", __name__, str(core), *([str(certificate)] if certificate else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # our own module
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    pin_to_core(int(sys.argv[1]))
    serving = _serve(sys.argv[2] if len(sys.argv) > 2 else None)
    if importlib.util.find_spec("uvloop"):
        importlib.import_module("uvloop").run(serving)
    else:
        asyncio.run(serving)
