"""The ledger in a PostgreSQL database, for processes on any number of computers.

Theory of operation
-------------------
One thread owns the connection (see `group_commit` and `postgres_database`), and a second connection brings what other
processes report (see `postgres_listener`). Claims, leases and the rows of calls are those of every shared ledger (see
`leases`), on the clock of the server.

*Loss of the server.* Nothing is bought that cannot be recorded: a claim fails. Jobs that run are polled on, and what
could not be recorded is recorded when the server is back (see `writer`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kling_async._ledger.database_ledger import DatabaseLedger
from kling_async._ledger.postgres_address import parse_address
from kling_async._ledger.protocol import Submission

if TYPE_CHECKING:
    from kling_async._ledger.postgres_database import PostgresDatabase

__all__ = ["PostgresLedger"]


class PostgresLedger(DatabaseLedger):
    """A ledger in a PostgreSQL database. It is opened by the first call and closed by `aclose`, which the client calls.

    Any number of processes, on any number of computers, may use it at the same time, each with a ledger and a client of
    its own: a key is bought once by all of them, each job is polled by one of them, and all who wait for it see its
    events. Works on asyncio and trio, and over several event loops one after the other. It needs the extra
    ``[postgres]``.

    Args:
        dsn: The address, ``postgresql://user:password@host:port/database``. The password may come from ``PGPASSWORD``
            or ``~/.pgpass`` instead, and so may everything else that libpq knows. It is never shown.
        schema: The schema that has the tables. It is made if need be. One database may have several ledgers in schemas
            of their own. If None, the address names it (``?schema=``), or it is ``kling``.
        keep_images: Keep inline images as they are (a third larger), so that such requests can be submitted again
            after a restart without giving them again. Otherwise they are kept as a digest.
        lease: Seconds after its last sign of life for which other processes leave to a process what it is doing: its
            submission then counts as unknown, and its jobs are polled by others. It gives three signs in that time. If
            None, the variable ``KLING_LEASE``, or 30.

    Raises:
        ConfigurationError: The address cannot be read, psycopg is not installed, or the lease is too short.
    """

    def __init__(
        self, dsn: str, *, schema: str | None = None, keep_images: bool = False, lease: float | None = None
    ) -> None:
        self._address = parse_address(dsn, schema)
        # They need psycopg, whose absence `parse_address` has explained.
        from kling_async._ledger import postgres_leases, postgres_statements  # noqa: PLC0415
        from kling_async._ledger.postgres_connection import Connector  # noqa: PLC0415

        self._connector = Connector(self._address)
        self._withdrawn: set[str] = set()
        super().__init__(
            self._address.shown,
            f"ledger {self._address.schema}",
            statements=postgres_statements,
            lease_statements=postgres_leases,
            keep_images=keep_images,
            lease=lease,
        )

    def __repr__(self) -> str:
        return f"<PostgresLedger {self._address}{' closed' if self._thread.closed else ''}>"

    @property
    def address(self) -> str:
        """Where it is, without the password."""
        return self._address.shown

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """See `Ledger.submissions`."""
        condition = self._statements.UNFINISHED if unfinished else self._statements.CURRENT
        return await self._read(partial(self._statements.select, condition=condition))

    def _open(self) -> PostgresDatabase:
        from kling_async._ledger.postgres_database import PostgresDatabase  # noqa: PLC0415  # as above

        return PostgresDatabase(self._connector, self._leases, self._balances, self._withdrawn)

    def _explained(self, error: Exception) -> Exception:
        from kling_async._ledger.postgres_connection import explained  # noqa: PLC0415  # as above

        known: Exception = explained(self._address, error)
        return known
