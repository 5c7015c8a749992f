"""Where a provider is, and which secrets it takes: checked once, completed from the environment. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import SecretStr

from kling_async._errors import ConfigurationError, Remedy
from kling_async._exchange.urls import is_secure
from kling_async._records import record

__all__ = ["SPEED_VARIABLE", "Identity", "ProviderConfig", "Secret"]

SPEED_VARIABLE = "KLING_SANDBOX_SPEED"


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret that a provider takes.

    Attributes:
        parameter: Name of the argument, such as ``"api_key"``.
        variable: The environment variable that holds it, such as ``"RUNBLOB_API_KEY"``.
    """

    parameter: str
    variable: str


@dataclass(frozen=True, slots=True)
class Identity:
    """What is the same for every object of one provider class.

    Attributes:
        name: Such as ``"runblob"``.
        display_name: Such as ``"RunBlob"``.
        class_name: Name of the class, for messages.
        default_url: The provider's own address.
        url_variable: The environment variable of another address.
        secrets: Sets of secrets. Each set alone is enough to authenticate. The first set is the one named to users.
    """

    name: str
    display_name: str
    class_name: str
    default_url: str
    url_variable: str
    secrets: tuple[tuple[Secret, ...], ...]

    def found_in(self, environment: Mapping[str, str]) -> bool:
        """Whether the environment has all secrets of one set."""
        return any(all(environment.get(secret.variable) for secret in group) for group in self.secrets)

    @property
    def variables(self) -> str:
        """The variables to set, in words: ``A``, or ``A, or B and C``."""
        return ", or ".join(" and ".join(secret.variable for secret in group) for group in self.secrets)


@record
class ProviderConfig:
    """The secrets and the address of one provider object.

    Attributes:
        identity: Which provider it is.
        values: The secrets by parameter. Those that are not known are missing.
        base_url: The address, without a slash at the end.
        url_given: Whether the user chose the address, so that the environment must not.
        speed: How many times faster than documented jobs run. Only a sandbox sets it.
    """

    identity: Identity
    values: Mapping[str, SecretStr] = field(default_factory=dict)
    base_url: str = ""
    url_given: bool = False
    speed: float = 1.0
    complete: bool = field(init=False, compare=False)
    """Whether all secrets of one set are known."""

    def __post_init__(self) -> None:
        complete = any(all(secret.parameter in self.values for secret in group) for group in self.identity.secrets)
        object.__setattr__(self, "complete", complete)  # asked at each call

    @classmethod
    def create(cls, identity: Identity, values: Mapping[str, object], base_url: object) -> ProviderConfig:
        """The configuration, checked.

        Args:
            identity: Which provider it is.
            values: What was passed for each secret. None counts as not passed.
            base_url: What was passed for the address. None means the provider's own.

        Raises:
            ConfigurationError: A secret cannot be sent as a header, or the address is not acceptable.
        """
        passed = {
            name: _secret(identity, value, f"what is passed to {identity.class_name} as {name}", name)
            for name, value in values.items()
            if value is not None
        }
        return cls(identity, passed, _address(identity, base_url), base_url is not None)

    @property
    def secret_texts(self) -> tuple[str, ...]:
        """The secrets in plain text, to find and hide them."""
        return tuple(value.get_secret_value() for value in self.values.values())

    @property
    def account(self) -> str:
        """Names the account in a ledger. It is a digest, from which nobody gets the key."""
        secrets = "\n".join(self.secret_texts).encode()
        return f"{self.identity.name} {hashlib.sha256(secrets).hexdigest()[:16]}"

    def with_environment(self, environment: Mapping[str, str]) -> ProviderConfig:
        """The same configuration. What is missing is taken from environment variables.

        Raises:
            ConfigurationError: No set of secrets is complete, or a variable cannot be used.
        """
        config = self
        if not config.complete:
            config = config._with_secrets(environment)
        url = environment.get(self.identity.url_variable)
        if url and not self.url_given:
            config = replace(config, base_url=_address(self.identity, url))
        speed = environment.get(SPEED_VARIABLE)
        if speed and config.speed == 1 and config.base_url.startswith("http:"):  # http: only to this machine
            config = replace(config, speed=_speed(speed))
        return config

    def _with_secrets(self, environment: Mapping[str, str]) -> ProviderConfig:
        for group in self.identity.secrets:
            missing = [secret for secret in group if secret.parameter not in self.values]
            if all(environment.get(secret.variable) for secret in missing):
                found = {
                    secret.parameter: _secret(
                        self.identity, environment[secret.variable], secret.variable, secret.parameter
                    )
                    for secret in missing
                }
                return replace(self, values={**self.values, **found})
        first = ", ".join(f"{secret.parameter}=..." for secret in self.identity.secrets[0])
        raise ConfigurationError(
            f"no API key for {self.identity.display_name}",
            provider=self.identity.name,
            remedies=(
                Remedy("configure", detail=f"set {self.identity.variables}"),
                Remedy("configure", detail=f"pass {self.identity.class_name}({first})"),
            ),
        )

    def require_complete(self) -> None:
        """Raise if no set of secrets is complete.

        Raises:
            ConfigurationError: There is no key.
        """
        if not self.complete:
            self._with_secrets({})


def _secret(identity: Identity, value: object, source: str, parameter: str) -> SecretStr:
    label = "API key" if parameter == "api_key" else parameter.replace("_", " ")
    if not isinstance(value, str | SecretStr):
        kind = type(value).__name__
        raise ConfigurationError(
            f"the {identity.display_name} {label} must be text, not {kind}", provider=identity.name
        )
    secret = value if isinstance(value, SecretStr) else SecretStr(value)
    text = secret.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        flaw = "has characters that no key has" if text else "is empty"
        raise ConfigurationError(
            f"the {identity.display_name} {label} {flaw}",
            provider=identity.name,
            remedies=(Remedy("configure", detail=f"check {source}"),),
        )
    return secret


def _address(identity: Identity, value: object) -> str:
    if value is None:
        return identity.default_url.rstrip("/")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise ConfigurationError(
            f"the address given for {identity.display_name} must be text, not {kind}", provider=identity.name
        )
    if set("@?#\\ ") & set(value) or not value.isprintable():
        # It is not repeated: what stands before an @ is a password.
        raise ConfigurationError(
            f"the address given for {identity.display_name} is not plain: it must be an https:// URL without user, "
            f"query and fragment, without blanks and control characters, such as {identity.default_url}",
            provider=identity.name,
            remedies=(
                Remedy("configure", detail=f"check {identity.url_variable}"),
                Remedy("configure", detail=f"pass the key as {identity.secrets[0][0].parameter}"),
            ),
        )
    url = (value or identity.default_url).rstrip("/")
    if not is_secure(url):
        raise ConfigurationError(
            f"{url!r} cannot be the address of {identity.display_name}: it must be an https:// URL "
            f"(http:// only to this machine), because the API key travels to it",
            provider=identity.name,
            remedies=(Remedy("configure", detail=f"check {identity.url_variable}"),),
        )
    return url


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise ConfigurationError(f"{SPEED_VARIABLE} is {text!r:.40}; it must be a number greater than 0, such as 60")
    return speed
