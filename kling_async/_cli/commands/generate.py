"""``kling generate`` and ``kling watch``: one job, from the request or from its address."""

from __future__ import annotations

import codecs
import math
import sys
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import kling_async  # what is named by it is loaded where it is used
from kling_async._cli.errors import CommandError
from kling_async._cli.file_names import Names, prepare
from kling_async._cli.interrupts import submit_or_note
from kling_async._cli.ledger import LedgerFile, NoLedger, kept, key_of
from kling_async._cli.options import AsJson, FileName, JobOutput, PreferOption, Timeout, options_from
from kling_async._cli.output.events import JobStarted, SellerChosen, Submitting
from kling_async._cli.output.reports import Report
from kling_async._cli.preparation import MaxSide, Prepare, prepared_content
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.request_arguments import build, complete_endpoint, job_ref, parse_settings
from kling_async._cli.runner import collect, open_client, place_of, run, sandbox_speed
from kling_async._cli.webhook_listener import Listen, Listener, WebhookUrl, listener
from kling_async._rows.requests import NAMED, acceptable, find, find_any
from kling_async.providers.base import Endpoint

if TYPE_CHECKING:
    from kling_async import Client, Job, Request

__all__ = ["generate", "watch"]

_PANEL = "Fields of the request (kling endpoints lists those of each endpoint)"


def _option(metavar: str, meaning: str, *names: str) -> Any:
    """A field of the request. Its name is the parameter's, unless names are given."""
    return typer.Option(*names, metavar=metavar, help=meaning, rich_help_panel=_PANEL, show_default=False)


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of ``kling generate``."""

    endpoint: Annotated[
        str,
        typer.Argument(
            metavar="ENDPOINT",
            help="Such as runblob/o3-video (kling endpoints lists them); video or image for the best provider.",
            autocompletion=complete_endpoint,
        ),
    ]
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to generate; - reads it from standard input.")]
    duration: Annotated[str | None, _option("SECONDS", "Length of the video.")] = None
    aspect_ratio: Annotated[str | None, _option("W:H", "Such as 16:9.")] = None
    resolution: Annotated[str | None, _option("SIZE", "Such as 2k.")] = None
    model: Annotated[str | None, _option("NAME", "Variant of the model.")] = None
    negative_prompt: Annotated[str | None, _option("TEXT", "What to avoid.")] = None
    count: Annotated[str | None, _option("N", "Number of images.")] = None
    reference: Annotated[list[str] | None, _option("IMAGE", "A reference image: a file or a URL; may be repeated.")] = (
        None
    )
    prepare: Prepare = False
    max_side: MaxSide = None
    setting: Annotated[list[str] | None, _option("NAME=VALUE", "Any other field. May be repeated.", "--set")] = None
    output: JobOutput = Path()
    name: FileName = None
    as_json: AsJson = False
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's reference and exit.")] = False
    timeout: Timeout = None
    ledger: LedgerFile = None
    no_ledger: NoLedger = False
    prefer: PreferOption = None
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="NAME", help="Idempotency key: with a ledger, each key is bought once."),
    ] = None
    webhook_url: WebhookUrl = None
    listen: Listen = None

    def request(self, endpoint: Endpoint[Any], report: Report) -> Request:
        """The request that is to be sent.

        Raises:
            CommandError: It is not acceptable, or a field is given twice.
        """
        settings = parse_settings(self.setting or ())
        named = {name: word for name in NAMED if (word := getattr(self, name)) is not None}
        twice = [name for name in settings if name in named or name == "prompt"]
        if twice:
            raise CommandError(f"--set {twice[0]}=...: it is given already; give it once")
        wanted = self.prepare or self.max_side is not None
        prepare = prepared_content(self.max_side, report.say) if wanted else None
        return build(endpoint, _prompt(self.prompt), self.reference or (), {**named, **settings}, prepare)

    def listener(self) -> Listener | None:
        """Where webhooks are received. If None, nowhere.

        Raises:
            CommandError: The options contradict each other.
        """
        hooks = listener(self.webhook_url, self.listen)
        if hooks is not None and self.no_wait:
            raise CommandError("--listen waits for the end, and --no-wait does not: leave one of them out")
        return hooks


@options_from(_Options)
def generate(options: _Options) -> None:
    """Buy one generation, wait for it, and save the files.

    kling generate runblob/o3-video "a paper boat in the rain" --duration 10 --reference boat.jpg -o out/
    """
    report = choose_report(as_json=options.as_json, directory=options.output, ledger=options.ledger)
    with handle_errors(report):
        if options.key is not None and options.no_ledger:
            raise CommandError("--key is a name in a ledger, and --no-ledger wants none: leave one of them out")
        kinds, endpoint = find_any(options.endpoint)
        request = options.request(endpoint, report)
        hooks = options.listener()
        ledger = kept(options.ledger, report, wanted=not options.no_ledger)
        if options.key is not None and ledger is None:
            raise CommandError("--key is a name in a ledger, and there is none now: name one with --ledger FILE")
        client = open_client(
            kinds,
            options.timeout,
            ledger,
            # It limits nothing: where there is no ledger, it knows what may have been bought.
            budget=kling_async.Budget(usd=math.inf, credits=math.inf) if ledger is None else None,
            webhooks=hooks.webhooks if hooks else None,
            prefer=options.prefer,
        )
        key = str(uuid.uuid4()) if options.key is None else options.key
        place = None if options.no_wait else place_of(options.output, options.name, key)
        order = _Order(endpoint, request, key)

        async def work() -> None:
            async with client, hooks.receiving(client) if hooks else nullcontext():
                await order.carry_out(client, place, report)

        run(work, report)


def _prompt(text: str) -> str:
    """The prompt as it was given, or the text of standard input.

    Raises:
        CommandError: Standard input is not text.
    """
    if text != "-":
        return text
    try:
        data = sys.stdin.buffer.read()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise CommandError("the prompt from standard input is UTF-16 text; write it as UTF-8")
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CommandError(f"the prompt from standard input is not UTF-8 text: {error}") from error


@dataclass(frozen=True, slots=True)
class _Order:
    """One generation that is to be bought."""

    endpoint: Endpoint[Any]
    request: Request
    key: str

    async def carry_out(self, client: Client, place: Path | Names | None, report: Report) -> None:
        """Submit. Then, if there is a place for the files, wait and save them."""
        if place is not None:
            await prepare(place)
        report.emit(Submitting(self.endpoint.name))
        with acceptable(self.endpoint):
            job = await submit_or_note(client.submit(self.request, key=self.key), client, self.key, report)
        if place is None:
            if job.choice is not None:
                report.emit(SellerChosen(job.ref, job.choice))
            report.submitted(job.ref, job.cost)
            return
        kind, endpoint = find(job.ref.endpoint)
        expected = endpoint.duration_prior(job.request).median / sandbox_speed(kind)
        report.emit(JobStarted(job.ref, expected))  # before anything is shown, which may fail
        fresh = client.statistics().submitted > 0
        if job.choice is not None:
            report.emit(SellerChosen(job.ref, job.choice))
        if job.cost is not None:
            words = "bought" if fresh else "it was bought before,"
            report.say(f"{words} for {job.cost}")
        await _collect(job, place, report, replay=fresh)


def watch(
    ref: Annotated[str, typer.Argument(metavar="REF", help="A job's reference, such as runblob/o3-video/550e8400-...")],
    *,
    output: JobOutput = Path(),
    name: FileName = None,
    as_json: AsJson = False,
    timeout: Timeout = None,
    ledger: LedgerFile = None,
) -> None:
    """Wait for an existing job and save its files. Nothing is bought.

    If the job is in the ledger or in your history, its end and its files are recorded there.
    """
    report = choose_report(as_json=as_json, directory=output)
    with handle_errors(report):
        address = job_ref(ref)
        kind, endpoint = find(address.endpoint)
        known = key_of(address, ledger)
        client = open_client([kind], timeout, known[0] if known else None)
        place = place_of(output, name, known[1] if known else address.id)
        expected = endpoint.duration_prior(None).median / sandbox_speed(kind)
        run(lambda: _watch(client, JobStarted(address, expected), known and known[1], place, report), report)


async def _watch(client: Client, started: JobStarted, key: str | None, place: Path | Names, report: Report) -> None:
    ref = started.ref
    async with client:
        await prepare(place)
        report.emit(started)
        # To say of a job what the ledger says already makes no call.
        job = client.attach(ref) if key is None else await client.resolve(key, ref)
        await _collect(job, place, report)


async def _collect(job: Job, place: Path | Names, report: Report, *, replay: bool = True) -> None:
    """Follow a job, save its files, and report the cost where it was not known before."""
    price = job.cost
    await collect(job, place, report, replay=replay)
    if price is None and job.cost is not None:
        report.say(f"the job cost {job.cost}")
