"""Counts of what the emulated providers received and did. Tests judge a client by them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Counters:
    """What the providers received and did. Written by the server, read by tests, from any thread.

    Args:
        bought: Jobs accepted (and paid for), by provider.
        requests: Requests received, by provider and kind (`submit`, `status`, `download`, ...).
        refused: Answers with a 4xx or 5xx status, by provider and status.
        faults: Faults that were injected, by name.
        webhooks: Webhook deliveries attempted, by provider.
        uploads: Result files sent to an upload URL of the customer, by provider.
        connections: Connections accepted since the start.
        open_connections: Connections open now.
        peak_connections: The most connections that were ever open at once.
        renders: Result files that were drawn.
    """

    bought: Counter[str] = field(default_factory=Counter)
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    webhooks: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    open_connections: int = 0
    peak_connections: int = 0
    renders: int = 0

    @property
    def jobs_bought(self) -> int:
        """Jobs accepted by all providers together."""
        return self.bought.total()

    @property
    def status_calls(self) -> int:
        """Status calls received by all providers together."""
        return sum(count for (_, kind), count in self.requests.items() if kind == "status")

    def as_dict(self) -> dict[str, Any]:
        """All counters as plain JSON. Pairs become `provider/kind`."""
        return {
            "bought": dict(self.bought),
            "requests": {f"{provider}/{kind}": count for (provider, kind), count in self.requests.items()},
            "refused": {f"{provider}/{status}": count for (provider, status), count in self.refused.items()},
            "faults": dict(self.faults),
            "webhooks": dict(self.webhooks),
            "uploads": dict(self.uploads),
            "connections": self.connections,
            "open_connections": self.open_connections,
            "peak_connections": self.peak_connections,
            "renders": self.renders,
            "jobs_bought": self.jobs_bought,
            "status_calls": self.status_calls,
        }
