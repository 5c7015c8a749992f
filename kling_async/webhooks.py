"""Webhooks: the URL that a provider calls, and how a delivery is checked before anything believes it.

Every submission has a callback URL of its own. The URL ends in a token that only the holder of the secret can make, and
that is worthless once the job has ended. Where a provider signs its deliveries and `Webhooks.signing_secrets` has the
secret, the signature must be right as well (Standard Webhooks, standardwebhooks.com: Kling and Replicate).
fal signs with a key pair of its own, so its deliveries must always be signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from kling_async._errors import ConfigurationError
from kling_async._exchange.redaction import HiddenText
from kling_async._exchange.urls import is_secure
from kling_async._validation import require

__all__ = ["MAX_BODY", "Delivery", "Webhooks", "is_signed", "standard_signature"]

MAX_BODY = 64 * 1024
"""Bytes of the largest body that is read. The providers' own are below 10 KiB. Inline images are not accepted."""

# A person who has seen one callback URL can search for a secret offline, so a short or monotonous one is refused.
_SHORTEST_SECRET = 16  # characters
_LONG_SECRET = 32  # characters from which on no variety is asked for
_FEWEST_CHARACTERS = 10  # different ones in a shorter secret
_SIGNATURE_AGE = 300.0  # s. Standard Webhooks recommends five minutes, and Kling documents them
_SIGNING_PREFIX = "whsec_"

Secret = str | SecretStr


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request to a webhook, as a web framework received it. It is not checked yet.

    Attributes:
        provider: The first part of the path after `Webhooks.url`.
        attempt_id: The second part: the submission that it is about.
        token: The third part.
        body: The body, unchanged.
        headers: The headers, by lower-case name.
    """

    provider: str
    attempt_id: str
    token: str = field(repr=False)
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.token, str):
            object.__setattr__(self, "token", HiddenText(self.token))


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Where providers report the progress of jobs, and how far the client trusts the reports.

    Every submission gets a callback URL of its own, ``{url}/{provider}/{attempt_id}/{token}``.
    `kling_async.fastapi.router` answers there, or any other code that passes deliveries to `Client.deliver`. A request
    with a ``callback_url`` of its own keeps that one.

    The token is part of the URL, so access logs contain it. It is worthless once the job has ended.

    Attributes:
        url: The public address below which deliveries arrive: https, or http to this machine.
        secret: Makes the tokens. At least 16 characters with 10 different ones, or at least 32, such as
            ``secrets.token_urlsafe(32)``. The same in every process and after a restart. To replace a secret, give
            several: the first one makes tokens, all are accepted.
        confirm: Whether a delivery only leads to a status call, whose answer counts. If False, the end that a delivery
            reports is believed, and costs no status call.
        backstop: Seconds between submission and the first poll while no delivery has come, and between the polls that
            follow. If None, the time after which nearly all such jobs have ended, then a minute. When three jobs in a
            row have ended without a delivery, polling is as without webhooks, until the next delivery.
        signing_secrets: Secrets from the providers' consoles (``whsec_...``), by provider. Deliveries of these
            providers must be signed. Several secrets for one provider are all accepted, so that one can be replaced.
            The client takes those that are not given from the environment (``KLING_WEBHOOK_SECRET``, ...).

    Raises:
        ConfigurationError: The address or a secret is not acceptable.
    """

    url: str
    secret: Secret | Sequence[Secret] = field(repr=False)
    confirm: bool = True
    backstop: float | None = None
    signing_secrets: Mapping[str, Secret | Sequence[Secret]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require("Webhooks(url=...)", self.url, str, "an address, such as https://example.com/kling")
        parts = urlsplit(self.url) if is_secure(self.url) else None
        if parts is None or parts.query or parts.fragment or parts.username is not None:
            raise ConfigurationError(
                "Webhooks(url=...): it must be an https:// URL (http:// only to this machine) without user, query and "
                "fragment, such as https://example.com/kling"
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))
        secrets = _several("Webhooks(secret=...)", self.secret)
        if not secrets or not all(_hard_to_guess(secret.get_secret_value()) for secret in secrets):
            raise ConfigurationError(
                f"Webhooks(secret=...): every secret has at least {_SHORTEST_SECRET} characters, at least "
                f"{_FEWEST_CHARACTERS} of them different, or at least {_LONG_SECRET} characters; make one with "
                "secrets.token_urlsafe(32) and keep it outside of the program"
            )
        object.__setattr__(self, "secret", secrets)
        require("Webhooks(confirm=...)", self.confirm, bool, "True or False")
        backstop: Any = self.backstop  # not checked yet
        if backstop is not None and not (isinstance(backstop, int | float) and backstop > 0):
            raise ConfigurationError(f"Webhooks(backstop={backstop!r}): it must be a number greater than 0")
        require("Webhooks(signing_secrets=...)", self.signing_secrets, Mapping, "secrets by provider")
        signing = {
            str(provider): _several("Webhooks(signing_secrets=...)", given)
            for provider, given in self.signing_secrets.items()
        }
        for provider, known in signing.items():
            if not known or not all(_signing_key(secret.get_secret_value()) for secret in known):
                raise ConfigurationError(
                    f"Webhooks(signing_secrets=...): the secret of {provider!r} is not one of Standard Webhooks "
                    f"({_SIGNING_PREFIX} and base64); copy it from the provider's console"
                )
        object.__setattr__(self, "signing_secrets", signing)

    def with_environment(self, variables: Mapping[str, str], environment: Mapping[str, str]) -> Webhooks:
        """The same webhooks, with the signing secrets that were not given and that the environment has.

        Args:
            variables: The name of the environment variable for each provider that signs, such as
                ``{"kling": "KLING_WEBHOOK_SECRET"}``. A variable may hold several secrets, separated by commas.
            environment: The environment.

        Raises:
            ConfigurationError: A variable does not hold secrets of Standard Webhooks.
        """
        found = {
            provider: [secret.strip() for secret in environment[variable].split(",") if secret.strip()]
            for provider, variable in variables.items()
            if provider not in self.signing_secrets and environment.get(variable)
        }
        return replace(self, signing_secrets={**self.signing_secrets, **found}) if found else self

    def callback_url(self, provider: str, attempt_id: str) -> str:
        """Where `provider` reports about the submission `attempt_id`."""
        return HiddenText(f"{self.url}/{provider}/{attempt_id}/{self._tokens(provider, attempt_id)[0]}")

    def accepts(self, delivery: Delivery) -> bool:
        """Whether a delivery came by a callback URL of ours. It takes the same time for every wrong token.

        Body and headers are not needed, so this can be asked before the body is read.
        """
        given = delivery.token.encode(errors="replace")
        known = self._tokens(delivery.provider, delivery.attempt_id)
        fits = [hmac.compare_digest(given, token.encode()) for token in known]  # all of them, always
        return any(fits)

    def accepts_signature(self, delivery: Delivery, now: float) -> bool:
        """Whether a delivery is signed by its provider, or no signature is expected of that provider.

        Args:
            delivery: The delivery, with body and headers.
            now: The time, in POSIX seconds.
        """
        known: Any = self.signing_secrets.get(delivery.provider)
        secrets = [secret.get_secret_value() for secret in known or ()]
        return not secrets or is_signed(delivery.body, delivery.headers, secrets, now)

    def _tokens(self, provider: str, attempt_id: str) -> list[HiddenText]:
        """The submission's token by each secret."""
        message = f"{provider}/{attempt_id}".encode(errors="replace")
        secrets: Any = self.secret
        digests = [hmac.digest(secret.get_secret_value().encode(), message, hashlib.sha256) for secret in secrets]
        return [HiddenText(base64.urlsafe_b64encode(digest).rstrip(b"=").decode()) for digest in digests]


def standard_signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """The signature of a delivery by Standard Webhooks, such as ``v1,UsKlJP00...``.

    Args:
        secret: ``whsec_`` and the key in base64.
        message_id: The header ``webhook-id``.
        timestamp: The header ``webhook-timestamp``, in POSIX seconds.
        body: The body, unchanged.
    """
    message = b".".join([message_id.encode(), timestamp.encode(), body])
    digest = hmac.digest(_signing_key(secret), message, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def is_signed(body: bytes, headers: Mapping[str, str], secrets: Sequence[str], now: float) -> bool:
    """Whether a delivery is signed with one of the secrets by Standard Webhooks, at most five minutes ago.

    Args:
        body: The body, unchanged.
        headers: The headers, by lower-case name: ``webhook-id``, ``webhook-timestamp``, ``webhook-signature``.
        secrets: The secrets, ``whsec_...``.
        now: The time, in POSIX seconds.
    """
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= len("9999999999")):
        return False
    expected = [standard_signature(secret, message_id, timestamp, body).encode() for secret in secrets]
    given = [one.encode(errors="replace") for one in headers.get("webhook-signature", "").split()]
    fits = [hmac.compare_digest(mine, theirs) for mine in expected for theirs in given]  # all of them, always
    return any(fits) and abs(now - int(timestamp)) <= _SIGNATURE_AGE


def _several(argument: str, given: Any) -> tuple[SecretStr, ...]:
    """One secret or several, as several."""
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    secrets: Any = given if several else (given,)
    for secret in secrets:
        require(argument, secret, Secret, "text, or a list of texts")
    return tuple(secret if isinstance(secret, SecretStr) else SecretStr(secret) for secret in secrets)


def _hard_to_guess(secret: str) -> bool:
    varied = len(set(secret)) >= _FEWEST_CHARACTERS
    return len(secret) >= _LONG_SECRET or (len(secret) >= _SHORTEST_SECRET and varied)


def _signing_key(secret: str) -> bytes:
    """The key in a secret. Empty if there is none."""
    try:
        return base64.b64decode(secret.removeprefix(_SIGNING_PREFIX).encode(), validate=True)
    except (binascii.Error, ValueError):
        return b""
