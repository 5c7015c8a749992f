"""Generate the rows of a Ray dataset on the machines of a cluster: rows in, rows out.

::

    import ray

    from kling_async.ray import generate

    rows = ray.data.read_parquet("s3://bucket/prompts.parquet")
    made = generate(rows, endpoint="runblob/o3-video", ledger="postgresql://...", save_to="s3://bucket/run")
    made.write_parquet("s3://bucket/results")

A column is a field of the request, as in ``kling bulk``, or ``key``, ``endpoint`` or ``request``. Each row comes back
with its columns and these:

======================== ==============================================================================================
``key``                  The row's key
``status``               ``completed``; ``failed``: the job failed or was cancelled; ``refused``: the row is not valid,
                         or the provider refused it; ``unknown``: a job may have been bought; ``running``: the job was
                         not waited for any longer; ``unsaved``: it is made, and not saved; ``waiting``: not submitted
``endpoint``             Who made it
``ref``                  The job
``cost``, ``unit``       What the job cost, where the provider reports it, in ``USD`` or ``credits``
``files``                Where its files were saved
``urls``                 Where its files are at the provider, for a while
``error``                What went wrong, and what to do. ``error_kind`` is the name of the error's class, and
                         ``error_code`` the provider's code
``started``, ``elapsed`` When it was bought (ISO 8601), and how many seconds it took
======================== ==============================================================================================

No row raises. Ray runs a dataset anew when it is read a second time, and repeats what a dead machine did. Both buy
nothing again, because the ledger has the keys.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kling_async import Budget, ConfigurationError, Ledger, Limits, Polling
from kling_async._ray import pa, ray
from kling_async._ray.settings import Settings, settings_for
from kling_async._ray.worker import COLUMNS, Worker
from kling_async._rows.reader import Row, RowReader, numbered
from kling_async.providers.base import Provider

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["generate"]

_TEXTS, _TEXT, _NUMBER = pa.list_(pa.string()), pa.string(), pa.float64()
_TYPES = {"files": _TEXTS, "urls": _TEXTS, "cost": _NUMBER, "elapsed": _NUMBER}
_NAME = "key"


def generate(  # noqa: PLR0913  # settings of one run, each by its name
    dataset: Dataset,
    *,
    ledger: str | os.PathLike[str] | Callable[[], Ledger],
    endpoint: str | None = None,
    settings: Mapping[str, Any] | None = None,
    ignore_columns: bool = False,
    in_flight: int = 64,
    actors: int = 1,
    resources: Mapping[str, float] | None = None,
    save_to: str | os.PathLike[str] | None = None,
    downloads: int = 8,
    providers: Iterable[Provider] | Provider | None = None,
    polling: Polling | None = None,
    limits: Limits | None = None,
    budget: Callable[[], Budget] | None = None,
    prefer: Any = None,
    retry_failed: int = 0,
) -> Dataset:
    """Generate every row of a dataset once. Nothing is bought before the dataset that it returns is read.

    One client serves thousands of jobs, so one actor is enough unless the downloads need the network of several
    machines. Each has an equal part of `in_flight`. A provider's limit on status calls is shared through the ledger.

    Args:
        dataset: The rows. If they have no column ``key``, they are read once when this is called: each is named by a
            digest of its request, and equal rows are numbered, as ``kling bulk`` does it.
        ledger: The address of a database server, ``postgresql://...``; or the path of a SQLite file, on a cluster of
            one machine; or a function that makes a ledger, which every actor calls.
        endpoint: The endpoint of rows that name none, such as ``"runblob/o3-video"``, or ``"video"`` or ``"image"``.
        settings: Fields of the request for the rows that lack them.
        ignore_columns: Whether columns that are no fields are only passed on. Otherwise such rows are refused.
        in_flight: How many jobs may run at once, in all actors together.
        actors: How many actors there are. Each holds a client.
        resources: What Ray reserves for each actor, such as ``{"network": 1}``. It runs on a node that has it.
        save_to: An address such as ``"s3://bucket/prefix"``, or on a cluster of one machine a directory. If None,
            results are not saved.
        downloads: How many results of a block of rows are saved at once.
        providers: The providers. If None, every one whose key is in the environment of this process. The actors are
            given the keys, so that the machines need none in theirs.
        polling: When to poll jobs.
        limits: Limits on the calls of each actor. ``Limits(concurrency=...)`` counts the jobs of all actors.
        budget: A function that makes the budget, such as ``lambda: Budget(usd=100)``. What the ledger has counts, and
            so does what all actors spend. With a ledger that a function makes, it needs ``actors=1``.
        prefer: Who makes portable rows. Same as ``Client(prefer=...)``.
        retry_failed: How often a row is submitted again whose job failed. Same as ``Client.run``.

    Returns:
        The rows with what has become of them. See the module for the columns.

    Raises:
        ConfigurationError: A setting cannot be used, there is no API key, or a file or directory of one machine was
            named on a cluster of several. Nothing was bought.
    """
    if not isinstance(dataset, ray.data.Dataset):
        raise ConfigurationError(
            f"generate(dataset) takes a Ray dataset, such as ray.data.read_parquet(...), not {type(dataset).__name__}"
        )
    made = settings_for(
        ledger=ledger,
        reader={
            "folder": Path.cwd(),
            "endpoint": endpoint,
            "settings": dict(settings or {}),
            "ignore_columns": ignore_columns,
        },
        in_flight=in_flight,
        actors=actors,
        save_to=save_to,
        downloads=downloads,
        providers=providers,
        polling=polling,
        limits=limits,
        budget=budget,
        prefer=prefer,
        retry_failed=retry_failed,
    )
    return _with_keys(dataset, made).map_batches(
        _Generator,
        fn_constructor_kwargs={"settings": made},
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=actors,
            max_concurrent_calls_per_actor=made.blocks_at_once,
            max_tasks_in_flight_per_actor=made.blocks_at_once,
            enable_true_multi_threading=True,
        ),
        num_cpus=0,  # an actor mostly waits. One that held a core would keep Ray's own tasks from a small cluster
        resources=dict(resources) if resources else None,
    )


def _with_keys(dataset: Dataset, settings: Settings) -> Dataset:
    """The rows with a key each, in blocks of a fitting size.

    Rows of a dataset without a column of keys are read now: each is named, and equal ones are numbered. Which of them
    has which number makes no difference, so the order of the rows may change from run to run.
    """
    columns = dataset.columns() or []
    if any(column.strip().casefold() == _NAME for column in columns):
        return dataset.repartition(target_num_rows_per_block=settings.rows_per_block, strict=True)
    reader = RowReader(**settings.reader)
    seen: Counter[str] = Counter()
    blocks = []
    for rows in dataset.iter_batches(batch_size=settings.rows_per_block, batch_format="pyarrow"):
        keys = []
        for cells in rows.to_pylist():
            row = reader.parse(0, cells)
            digest = row.digest if isinstance(row, Row) else _digest_of(cells)
            seen[digest] += 1
            keys.append(numbered(digest, seen[digest]))
        blocks.append(ray.put(rows.append_column(_NAME, pa.array(keys, _TEXT))))
    return ray.data.from_arrow_refs(blocks) if blocks else dataset


def _digest_of(cells: Mapping[str, Any]) -> str:
    """What names a row that is not valid."""
    return f"invalid-{hashlib.sha256(repr(cells).encode()).hexdigest()[:16]}"


class _Generator:
    """Generates the rows of blocks. Ray makes one in each actor."""

    def __init__(self, settings: Settings) -> None:
        self._worker = Worker(settings)

    def __call__(self, rows: pa.Table) -> pa.Table:
        made = self._worker.generate(rows.to_pylist())
        kept = rows.drop_columns([name for name in rows.column_names if name in COLUMNS])
        for name in COLUMNS:
            kept = kept.append_column(name, pa.array([row[name] for row in made], _TYPES.get(name, _TEXT)))
        return kept
