"""``kling studio``: the local page that makes, follows and shows generations."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from kling_async import Budget, Client, open_ledger
from kling_async._cli.errors import CommandError
from kling_async._cli.file_names import ensure_writable
from kling_async._cli.ledger import LedgerFile, usual
from kling_async._cli.options import options_from
from kling_async._cli.output.reports import Report
from kling_async._cli.places import state_file
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.runner import destination, run
from kling_async.providers import ALL_PROVIDERS

if TYPE_CHECKING:
    import uvicorn

__all__ = ["studio"]

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_GRACE = 2  # s for which open pages are waited for
_SANDBOX_SPEED = 20.0


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of ``kling studio``."""

    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="TCP port; 0 takes any free one.")] = 8766
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Address to serve on. Others than this machine need --allow-network."),
    ] = "127.0.0.1"
    allow_network: Annotated[
        bool, typer.Option("--allow-network", help="Serve other machines, too. Who has the address can spend money.")
    ] = False
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where results are saved.")] = Path(
        "~/kling-studio"
    )
    ledger: LedgerFile = None
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="USD", min=0, help="US dollars to spend at most.")
    ] = None
    budget_credits: Annotated[
        float | None, typer.Option("--budget-credits", metavar="N", min=0, help="Credits to spend at most.")
    ] = None
    ask_above: Annotated[
        float, typer.Option("--ask-above", metavar="AMOUNT", min=0, help="Ask before buying anything that costs more.")
    ] = 1.0
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True


@options_from(_Options)
def studio(options: _Options) -> None:
    """Open a page that makes, follows and shows images and videos.

    Without any API key it runs on a sandbox: nothing is bought. The page is served on this machine alone. It remembers
    everything in the ledger, so it may be reloaded, closed and started again at any time.
    """
    report = choose_report(as_json=False, directory=None, resumable=False)
    with handle_errors(report):
        if options.host not in _LOOPBACK and not options.allow_network:
            raise CommandError(f"--host {options.host} lets other machines spend your money; add --allow-network")
        try:
            import kling_async.studio  # noqa: F401, PLC0415  # an extra that only this command needs
        except ImportError as error:
            raise CommandError(str(error)) from error
        serving: list[uvicorn.Server] = []

        def stop() -> bool:
            """End the server, which lets its pages go first. A second signal cancels."""
            if not serving or serving[0].should_exit:
                return False
            serving[0].should_exit = True
            return True

        with contextlib.suppress(KeyboardInterrupt):
            run(lambda: _serve(options, report, serving), report, stop)
        report.say("The studio has ended. Jobs go on at their providers; start it again to see them.")


async def _serve(options: _Options, report: Report, serving: list[uvicorn.Server]) -> None:
    from kling_async.studio import app  # noqa: PLC0415  # the same

    keyed = any(kind.identity().found_in(os.environ) for kind in ALL_PROVIDERS)
    file = options.ledger or (usual() if keyed else state_file("studio-sandbox.db"))
    if isinstance(file, Path):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory = destination(options.output)
    await ensure_writable(directory)
    budget = None
    if options.budget is not None or options.budget_credits is not None:
        budget = Budget(usd=options.budget, credits=options.budget_credits)
    token = secrets.token_urlsafe(24)
    async with contextlib.AsyncExitStack() as stack:
        providers = None
        if not keyed:
            from kling_async.sandbox import Sandbox  # noqa: PLC0415  # an optional extra

            stage = await stack.enter_async_context(Sandbox(speed=_SANDBOX_SPEED))
            providers = stage.providers()
        client = Client(providers, ledger=open_ledger(file, keep_images=True), budget=budget)
        await stack.enter_async_context(client)
        sock = stack.enter_context(_listening(options.host, options.port))
        port = sock.getsockname()[1]
        name = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{name}:{port}/?token={token}"
        hosts = {"127.0.0.1", "localhost", "[::1]", name}
        made = app(
            client, directory=directory, token=token, hosts=hosts, ask_above=options.ask_above, sandbox=not keyed
        )
        if not keyed:
            report.say(f"No API key is set, so this is a sandbox: nothing is bought, time runs {_SANDBOX_SPEED:g}x.")
        report.product(address)
        report.say(f"Results are saved in {directory}; the ledger is {file}. Ctrl-C ends the studio.")
        if options.browser:
            await anyio.to_thread.run_sync(webbrowser.open, address)
        serving.append(_server(made))
        await serving[0].serve(sockets=[sock])


def _server(made: object) -> uvicorn.Server:
    """A server that leaves the signals to the command."""
    import uvicorn  # noqa: PLC0415  # an optional extra

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202  # as the parent has it
            yield

    return Server(
        uvicorn.Config(made, log_level="warning", lifespan="on", timeout_graceful_shutdown=_GRACE)  # type: ignore[arg-type]
    )


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        CommandError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen()  # the address is printed before the server runs, and is good from then on
    except OSError as error:
        sock.close()
        raise CommandError(
            f"the studio cannot be served on {host}, port {port}: {error.strerror or error}; "
            "another one may run already; choose another port with --port (0 takes any free one)"
        ) from error
    return sock
