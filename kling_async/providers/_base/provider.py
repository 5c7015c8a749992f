"""The protocol of a provider: its endpoints, and its operations written as flows.

A provider does no I/O. Its operations are generators that yield `Call`s and are sent `Reply`s. The transport runs any
of them the same way, and a test drives them with recorded replies.
"""

from __future__ import annotations

import abc
import copy
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import quote

from pydantic import SecretStr

from kling_async._errors import ConfigurationError, KlingError, UnreadableReply
from kling_async._exchange.calls import Call, Flow
from kling_async._models import JobRef, StatusReport
from kling_async.providers._base.credentials import Identity, ProviderConfig, Secret
from kling_async.providers._base.endpoint import Endpoint, Features
from kling_async.providers._base.error_mapping import Accepted, ErrorMapper, job_id

if TYPE_CHECKING:
    from kling_async.providers._base.offers import Offer

__all__ = ["Accepted", "Provider", "Stream", "WebhookItem", "path_id", "webhook_job_id"]


@dataclass(frozen=True, slots=True)
class WebhookItem:
    """What a webhook body reports about one job.

    Attributes:
        id: The provider's id of the job. None if the body does not name it.
        report: What is reported.
    """

    id: str | None
    report: StatusReport


class Stream(abc.ABC):
    """A provider's push channel for one job: the call that opens it, and the reader of its lines.

    Attributes:
        call: Opens it.
        ended: Whether a line reported that the job has ended, and left the details to a poll, which follows at once.
    """

    call: Call
    ended: bool = False

    @abc.abstractmethod
    def read(self, line: str) -> StatusReport | None:
        """The report in `line`. None for a heartbeat or a line without a report.

        Raises:
            UnreadableReply: The line is not of the provider's format.
        """


class Provider(abc.ABC):
    """The API of a provider.

    Args:
        api_key: The key. If None, the client takes it from the provider's environment variable.
        base_url: Another address than the provider's own (a sandbox, a proxy), optionally with a path. It must be
            https, or http to this machine. If None, the client takes it from the environment, or uses the provider's
            own.

    Attributes:
        config: The secrets and the address.
        errors: Reads the provider's replies.

    Raises:
        ConfigurationError: The key is empty or cannot be sent as a header, or the address is not acceptable.
    """

    name: ClassVar[str]
    """Such as ``"runblob"``."""
    display_name: ClassVar[str]
    """Such as ``"RunBlob"``."""
    default_url: ClassVar[str]
    """The provider's own address."""
    env_vars: ClassVar[tuple[str, str]]
    """The environment variables of the API key and of the address."""
    webhook_secret_variable: ClassVar[str | None] = None
    """The environment variable of the secret that signs its webhooks by Standard Webhooks. None if it does not sign."""
    other_secrets: ClassVar[tuple[tuple[Secret, ...], ...]] = ()
    """Sets of secrets that serve in place of the API key, such as an access key with its secret key."""
    endpoints: ClassVar[tuple[Endpoint[Any], ...]]
    """What the provider sells."""
    portable: ClassVar[Sequence[Offer]] = ()
    """Which portable requests (`Video`, `Image`) its endpoints can serve, the newest models first."""
    features: ClassVar[Features]
    """What the provider offers."""
    error_mapper: ClassVar[type[ErrorMapper]]
    """The class that reads the provider's replies."""

    def __init__(self, api_key: str | SecretStr | None = None, base_url: str | None = None) -> None:
        self.configure(ProviderConfig.create(self.identity(), {"api_key": api_key}, base_url))

    def configure(self, config: ProviderConfig) -> None:
        """Use this configuration from now on. A provider that takes other secrets calls it in its ``__init__``."""
        self.config = config
        self.errors = self.error_mapper(config)

    def __repr__(self) -> str:
        key = "set" if self.config.complete else "missing"
        return f"{type(self).__name__}(base_url={self.base_url!r}, api_key={key})"

    @classmethod
    def identity(cls) -> Identity:
        """Name, address and secrets of the provider."""
        key = (Secret("api_key", cls.env_vars[0]),)
        return Identity(
            cls.name, cls.display_name, cls.__name__, cls.default_url, cls.env_vars[1], (key, *cls.other_secrets)
        )

    def with_environment(self, environment: Mapping[str, str]) -> Self:
        """The same provider. What was not passed is taken from environment variables.

        Raises:
            ConfigurationError: There is no key, or a variable cannot be used.
        """
        config = self.config.with_environment(environment)
        if config is self.config:
            return self
        found = copy.copy(self)
        found.configure(config)
        return found

    @property
    def base_url(self) -> str:
        """The address of the API."""
        return self.config.base_url

    @property
    def speed(self) -> float:
        """How many times faster than documented its jobs run.

        A sandbox sets it, or the variable ``KLING_SANDBOX_SPEED``, which counts only for an address on this machine.
        The poll schedule follows it.
        """
        return self.config.speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self.configure(replace(self.config, speed=speed))

    @property
    def status_calls_per_minute(self) -> float | None:
        """Its limit on status calls, at its speed. None if it states none."""
        stated = self.features.status_calls_per_minute
        return None if stated is None else stated * self.speed

    def is_own(self, url: str) -> bool:
        """Whether a call to `url` may carry the secrets.

        By default only a path may. A provider with several hosts overrides it, and must compare whole origins.
        """
        return url.startswith("/")

    def credentials(self) -> Mapping[str, str]:
        """The headers that authenticate a call to the provider.

        Raises:
            ConfigurationError: There is no key.
        """
        self.config.require_complete()
        return {"authorization": f"Bearer {self.config.values['api_key'].get_secret_value()}"}

    def endpoint(self, name: str) -> Endpoint[Any]:
        """The endpoint of that full name.

        Raises:
            ConfigurationError: The provider has none of that name.
        """
        for endpoint in self.endpoints:
            if endpoint.name == name:
                return endpoint
        known = ", ".join(endpoint.name for endpoint in self.endpoints)
        raise ConfigurationError(f"{self.display_name} has no endpoint {name!r}; it has {known}", provider=self.name)

    @abc.abstractmethod
    def submit(self, request: Any, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """Buy one generation. The flow's last call is PAID.

        Args:
            request: A request for one of the endpoints. Its local files are replaced by their content.
            attempt_id: A fresh UUID v4 for this attempt. It becomes the job's id where the provider lets us choose it.
            callback_url: Where the provider is to send webhooks. If None, it sends none.
        """

    @abc.abstractmethod
    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
        """Ask about jobs, at most ``features.batch`` of them. An error of one job must not hide the others."""

    def cancel(self, ref: JobRef) -> Flow[bool]:
        """Cancel a running job.

        Returns:
            Whether the provider accepted the cancellation.

        Raises:
            ConfigurationError: The provider cannot cancel.
        """
        raise ConfigurationError(
            f"{self.display_name} has no way to cancel a job: it runs on and is charged as usual",
            provider=self.name,
            ref=str(ref),
        )
        yield  # makes this a flow without calls

    def stream(self, ref: JobRef) -> Stream | None:
        """The push channel of a job. None if the provider has none."""
        del ref
        return None

    def search(self, request: Any, callback_url: str | None, since: datetime) -> Flow[Sequence[Accepted]]:
        """Search for jobs that a submission whose answer was lost may have bought.

        Args:
            request: What was submitted.
            callback_url: The callback address that was sent. None if none was.
            since: When it was sent (aware).

        Returns:
            The jobs that fit, the newest first. An empty list does not prove that nothing was bought: the provider may
            not list the job yet, or has no list. Several jobs: nothing in the list decides between them.
        """
        del request, callback_url, since
        return ()
        yield  # makes this a flow without calls

    def account(self, run: Callable[[Flow[Any]], Awaitable[Any]]) -> Any:
        """What an account has besides jobs, as an object with awaitable methods: ``client.NAME``. None if nothing.

        Args:
            run: Runs a flow.
        """
        del run

    def deduplicates(self, endpoint: str) -> bool:
        """Whether a submission to that endpoint may be sent again under the same id of ours.

        By default `features.client_chosen_id`. A provider overrides it if some of its endpoints take no id.
        """
        del endpoint
        return self.features.client_chosen_id

    def find(self, request: Any, attempt_id: str) -> Flow[Accepted | None]:
        """Read the job that an attempt bought by the id that we chose. It is asked before an attempt is sent again.

        Returns:
            None if the provider knows no such job, or has no way to read one by our id.
        """
        del request, attempt_id
        return None
        yield  # makes this a flow without calls

    def client_chosen_id(self, request: Any, attempt_id: str) -> str | None:
        """The id of the job that an attempt buys, where we choose it. None if the provider chooses.

        Args:
            request: What is bought. None if it is not known any more.
            attempt_id: The UUID of the attempt.
        """
        del request, attempt_id
        return None

    def same_job(self, job_id: str, reported: str) -> bool:
        """Whether a webhook that names `reported` is about the job `job_id`."""
        return job_id == reported

    def job_id(self, reported: str, endpoint: str, request: Mapping[str, Any]) -> str:
        """The id of a job in our references, for an id that a webhook reports. By default they are the same.

        Args:
            reported: The id in the webhook.
            endpoint: Full name of the endpoint.
            request: What was submitted, as the ledger stores it.
        """
        del endpoint, request
        return reported

    def check_signature(self, body: bytes, headers: Mapping[str, str], now: float) -> Flow[bool]:
        """Check the signature of a webhook, where the provider signs with a public key that it publishes.

        A provider that signs with a secret of the account has no need of it (`webhook_secret_variable`).

        Args:
            body: The body, unchanged.
            headers: The headers, by lower-case name.
            now: The time, in POSIX seconds.

        Returns:
            Whether the webhook may be believed.
        """
        del body, headers, now
        return True
        yield  # makes this a flow without calls

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """What a webhook body reports, one item for each job.

        Raises:
            UnreadableReply: The body is not of the provider's format.
        """
        del body, headers
        raise UnreadableReply(f"{self.display_name} sends no webhooks", provider=self.name)


_PLAIN_ID = re.compile(r"[A-Za-z0-9._~-]*")  # has nothing to quote, as nearly all


def webhook_job_id(value: Any) -> str | None:
    """The job id in a webhook body as text. None if it is none."""
    try:
        return job_id(value)
    except (TypeError, ValueError):
        return None


def path_id(ref: JobRef) -> str:
    """The job's id, quoted as one segment of a path."""
    own = ref.id
    return own if _PLAIN_ID.fullmatch(own) else quote(own, safe="")
