"""Webhooks: the address that a provider is to call, and what is checked of a delivery before anything believes it.

None of the providers signs what it sends, so the address is the authentication: it ends in a token that only the holder
of the secret can make, one per submission, and that is worth nothing once the job has ended.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from kling_async._errors import ConfigurationError
from kling_async._urls import is_secure
from kling_async._validation import require

__all__ = ["MAX_BODY", "Delivery", "Webhooks"]

MAX_BODY = 64 * 1024
"""Bytes of the largest body that is read. The providers' own are below 10 KiB; pictures sent inline are not taken."""

_SHORTEST_SECRET = 16  # characters; less can be searched through by whoever has seen one address

Secret = str | SecretStr


@dataclass(frozen=True, slots=True)
class Delivery:
    """One call of a webhook, as a web framework hands it in. Nothing of it is believed yet.

    Attributes:
        provider: The first part of the address after `Webhooks.url`.
        key: The second part: the purchase that it is about.
        token: The third part.
        body: The body, as it came.
        headers: The headers, by lower-case name.
    """

    provider: str
    attempt_id: str
    token: str = field(repr=False)
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Where providers report to, and what their reports count for.

    Every submission gets an address of its own, ``{url}/{provider}/{key}/{token}``; `kling_async.fastapi.router`
    answers there, or whatever else hands deliveries to `Client.deliver`. A request with a ``callback_url`` of its own
    keeps that one.

    The token is part of the address, so an access log has it: it is worth something only until the job ends.

    Attributes:
        url: The public address below which deliveries arrive: https, or http to this very machine.
        secret: What tokens are made with: at least 16 characters, such as of ``secrets.token_urlsafe(32)``, the same in
            every process and after a restart. Several, to replace one: the first makes tokens, all are accepted.
        confirm: Whether a delivery only leads to a look, and what the provider answers is what counts. False: the end
            that a delivery tells is believed, and costs no status call.
        backstop: Seconds, at least, from a job's submission to the first look at it while no delivery has come, and
            between the looks that follow. None: until nearly all such jobs have ended by the endpoint's law, then a
            minute. When three jobs in a row have ended without a delivery, looks are as if there were no webhooks,
            until the next delivery.

    Raises:
        ConfigurationError: The address or a secret is not acceptable.
    """

    url: str
    secret: Secret | Sequence[Secret] = field(repr=False)
    confirm: bool = True
    backstop: float | None = None

    def __post_init__(self) -> None:
        require("Webhooks(url=...)", self.url, str, "an address, such as https://example.com/kling")
        parts = urlsplit(self.url) if is_secure(self.url) else None
        if parts is None or parts.query or parts.fragment or parts.username is not None:
            raise ConfigurationError(
                "Webhooks(url=...): it must be an https:// URL (http:// only to this machine) without user, query and "
                "fragment, such as https://example.com/kling"
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))
        several = isinstance(self.secret, Sequence) and not isinstance(self.secret, str | bytes)
        given: Any = self.secret if several else (self.secret,)  # whatever was given
        for secret in given:
            require("Webhooks(secret=...)", secret, Secret, "text, or a list of texts")
        secrets = tuple(secret if isinstance(secret, SecretStr) else SecretStr(secret) for secret in given)
        if not secrets or any(len(secret) < _SHORTEST_SECRET for secret in secrets):
            raise ConfigurationError(
                f"Webhooks(secret=...): every secret has at least {_SHORTEST_SECRET} characters; make one with "
                "secrets.token_urlsafe(32) and keep it outside of the program"
            )
        object.__setattr__(self, "secret", secrets)
        require("Webhooks(confirm=...)", self.confirm, bool, "True or False")
        backstop: Any = self.backstop  # whatever was given
        if backstop is not None and not (isinstance(backstop, int | float) and backstop > 0):
            raise ConfigurationError(f"Webhooks(backstop={backstop!r}): it must be a number greater than 0")

    def callback_url(self, provider: str, attempt_id: str) -> str:
        """Where `provider` is to report about the purchase `attempt_id`."""
        return f"{self.url}/{provider}/{attempt_id}/{self._tokens(provider, attempt_id)[0]}"

    def accepts(self, delivery: Delivery) -> bool:
        """Whether a delivery came by an address that we made; takes the same time whatever is wrong with it."""
        given = delivery.token.encode(errors="replace")
        known = self._tokens(delivery.provider, delivery.attempt_id)
        fits = [hmac.compare_digest(given, token.encode()) for token in known]  # all of them, whichever it is
        return any(fits)

    def _tokens(self, provider: str, attempt_id: str) -> list[str]:
        """The purchase's token by each secret."""
        message = f"{provider}/{attempt_id}".encode(errors="replace")
        secrets: Any = self.secret
        digests = [hmac.digest(secret.get_secret_value().encode(), message, hashlib.sha256) for secret in secrets]
        return [base64.urlsafe_b64encode(digest).rstrip(b"=").decode() for digest in digests]
