"""A server that sells generations, as cheaply as Python can: to measure their clients.

It speaks RunBlob's dialect and, as far as their official clients need it, those of fal, Replicate and Runway. Each
answer takes 50 ms. A job takes as many seconds as its prompt begins with ("12.5 a boat"). The answer that it is done
contains its time, on the clock that all processes of a machine share.

It counts what it sold and was asked (`/counts`), and can be told to lose the answer to every n-th submission.

It runs in a process of its own: `with generation_server(core=1) as url: ...`.
"""

import asyncio
import contextlib
import importlib.util
import itertools
import json
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

from benchmarks.job_server import pin_to_core

LATENCY = 0.05  # s

_URL = ""
_ends: dict[str, tuple[str, float]] = {}  # by id: the dialect, and when the job is done
_numbers = itertools.count()
_lose = 0  # the answer to every so many submissions is lost. 0: none
_requests = 0
_RESET = struct.pack("ii", 1, 0)  # closing discards what is left to send, and tells the other end
_ID = re.compile(rb"[0-9a-f]{8}-0000-4000-8000-000000000000")
_SECONDS = re.compile(rb'"(?:prompt|promptText)"\s*:\s*"([0-9.]+) ')


def _submit(path: bytes, body: bytes) -> dict[str, Any]:
    identity = f"{next(_numbers):08x}-0000-4000-8000-000000000000"
    found = _SECONDS.search(body)
    assert found is not None, body
    dialect = next((name for name in ("generate", "predictions", "_to_video") if name.encode() in path), "fal")
    _ends[identity] = dialect, time.monotonic() + float(found[1])
    if dialect == "generate":
        return {"generation_id": identity, "status": "pending", "price": "0.1500"}
    if dialect == "predictions":
        return _prediction(identity, done=False)
    if dialect == "_to_video":
        return {"id": identity}
    place = f"{_URL}/fal/requests/{identity}"
    urls = {"response_url": place, "status_url": f"{place}/status", "cancel_url": f"{place}/cancel"}
    return {"request_id": identity, "status": "IN_QUEUE", "queue_position": 0, **urls}


def _status(path: bytes) -> dict[str, Any]:
    found = _ID.search(path)
    assert found is not None, path
    identity = found[0].decode()
    dialect, end = _ends[identity]
    done = time.monotonic() >= end
    clip = f"https://cdn.test/{identity}.mp4"
    if dialect == "generate":
        answer: dict[str, Any] = {"generation_id": identity, "prompt": "", "video_url": None, "status": "processing"}
        return answer | ({"status": "completed", "video_url": clip, "ended": end} if done else {})
    if dialect == "predictions":
        return _prediction(identity, done=done)
    if dialect == "_to_video":
        task = {"id": identity, "createdAt": "2026-11-20T11:14:47Z", "status": "RUNNING", "progress": 0.5}
        return {**task, "status": "SUCCEEDED", "output": [clip]} if done else task
    if path.partition(b"?")[0].endswith(b"status"):
        return {"status": "COMPLETED" if done else "IN_PROGRESS", "logs": None, "metrics": {}}
    return {"video": {"url": clip}}


def _prediction(identity: str, *, done: bool) -> dict[str, Any]:
    return {
        "id": identity,
        "model": "kling/o3",
        "version": "1",
        "status": "succeeded" if done else "processing",
        "input": {},
        "output": f"https://cdn.test/{identity}.mp4" if done else None,
        "logs": "",
        "error": None,
        "metrics": {},
        "created_at": "2026-11-20T11:14:47Z",
        "urls": {"get": f"{_URL}/v1/predictions/{identity}", "cancel": f"{_URL}/v1/predictions/{identity}/cancel"},
    }


class _Protocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._data = b""

    def data_received(self, data: bytes) -> None:
        global _requests  # noqa: PLW0603  # of all connections
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if len(rest) < size:
            return
        self._data = rest[size:]
        method, path, _ = head.split(b" ", 2)
        if path == b"/counts":
            answer: dict[str, Any] = {"requests": _requests, "bought": len(_ends)}
        else:
            _requests += 1
            answer = _submit(path, rest[:size]) if method == b"POST" else _status(path)
            if method == b"POST" and _lose and len(_ends) % _lose == 0:
                self._lose_connection(reset=len(_ends) % (2 * _lose) == 0)
                return
        body = json.dumps(answer).encode()
        reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        asyncio.get_running_loop().call_later(LATENCY, self._answer, reply)

    def _lose_connection(self, *, reset: bool) -> None:
        if reset:  # else it just ends. Clients tell the two apart
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _answer(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


async def _serve() -> None:
    global _URL  # noqa: PLW0603  # known once the port is
    server = await asyncio.get_running_loop().create_server(_Protocol, "127.0.0.1", 0, backlog=10_000)
    _URL = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(_URL, flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def generation_server(core: int, *, lose: int = 0) -> Iterator[str]:
    """Run the server in another process, pinned to a core.

    Args:
        core: The core.
        lose: The answer to every so many submissions is lost: the job is bought, and the connection ends, or is
            reset, in turn. 0: none is.

    Yields:
        Its base URL.
    """
    command = [sys.executable, "-m", __name__, str(core), str(lose)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # our own module
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    pin_to_core(int(sys.argv[1]))
    _lose = int(sys.argv[2])
    if importlib.util.find_spec("uvloop"):
        importlib.import_module("uvloop").run(_serve())
    else:
        asyncio.run(_serve())
