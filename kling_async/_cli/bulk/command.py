"""``kling bulk``: a file of prompts, bought once each, within a budget, with pictures at the end.

What survives the program, in the output directory: the ledger (what was bought), ``results.jsonl`` (what has become of
each row), the files, and ``report.html``. The same command again takes it from there.
"""

from __future__ import annotations

import gc
import math
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from kling_async import Budget, Client, Limits, Polling, Progressive, open_ledger
from kling_async._cli.bulk.cluster import ClusterExecution
from kling_async._cli.bulk.other_runs import Unit, adopt_results, budget_left, refuse_overlap, remaining_budget
from kling_async._cli.bulk.plan import EndpointEstimate, OutputPaths, Task, conflicts, estimates, plan_of, resembling
from kling_async._cli.bulk.results import Results
from kling_async._cli.bulk.run import BulkExecution
from kling_async._cli.bulk.store import RunStore, working_directory
from kling_async._cli.errors import CommandError
from kling_async._cli.file_names import template_of_rows
from kling_async._cli.ledger import DatabaseAddress, place_of
from kling_async._cli.options import AsJson, FileName, PreferOption, Timeout, options_from, preference
from kling_async._cli.output.events import Estimated, RowsRejected
from kling_async._cli.output.formatting import counted
from kling_async._cli.output.reports import Report
from kling_async._cli.preparation import MaxSide, Prepare, PreparedFiles
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.request_arguments import parse_settings
from kling_async._cli.runner import destination, open_client, patience, run
from kling_async._cli.webhook_listener import Listen, WebhookUrl, listener
from kling_async._files.object_store import destination as place_for_results  # reads addresses as the library does
from kling_async._rows.files import read_cells
from kling_async._rows.reader import Row, RowReader, Shard
from kling_async._rows.requests import find_any
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import Provider

if TYPE_CHECKING:
    from kling_async._ray.settings import Settings  # the actors of Ray

__all__ = ["bulk", "parse_amounts", "parse_assumed", "parse_concurrency"]

_NOWHERE = Path(os.devnull) / "out"  # no file is there, and none can be made
_SHOWN = 10  # lines of a file that are named
_PRICE = re.compile(r"\d+(\.\d+)?", re.ASCII)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(usd|credits?)|\$(\d+(?:\.\d+)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The arguments of ``kling bulk``."""

    rows: Annotated[
        str, typer.Argument(metavar="FILE", help="JSONL, CSV, Parquet or text; - reads JSONL from standard input.")
    ]
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Output directory, or an s3://, gs:// or az:// address. Only --dry-run does without.",
            show_default=False,
        ),
    ] = None
    endpoint: Annotated[
        str | None, typer.Option(metavar="ENDPOINT", help="For rows that name none, such as runblob/o3-video.")
    ] = None
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="jsonl, csv, parquet or txt.", show_default="by the file's name"),
    ] = None
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A field for the rows that lack it. May be repeated."),
    ] = None
    ignore_columns: Annotated[
        bool, typer.Option("--ignore-columns", help="Ignore columns that are not fields. results.jsonl keeps them.")
    ] = False
    prepare: Prepare = False
    max_side: MaxSide = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row, estimate the cost, and buy nothing.")] = (
        False
    )
    assume: Annotated[
        list[str] | None,
        typer.Option(
            "--assume-price",
            metavar="ENDPOINT=AMOUNT",
            help="What one job costs where no price is known, such as replicate/kling-o1=1.2. May be repeated.",
        ),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="AMOUNT", help="Spend at most this, such as 5usd or 5usd,200credits. It counts all runs of DIR."
        ),
    ] = None
    in_flight: Annotated[int, typer.Option(metavar="N", min=1, help="Number of jobs at the same time.")] = 100
    concurrency: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PROVIDER=]N",
            help="Jobs of an account at the same time, in all processes with this ledger, such as 40 or fal=40. "
            "May be repeated.",
        ),
    ] = None
    downloads: Annotated[int, typer.Option(metavar="N", min=1, help="Number of downloads at the same time.")] = 8
    name: FileName = None
    no_save: Annotated[bool, typer.Option("--no-save", help="Save no files. results.jsonl has their URLs.")] = False
    cluster: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Buy and save on a Ray cluster; auto is the one on this machine, or a new one.",
        ),
    ] = None
    actors: Annotated[
        int, typer.Option(metavar="N", min=1, help="With --ray: the number of processes that share the jobs.")
    ] = 1
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts of the rows, for several machines.")
    ] = None
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Submit refused rows again, and failed ones unless they would surely fail again."
        ),
    ] = False
    ledger: Annotated[
        Any,
        typer.Option(
            metavar="FILE",
            parser=place_of,
            help="Durable record of the submissions: a file, or postgresql://...",
            show_default="DIR/ledger.db",
        ),
    ] = None
    no_ledger: Annotated[
        bool, typer.Option("--no-ledger", help="Keep no ledger. If the run is killed, its jobs are lost.")
    ] = False
    poll: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.05, help="Polling interval.", show_default="adaptive"),
    ] = None
    status_calls: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Status calls per minute at each provider. 0 means no limit.",
            show_default="as documented",
        ),
    ] = None
    prefer: PreferOption = None
    timeout: Timeout = None
    webhook_url: WebhookUrl = None
    listen: Listen = None
    as_json: AsJson = False

    @property
    def part(self) -> Shard | None:
        """Which part of the rows. If None, all of them."""
        return Shard.parse(self.shard) if self.shard else None

    @property
    def source(self) -> Path | None:
        """The file. If None, standard input."""
        return None if self.rows == "-" else Path(self.rows).expanduser()

    @property
    def title(self) -> str:
        """What the page is about."""
        return self.source.name if self.source else "standard input"

    @property
    def places(self) -> OutputPaths:
        """Where everything is. A dry run may have no output directory: then it is as if that were empty.

        Raises:
            CommandError: They cannot be there, or contradict each other.
        """
        if self.output is None and not self.dry_run:
            raise CommandError("--output is missing: name the directory for the results, such as -o out/")
        if self.no_ledger and self.ledger is not None:
            raise CommandError("--ledger names a ledger, and --no-ledger wants none: leave one of them out")
        place = place_for_results(self.output) if self.output is not None else _NOWHERE
        store = None if isinstance(place, Path) else RunStore(place)
        directory = destination(place) if isinstance(place, Path) else working_directory(place)
        ledger = None if self.no_ledger else self.ledger
        return OutputPaths.of(directory, self.part, ledger, kept=not self.no_ledger, store=store)

    @property
    def polling(self) -> Polling:
        """When to poll jobs.

        Raises:
            CommandError: A time is none.
        """
        if self.poll == math.inf:
            raise CommandError("--poll inf: it is the number of seconds between two polls of a job")
        schedule = None if self.poll is None else Progressive(self.poll)
        calls = None if self.status_calls is None else self.status_calls or math.inf
        return Polling(schedule, patience(self.timeout), calls)

    @property
    def limits(self) -> Limits:
        """How many jobs may run at once.

        Raises:
            CommandError: A number is none, or of no provider.
        """
        return Limits(concurrency=parse_concurrency(self.concurrency or ()))

    @property
    def amounts(self) -> dict[Unit, Decimal] | None:
        """How much may be spent. If None, there is no limit."""
        return parse_amounts(self.budget) if self.budget is not None else None

    def template(self, rows: Sequence[Row]) -> str | None:
        """How files are named. If None, after their jobs.

        Raises:
            CommandError: Files of two rows would have one name.
        """
        if self.name is None:
            return None
        return template_of_rows(self.name, ((row.key, getattr(row.request, "count", None) or 1) for row in rows))


@options_from(_Options)
def bulk(options: _Options) -> None:
    """Buy every row of a file once, and save the results. The same command again continues.

    The columns are endpoint, the fields of the request (see kling endpoints), and optionally key, the row's name.
    Instead of the fields, the column request may hold the provider's own JSON. References are URLs, or paths relative
    to the file. In CSV, | separates them.

    Every row is checked before anything is bought. The first Ctrl-C stops new jobs and waits for the running ones. The
    second one exits at once.

    kling bulk prompts.jsonl -o out/ --endpoint runblob/o3-video --budget 20usd
    """
    output = Path(options.output) if options.output is not None and "://" not in options.output else None
    report = choose_report(as_json=options.as_json, directory=output and output / "files")
    with handle_errors(report), TemporaryDirectory(prefix="kling-") as scratch:
        places, polling, amounts = options.places, options.polling, options.amounts
        limits = options.limits
        assumed = parse_assumed(options.assume or ())
        webhooks = listener(options.webhook_url, options.listen)
        if options.cluster is not None:
            _require_clustered(options)
        if places.store is not None:
            anyio.run(places.store.open, places.results, places.ledger)
            report.say(f"the ledger and the progress of this run are in {places.directory}")
        results = Results(places.results)
        rows, share = _valid_rows(options, results, places, report, Path(scratch))
        plan = plan_of(rows, results, places, retry=options.retry_failed, save=not options.no_save)
        name = options.template(rows)
        anyio.run(refuse_overlap, plan, places, options.part)
        limit, left = None, dict[Unit, Decimal]()
        if amounts is not None:
            left, sentence = anyio.run(
                remaining_budget, amounts, places, options.part, share if options.ledger is None else None
            )
            limit = partial(Budget, usd=left.get("USD"), credits=left.get("credits"), assume=assumed)
            if sentence:
                report.say(sentence)
        if similar := resembling(plan, results):  # said before anything is bought
            lines = ", ".join(str(task.row.line) for task in similar[:_SHOWN]) + (" ..." if similar[_SHOWN:] else "")
            report.say(
                f"{counted(len(similar), 'row')} new, but an earlier row had the same endpoint, and the same prompt "
                f"but for case and blanks (line {lines})"
            )
        if options.dry_run:
            sums = anyio.run(_estimates, plan, results, places, options.prefer, assumed)
            report.emit(Estimated(len(rows), len(plan), sums))
            if limit is not None:
                report.say(f"the budget: {anyio.run(budget_left, left, places)}")
            return
        save = None if options.no_save else options.downloads
        kind = BulkExecution if options.cluster is None else ClusterExecution
        work = kind(
            rows,
            plan,
            results,
            report,
            places,
            title=options.title,
            save=save,
            shard=options.part,
            listener=webhooks,
            name=name,
        )
        try:
            if plan:
                with _spared():
                    run(_buying(work, options, polling, limits, limit), report, stop=work.stop)
        finally:
            if work.begun or not plan:
                work.conclude()
        raise typer.Exit(work.code())


@contextmanager
def _spared() -> Iterator[None]:
    """Have the garbage collector leave out the rows: going through them again and again would hold up the run."""
    if gc.get_freeze_count():  # a program of which the command is a part wants to keep what it has frozen
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _buying(
    work: BulkExecution,
    options: _Options,
    polling: Polling,
    limits: Limits,
    budget: Callable[[], Budget] | None,
) -> Callable[[], Awaitable[None]]:
    """What buys the rows: a client of this process, or a cluster."""
    if isinstance(work, ClusterExecution):
        return partial(work.run_on, _settings(options, work, polling, limits, budget), options.actors)
    client = _client(work, polling, limits, budget() if budget is not None else None, options.prefer)
    return partial(work.run, client, options.in_flight)


def _valid_rows(
    options: _Options, results: Results, places: OutputPaths, report: Report, scratch: Path
) -> tuple[list[Row], Decimal]:
    """The rows of the file or shard, and their share of all rows. A dry run writes prepared images to `scratch`.

    Raises:
        CommandError: Some are not valid. They have been reported.
    """
    if options.endpoint is not None:
        find_any(options.endpoint)
    source = options.source
    cells = read_cells(source, options.form)
    folder = source.parent if source else Path()
    if options.cluster is not None:
        folder = folder.absolute()  # the actors have working directories of their own
    settings = parse_settings(options.setting or ())
    prepare = None
    if options.prepare or options.max_side is not None:
        place = scratch if options.dry_run else places.directory / "prepared"
        prepare = PreparedFiles(place, options.max_side)
    reader = RowReader(folder, options.endpoint, settings, ignore_columns=options.ignore_columns, prepare=prepare)
    good, bad = reader.read(cells, options.part)
    if prepare is not None and not bad:
        report.say(prepare.summary())
    adopt_results(good, results, places)
    bad += conflicts(good, results, places)
    if bad:
        report.emit(RowsRejected(bad))
        raise CommandError(f"{counted(len({row.line for row in bad}), 'row')} not valid; nothing was bought")
    if not good and options.part is None:
        raise CommandError(f"{options.title} has no rows; nothing was bought")
    return good, Decimal(len(good)) / max(reader.count, 1)


def parse_amounts(text: str) -> dict[Unit, Decimal]:
    """The amounts of ``5usd,200credits``.

    Raises:
        CommandError: The text is not such a list.
    """
    amounts: dict[Unit, Decimal] = {}
    for part in text.split(","):
        found = _AMOUNT.fullmatch(part.strip())
        if found is None:
            raise CommandError(f"--budget {text!r:.40}: write an amount like 5usd or 200credits")
        name: Unit = "credits" if (found[2] or "").lower().startswith("credit") else "USD"
        if name in amounts:
            raise CommandError(f"--budget {text!r:.40}: it names {name} twice")
        amounts[name] = Decimal(found[1] or found[3])
    return amounts


def parse_assumed(texts: Sequence[str]) -> dict[str, Decimal]:
    """The prices of ``replicate/kling-o1=1.2``, by endpoint or provider.

    Raises:
        CommandError: A text is not such a price, or names nothing that is known.
    """
    names = {name for kind in ALL_PROVIDERS for name in (kind.name, *(endpoint.name for endpoint in kind.endpoints))}
    found: dict[str, Decimal] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        if name not in names:
            raise CommandError(f"--assume-price {text!r:.60}: there is no endpoint or provider {name!r:.40}")
        if not _PRICE.fullmatch(amount):
            raise CommandError(f"--assume-price {text!r:.60}: write an amount like {name}=1.2")
        if name in found:
            raise CommandError(f"--assume-price {text!r:.60}: the price of {name} is given twice")
        found[name] = Decimal(amount)
    return found


def parse_concurrency(texts: Sequence[str]) -> int | dict[str, int] | None:
    """The numbers of ``40`` or ``fal=40``, for ``Limits(concurrency=...)``.

    Raises:
        CommandError: A text is no number, or names no provider.
    """
    found: dict[str, int] = {}
    for text in texts:
        name, separator, number = text.rpartition("=")
        if not number.isascii() or not number.isdigit() or not int(number):
            raise CommandError(f"--concurrency {text!r:.60}: write a number like 40, or fal=40")
        if separator and name not in {kind.name for kind in ALL_PROVIDERS}:
            raise CommandError(f"--concurrency {text!r:.60}: there is no provider {name!r:.40}")
        if name in found:
            raise CommandError(f"--concurrency {text!r:.60}: {name or 'the number for all'} is given twice")
        found[name] = int(number)
    everywhere = found.pop("", None)
    if everywhere is None or not found:
        return everywhere or found or None
    return {kind.name: found.get(kind.name, everywhere) for kind in ALL_PROVIDERS}


async def _estimates(
    plan: list[Task], results: Results, places: OutputPaths, prefer: str | None, assumed: Mapping[str, Decimal]
) -> dict[str, EndpointEstimate]:
    """What the plan would cost. It needs no key."""
    kinds = {kind for task in plan for kind in _takers(task, with_keys=True)}
    providers = [kind("a key, which is not sent") for kind in ALL_PROVIDERS if kind in kinds]
    if not providers:
        return {}
    ledger = None
    if places.ledger is not None and places.ledger.exists():
        ledger = open_ledger(places.ledger)
    prices = Budget(usd=math.inf, credits=math.inf, assume=assumed)
    async with Client(providers, ledger=ledger, budget=prices, prefer=preference(prefer)) as client:
        return await estimates(plan, client, results.prices())


def _takers(task: Task, *, with_keys: bool) -> list[type[Provider]]:
    """The providers that may make a row.

    Args:
        task: The row.
        with_keys: Of several, only those whose keys are in the environment, if there are any.
    """
    takers, _ = find_any(task.row.endpoint.name)
    keyed = [kind for kind in takers if kind.identity().found_in(os.environ)]
    return keyed if with_keys and keyed else takers


def _require_clustered(options: _Options) -> None:
    """Refuse what a run on a cluster cannot do.

    Raises:
        CommandError: It was asked for.
    """
    if options.no_ledger:
        raise CommandError(
            "--ray needs a ledger: what a dead machine did is repeated, and without a ledger it would be bought again"
        )
    if options.name is not None:
        raise CommandError("--ray names files after their jobs: leave --name out")
    if options.webhook_url is not None or options.listen is not None:
        raise CommandError("--ray polls jobs: leave --webhook-url and --listen out")
    if options.actors > options.in_flight:
        raise CommandError(f"--actors {options.actors}: there are more actors than jobs (--in-flight)")


def _settings(
    options: _Options,
    work: BulkExecution,
    polling: Polling,
    limits: Limits,
    budget: Callable[[], Budget] | None,
) -> Settings:
    """What the actors of a run on a cluster are made with.

    Raises:
        CommandError: A key is missing.
        ConfigurationError: There is no such cluster, or something is on one machine alone.
    """
    from kling_async._ray.run import connect  # noqa: PLC0415  # an optional extra
    from kling_async._ray.settings import settings_for  # noqa: PLC0415  # the same

    kinds, places = _kinds(work.plan), work.places
    connect(options.cluster or "auto")
    if places.ledger is None:
        raise AssertionError("a run on a cluster has a ledger")
    saved = places.store.files if places.store is not None else places.directory / "files"
    return settings_for(
        ledger=os.fspath(places.ledger) if isinstance(places.ledger, DatabaseAddress) else places.ledger,
        reader={},
        in_flight=options.in_flight,
        actors=options.actors,
        save_to=None if options.no_save else saved,
        downloads=options.downloads,
        providers=[kind() for kind in kinds if kind.identity().found_in(os.environ)],
        polling=polling,
        limits=limits,
        budget=budget,
        prefer=preference(options.prefer),
        retry_failed=0,
    )


def _kinds(plan: Sequence[Task]) -> list[type[Provider]]:
    """The providers that may make the rows.

    Raises:
        CommandError: There is no key for a row.
    """
    used = {task.row.endpoint.name: _takers(task, with_keys=False) for task in plan}
    for takers in used.values():
        open_client(takers, None)  # each of them needs a key
    return [kind for kind in ALL_PROVIDERS if any(kind in takers for takers in used.values())]


def _client(
    work: BulkExecution,
    polling: Polling,
    limits: Limits,
    budget: Budget | None,
    prefer: str | None,
) -> Client:
    webhooks = work.listener.webhooks if work.listener else None
    return open_client(
        _kinds(work.plan),
        None,
        work.places.ledger,
        polling=polling,
        limits=limits,
        budget=budget,
        webhooks=webhooks,
        prefer=prefer,
        fast=True,
    )
