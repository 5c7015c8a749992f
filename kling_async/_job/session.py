"""What a client has for the jobs of one provider."""

from __future__ import annotations

from kling_async._event_loop.guard import LoopGuard
from kling_async._http.backend import PerLoopBackend
from kling_async._http.transport import ProviderTransport
from kling_async._ledger.writer import LedgerWriter
from kling_async._polling.poller import Poller
from kling_async._records import record
from kling_async._submission.submitter import Submitter
from kling_async.providers._base.provider import Provider

__all__ = ["ProviderSession"]


@record
class ProviderSession:
    """One provider, and what a client has for its jobs.

    Attributes:
        transport: Makes the calls.
        poller: Polls the jobs.
        downloads: Fetches the files.
        ledger: Where the paths of saved files are stored. If None, there is no ledger.
        submitter: Knows the jobs that the ledger has.
        guard: Makes sure that one event loop at a time uses the client.
    """

    transport: ProviderTransport
    poller: Poller
    downloads: PerLoopBackend
    ledger: LedgerWriter | None
    submitter: Submitter
    guard: LoopGuard

    @property
    def provider(self) -> Provider:
        """The provider."""
        return self.transport.provider
