"""`Sandbox`: starts the server in a thread of its own, and is what tests hold in their hands."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Self, get_type_hints

import anyio.to_thread
from pydantic import TypeAdapter, ValidationError

from kling_async.sandbox.emulator.accounts import Account
from kling_async.sandbox.emulator.clock import Clock
from kling_async.sandbox.emulator.counters import Counters
from kling_async.sandbox.emulator.jobs import ScriptedOutcome
from kling_async.sandbox.emulator.provider_state import ProviderState
from kling_async.sandbox.faults.catalog import FaultRegistry
from kling_async.sandbox.media.renderer import Renderer
from kling_async.sandbox.providers import Emulate, build_emulations, emulated_providers
from kling_async.sandbox.server.app import App
from kling_async.sandbox.server.protocol import Server

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.providers._base.provider import Provider
    from kling_async.sandbox.server.webhooks import Delivery

_HOST = "127.0.0.1"
_JITTER = 0.05  # real seconds by which the arrival of paced status calls may vary
_STILL = 600.0  # the speed that clients count on while the clock stands still
_START_TIMEOUT = 30.0  # real seconds. A thread that has not begun to serve by then never will


class Sandbox:
    """All providers on one loopback address.

    Use it as `async with` (asyncio or trio) or `with`. It serves from a thread of its own with its own event
    loop.

    Args:
        speed: Simulated seconds per real second: 60 makes a minute pass in a second. 0 stops the clock, which
            then moves by `sandbox.state.clock.advance(seconds)` alone. Clients then poll as at a speed of 600, so that
            they soon see what has changed.
        seed: Decides API keys, ids, durations and pictures: equal seeds and orders give equal jobs. If None, the API
            keys are random, and everything else is the same as with 0.
        port: TCP port on 127.0.0.1. 0: any free one.
        scale: Size of results relative to what was asked. If None, pictures whole, video at half width and
            height, which is quick to make. `scale=1.0` makes both whole.
        rate_limit: Status calls allowed in any 60 simulated seconds, per key: a number for every provider, a mapping by
            provider, or what each provider documents (RunBlob: 60). If None, there is no limit.
        credits: What each account can spend, in its provider's unit. A number or a mapping by provider.
            If None, no limit.
        lifetime: Simulated seconds that a result can be downloaded for (RunBlob documents 24 h). None: for
            ever.
        emulations: Emulations of more providers, by name. Those of installed packages are found by themselves.

    Raises:
        OSError: The port is in use.
    """

    def __init__(
        self,
        *,
        speed: float = 1.0,
        seed: int | None = None,
        port: int = 0,
        scale: float | None = None,
        rate_limit: int | Mapping[str, int] | Literal["documented"] | None = "documented",
        credits: Decimal | float | Mapping[str, Decimal | float] | None = None,  # noqa: A002 - the word users know
        lifetime: float | None = None,
        emulations: Mapping[str, Emulate] | None = None,
    ) -> None:
        counters = Counters()
        self._renderer = Renderer(scale, counters)
        self.state = ProviderState(
            Clock(speed),
            seed or 0,
            secret=None if seed is None else str(seed),
            lifetime=lifetime,
            counters=counters,
            faults=FaultRegistry(seed or 0, {*emulated_providers(), *(emulations or {})}),
            renderer=self._renderer,
            cdn=lambda: f"{self.url}/cdn",
        )
        self._emulations = build_emulations(self.state, emulations)
        for name, emulation in self._emulations.items():
            limit = credits.get(name) if isinstance(credits, Mapping) else credits
            if rate_limit == "documented":
                polls = emulation.rate_limit
            else:
                polls = rate_limit.get(name) if isinstance(rate_limit, Mapping) else rate_limit
            self.state.open_account(
                Account(
                    name,
                    emulation.api_key,
                    None if limit is None else Decimal(str(limit)),
                    polls,
                    jitter=_JITTER * speed,
                )
            )
        self._app = App(self.state, tuple(self._emulations.values()))
        self._port = port
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it serves, such as `http://127.0.0.1:8080`, known once it has started."""
        return f"http://{_HOST}:{self._port}"

    @property
    def counters(self) -> Counters:
        """What the providers saw so far: jobs bought, requests, connections."""
        return self.state.counters

    @property
    def faults(self) -> FaultRegistry:
        """What goes wrong on purpose: `sandbox.faults.add(Fault.accept_then_reset, every=10)`."""
        return self.state.faults

    @property
    def deliveries(self) -> list[Delivery]:
        """The webhook deliveries attempted so far (the last 10 000)."""
        return list(self._app.sender.delivered)

    def wait_for_deliveries(self, count: int, timeout: float = 30.0) -> list[Delivery]:
        """Block until so many webhook deliveries were attempted and answered, and give all of them.

        Raises:
            TimeoutError: They were not, in so many real seconds.
        """
        return self._app.sender.wait_for(count, timeout)

    def base_url(self, provider: str) -> str:
        """The base URL that replaces a provider's real one. It carries a path.

        Raises:
            KeyError: No such provider.
        """
        return f"{self.url}/{provider}{self._emulations[provider].base_path}"

    def api_key(self, provider: str) -> str:
        """The key of the sandbox's customer at a provider.

        Raises:
            KeyError: No such provider.
        """
        return self._emulations[provider].api_key

    def options(self, provider: str) -> Any:
        """How a provider speaks where its versions differ. Change it at any time. None if there is nothing to choose.

        Raises:
            KeyError: No such provider.
        """
        return self._emulations[provider].options

    def set_option(self, text: str) -> None:
        """Change one of the `options` by its text form, such as `inferencesh.progress=yes`.

        Raises:
            ValueError: There is no such provider or option, or the value does not fit.
        """
        path, _, value = text.partition("=")
        provider, _, name = path.partition(".")
        known = {name: each.options for name, each in self._emulations.items() if each.options is not None}
        options = known.get(provider)
        hints = get_type_hints(type(options)) if options is not None else {}
        if name not in hints:
            names = sorted(
                f"{owner}.{option}" for owner, all_ in known.items() for option in get_type_hints(type(all_))
            )
            raise ValueError(f"unknown option {path!r}; there are: {', '.join(names)}")
        try:
            setattr(options, name, TypeAdapter(hints[name]).validate_python(value))
        except ValidationError as error:
            raise ValueError(f"{text!r}: {error.errors()[0]['msg']}") from error

    def providers(self) -> list[Provider]:
        """Provider objects for `Client(...)`, with the sandbox's keys and addresses."""
        found = [
            emulation.client(emulation.api_key, self.base_url(name)) for name, emulation in self._emulations.items()
        ]
        for provider in found:
            provider.speed = self.state.clock.speed or _STILL
        return found

    def plan_next(
        self,
        provider: str | None = None,
        *,
        fail: str | None = None,
        duration: float | None = None,
        stuck: bool = False,
        files: int | None = None,
        times: int = 1,
    ) -> None:
        """Decide how the next jobs end.

        Args:
            provider: Whose jobs. If None, any provider's.
            fail: Failure code in the provider's words, or None if they succeed.
            duration: Simulated seconds from purchase to end. If None, as documented by the provider.
            stuck: They never end.
            files: With `fail`: only so many files of each job fail, and the job itself completes.
            times: How many jobs. Several scripts are used in the order of the calls.
        """
        self.state.plan_next(ScriptedOutcome(fail, duration, stuck, files), provider=provider, times=times)

    def describe(self) -> dict[str, Any]:
        """Address and credentials as plain JSON, for another process. The keys open only this sandbox."""
        providers = {
            name: {"base_url": self.base_url(name), "api_key": self.api_key(name)} for name in self._emulations
        }
        return {"url": self.url, "providers": providers}

    def environment(self) -> dict[str, str]:
        """The variables that lead every `Client`, and the program ``kling``, to this sandbox. It must have started."""
        speed = self.state.clock.speed or _STILL
        found = {} if speed == 1 else {"KLING_SANDBOX_SPEED": f"{speed:g}"}
        for provider in self.providers():
            key, address = provider.env_vars
            found |= {key: self.api_key(provider.name), address: self.base_url(provider.name)}
        return found

    def wait(self) -> None:
        """Block until the server ends, which it does when another thread or a signal handler stops it."""
        if self._thread is not None:
            self._thread.join()

    def start(self) -> None:
        """Bind, serve, and return once requests are answered. `stop` ends it. `with` does both.

        Raises:
            OSError: The port is in use.
            RuntimeError: The server did not come up.
        """
        sock = _bind(self._port)
        self._port = sock.getsockname()[1]
        self._server = Server(self._app, self.counters, self._app.keep_alive, self._app.background)
        self._thread = threading.Thread(
            target=self._server.run,
            kwargs={"sockets": [sock]},
            name=f"kling-sandbox-{self._port}",
            daemon=True,
        )
        self._thread.start()
        if not self._server.ready.wait(_START_TIMEOUT):
            raise RuntimeError(f"the sandbox on {self.url} did not start within {_START_TIMEOUT:.0f} s")

    def stop(self) -> None:
        """Close every connection and end the thread. Harmless when it is not running."""
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join()
            self._renderer.close()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        # Shielded: a cancelled start would leave a thread behind that nobody knows of.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.stop)


def _bind(port: int) -> socket.socket:
    # The protocol is named, because only then asyncio switches Nagle's algorithm (40 ms per answer) off.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((_HOST, port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                errno.EADDRINUSE,
                f"port {port} is in use on {_HOST}: stop what uses it, or choose another with --port "
                "(0 takes any free one)",
            ) from error
        raise
    return sock
