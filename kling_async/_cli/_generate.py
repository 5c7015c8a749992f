"""``kling generate`` and ``kling watch``: one job, from the request or from its address."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import anyio
import typer

from kling_async._cli._exits import CommandError
from kling_async._cli._fields import acceptable, build, find, parse_settings
from kling_async._cli._ledger import LedgerFile
from kling_async._cli._listen import Listen, WebhookUrl, listener
from kling_async._cli._report import Report
from kling_async._cli._run import answering, choose_report, collect, destination, open_client, run
from kling_async._client import Client
from kling_async._job import Job
from kling_async._media import writable
from kling_async._models import JobRef
from kling_async._provider import Endpoint
from kling_async._requests import Request

__all__ = ["AsJson", "Output", "Timeout", "generate", "watch"]

Output: TypeAlias = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where to save the results.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON lines to standard output.")]
Timeout: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", help="Stop waiting after this time; the job goes on. [default: the endpoint's own]"
    ),
]

_PANEL = "Fields of the request (kling endpoints lists those of each endpoint)"


def _option(metavar: str, meaning: str, *names: str) -> Any:
    """A field of the request; its name is the parameter's, unless names are given."""
    return typer.Option(*names, metavar=metavar, help=meaning, rich_help_panel=_PANEL, show_default=False)


def generate(  # noqa: PLR0913  # typer reads the options of the command from this signature
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="Such as runblob/o3-video; kling endpoints lists them.")
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to generate; - reads it from standard input.")],
    *,
    duration: Annotated[str | None, _option("SECONDS", "Length of the clip.")] = None,
    aspect_ratio: Annotated[str | None, _option("W:H", "Such as 16:9.")] = None,
    resolution: Annotated[str | None, _option("SIZE", "Such as 2k.")] = None,
    model: Annotated[str | None, _option("NAME", "Variant of the model.")] = None,
    negative_prompt: Annotated[str | None, _option("TEXT", "What to avoid.")] = None,
    count: Annotated[str | None, _option("N", "How many pictures.")] = None,
    reference: Annotated[list[str] | None, _option("IMAGE", "A file or a URL; may be repeated.")] = None,
    setting: Annotated[list[str] | None, _option("NAME=VALUE", "Any other field; may be repeated.", "--set")] = None,
    output: Output = Path(),
    as_json: AsJson = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's reference and leave.")] = False,
    timeout: Timeout = None,
    ledger: LedgerFile = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="NAME", help="Your name for it: with a ledger, a name is bought once."),
    ] = None,
    webhook_url: WebhookUrl = None,
    listen: Listen = None,
) -> None:
    """Buy one generation, follow it, and save what it made.

    kling generate runblob/o3-video "a paper boat in the rain" --duration 10 --reference boat.jpg -o out/
    """
    words = {
        "duration": duration,
        "aspect_ratio": aspect_ratio,
        "resolution": resolution,
        "model": model,
        "negative_prompt": negative_prompt,
        "count": count,
    }
    report = choose_report(as_json=as_json, directory=output, ledger=ledger)
    with answering(report):
        if key is not None and ledger is None:
            raise CommandError("--key is a name in a ledger: give --ledger as well, or leave it out")
        kind, found = find(endpoint)
        given = _given(words, parse_settings(setting or ()))
        request = build(found, _prompt(prompt), reference or (), given)
        told = listener(webhook_url, listen)
        if told is not None and no_wait:
            raise CommandError("--listen waits for the end, and --no-wait does not: leave one of them out")
        client = open_client([kind], timeout, ledger, webhooks=told.webhooks if told else None)
        directory = None if no_wait else destination(output)
        receiving = told.receiving(client) if told else nullcontext()
        run(lambda: _generate(client, found, request, key, directory, report, receiving), report)


def _given(words: Mapping[str, str | None], settings: Mapping[str, str]) -> dict[str, str]:
    """The fields given by options of their own and by ``--set``.

    Raises:
        CommandError: One is given twice.
    """
    named = {name: word for name, word in words.items() if word is not None}
    twice = [name for name in settings if name in named or name == "prompt"]
    if twice:
        raise CommandError(f"--set {twice[0]}=...: it is given already; give it once")
    return {**named, **settings}


def _prompt(text: str) -> str:
    """The prompt as it was given, or what standard input says.

    Raises:
        CommandError: Standard input is not text.
    """
    if text != "-":
        return text
    try:
        return sys.stdin.buffer.read().decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CommandError(f"the prompt from standard input is not UTF-8 text: {error}") from error


async def _generate(
    client: Client,
    endpoint: Endpoint[Request],
    request: Request,
    key: str | None,
    directory: Path | None,
    report: Report,
    receiving: AbstractAsyncContextManager[None],
) -> None:
    """Submit; then, where there is a directory for it, wait and save. Webhooks are received meanwhile."""
    async with client, receiving:
        if directory is not None:
            await writable(directory)
        try:
            with acceptable(endpoint):
                job = await client.submit(request, key=key)
        except anyio.get_cancelled_exc_class():
            for job in client.jobs:  # the id came, and its handle was lost with the cancellation
                report.begun(job.ref)
            raise
        if directory is None:
            report.submitted(job.ref, job.cost)
            return
        if job.cost is not None:
            bought = "bought" if client.statistics().submitted else "it was bought before,"
            report.say(f"{bought} for {job.cost}")
        report.begun(job.ref, endpoint.law(request).median)
        await _collect(job, directory, report)


def watch(
    ref: Annotated[str, typer.Argument(metavar="REF", help="A job's reference, such as runblob/o3-video/550e8400-...")],
    *,
    output: Output = Path(),
    as_json: AsJson = False,
    timeout: Timeout = None,
) -> None:
    """Follow a job that exists already, and save what it made. Nothing is bought."""
    report = choose_report(as_json=as_json, directory=output)
    with answering(report):
        try:
            address = JobRef.parse(ref)
        except ValueError as error:
            raise CommandError(
                f"{ref!r:.200} is not a job reference; one looks like "
                "runblob/o3-video/550e8400-e29b-41d4-a716-446655440000"
            ) from error
        kind, _ = find(address.name)
        client = open_client([kind], timeout)
        directory = destination(output)
        run(lambda: _watch(client, address, directory, report), report)


async def _watch(client: Client, ref: JobRef, directory: Path, report: Report) -> None:
    async with client:
        await writable(directory)
        report.begun(ref)
        await _collect(client.attach(ref), directory, report)


async def _collect(job: Job, directory: Path, report: Report) -> None:
    """Follow a job and save what it made; tell the cost where it was not known before."""
    price = job.cost
    await collect(job, directory, report)
    if price is None and job.cost is not None:
        report.say(f"the job cost {job.cost}")
