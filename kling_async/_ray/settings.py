"""The settings of a run on a cluster: checked where the run begins, and passed to every actor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kling_async import Budget, Client, ConfigurationError, Ledger, Limits, Polling, PostgresLedger, open_ledger
from kling_async._files.object_store import ObjectUrl, destination
from kling_async._ray import ray
from kling_async._validation import count_of
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import Provider

__all__ = ["LedgerSource", "Settings", "settings_for"]

_BLOCKS_AT_ONCE = 4


class LedgerSource:
    """Opens the ledger in an actor. Its text has no password, because Ray shows the arguments of actors.

    Args:
        place: A file, the address of a database server, or a function that makes a ledger.
    """

    def __init__(self, place: Path | str | Callable[[], Ledger]) -> None:
        self._place = place

    @property
    def file(self) -> Path | None:
        """The file. None if it is not one."""
        return self._place if isinstance(self._place, Path) else None

    @property
    def shared(self) -> bool:
        """Whether the actors share a budget, and a provider's limit on status calls, through the ledger."""
        return isinstance(self._place, Path | str)

    def open(self) -> Ledger:
        """Make the ledger. Nothing is opened before its first call.

        Raises:
            ConfigurationError: It cannot be used.
        """
        return self._place() if callable(self._place) else open_ledger(self._place)

    def __repr__(self) -> str:
        kind = "a file" if self.file else "a server" if isinstance(self._place, str) else "a function"
        return f"<LedgerSource {kind}>"


class Settings:
    """What an actor is made with. It holds API keys, so its text has none of it.

    Args:
        ledger: Opens the ledger.
        client: The arguments of the client, without the ledger.
        reader: The arguments of the reader of rows.
        run: The arguments of `Client.map` for every block.
        in_flight: How many jobs of an actor may run at once.
    """

    def __init__(
        self,
        ledger: LedgerSource,
        client: Mapping[str, Any],
        *,
        reader: Mapping[str, Any],
        run: Mapping[str, Any],
        in_flight: int,
    ) -> None:
        self.ledger = ledger
        self.client = client
        self.reader = reader
        self.run = run
        self.in_flight = in_flight

    def __repr__(self) -> str:
        return f"<Settings in_flight={self.in_flight}>"

    @property
    def rows_per_block(self) -> int:
        """How many rows Ray passes at once. Several blocks are under way, so that the slow end of one costs nothing."""
        return max(1, self.in_flight // 2)

    @property
    def blocks_at_once(self) -> int:
        """How many blocks are under way in an actor."""
        return _BLOCKS_AT_ONCE


def settings_for(  # noqa: PLR0913  # the same
    *,
    ledger: str | os.PathLike[str] | Callable[[], Ledger],
    reader: Mapping[str, Any],
    in_flight: int,
    actors: int,
    save_to: str | os.PathLike[str] | None,
    downloads: int,
    providers: Iterable[Provider] | Provider | None,
    polling: Polling | None,
    limits: Limits | None,
    budget: Callable[[], Budget] | None,
    prefer: Any,
    retry_failed: int,
) -> Settings:
    """Check the settings of a run, and return those of one actor. See `generate`."""
    count_of("generate(in_flight=...)", in_flight, 1)
    count_of("generate(actors=...)", actors, 1)
    if actors > in_flight:
        raise ConfigurationError(f"{actors} actors for {in_flight} jobs at once: use fewer actors, or more jobs")
    maker: Any = budget
    if maker is not None and not callable(maker):
        raise ConfigurationError("generate(budget=...) takes a function, such as lambda: Budget(usd=100)")
    source = _source(ledger)
    if budget is not None and actors > 1 and not source.shared:
        raise ConfigurationError(
            f"a budget needs one actor, and not {actors}, with a ledger that a function makes: it may not count for "
            "all of them. Give the path of a file or an address, or use one actor, which serves thousands of jobs"
        )
    if limits is not None and limits.concurrency is not None and actors > 1 and not source.shared:
        raise ConfigurationError(
            f"Limits(concurrency=...) needs one actor, and not {actors}, with a ledger that a function makes: it may "
            "not count for all of them. Give the path of a file or an address, or use one actor"
        )
    place = None if save_to is None else destination(save_to)
    if not ray.is_initialized():
        ray.init()
    _require_one_machine(source.file, place)
    polling = polling or Polling()
    if actors > 1 and not source.shared:
        polling = Polling(polling.schedule, polling.deadline, polling.status_calls_per_minute, polling.share / actors)
    client = {
        "providers": _with_secrets(providers),
        "polling": polling,
        "limits": limits,
        "budget": budget,
        "prefer": prefer,
    }
    run = {
        "save_to": str(place.absolute()) if isinstance(place, Path) else place and str(place),
        "downloads": downloads,
        "retry_failed": retry_failed,
    }
    return Settings(source, client, reader=reader, run=run, in_flight=max(1, in_flight // actors))


def _source(ledger: str | os.PathLike[str] | Callable[[], Ledger]) -> LedgerSource:
    if callable(ledger) and not isinstance(ledger, str | os.PathLike):
        return LedgerSource(ledger)
    if isinstance(ledger, str) and "://" in ledger:
        PostgresLedger(ledger)  # refuses what is no address, here and not in every actor
        return LedgerSource(ledger)
    if isinstance(ledger, str | os.PathLike):
        return LedgerSource(Path(ledger).expanduser().absolute())
    raise ConfigurationError(
        f"generate(ledger=...) takes the path of a file, an address such as postgresql://..., or a function that makes "
        f"a ledger, not {type(ledger).__name__}: every actor opens the ledger for itself"
    )


def _require_one_machine(file: Path | None, place: Path | ObjectUrl | None) -> None:
    """Refuse what is on one machine, where there are several.

    Raises:
        ConfigurationError: There are several.
    """
    machines = sum(node["Alive"] for node in ray.nodes())
    if machines < 2:  # noqa: PLR2004  # one
        return
    if file is not None:
        raise ConfigurationError(
            f"the ledger {file} is a file of one machine, and the cluster has {machines} nodes: two of them could buy "
            'the same row; use a database server: ledger="postgresql://...". Nothing was bought'
        )
    if isinstance(place, Path):
        raise ConfigurationError(
            f"{place} is a directory of one machine, and the cluster has {machines} nodes; save to an object store: "
            "s3://bucket/prefix, gs:// or az://. Nothing was bought"
        )


def _with_secrets(providers: Iterable[Provider] | Provider | None) -> list[Provider]:
    """The providers with their keys and addresses, of this process's environment.

    Raises:
        ConfigurationError: There is no key.
    """
    if providers is None:
        providers = [kind() for kind in ALL_PROVIDERS if kind.identity().found_in(os.environ)]
    if isinstance(providers, Provider):
        providers = [providers]
    found = [provider.with_environment(os.environ) for provider in providers]
    Client(found or None)  # refuses two of a kind, or none. It opens nothing
    return found
