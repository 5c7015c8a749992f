"""The JWT that an access key and a secret key make, kept until shortly before its end."""

from __future__ import annotations

from kling_async._errors import ConfigurationError, Remedy

__all__ = ["TokenMaker"]

_LIFETIME = 1800  # s. The value of Kling's own example, and no other is documented as accepted
_RENEWED_BEFORE = 300  # s before its end
_BACKDATED = 5  # s. A server whose clock is a little behind must not find it too new
_MORE_BACKDATED = 60


class TokenMaker:
    """Makes the tokens of one pair of keys.

    Args:
        access_key: Names the account.
        secret_key: Signs.
    """

    def __init__(self, access_key: str, secret_key: str) -> None:
        self._access_key = access_key
        self._secret_key = secret_key
        self._token = ""
        self._expires = 0.0
        self._backdated = _BACKDATED

    def __repr__(self) -> str:
        return "TokenMaker(keys=set)"

    def token(self, now: float) -> str:
        """A token that is valid for some minutes.

        Args:
            now: POSIX seconds.

        Raises:
            ConfigurationError: The package ``pyjwt`` is not installed.
        """
        if now < self._expires - _RENEWED_BEFORE:
            return self._token
        try:
            import jwt  # noqa: PLC0415  # an extra: most accounts have an API key
        except ImportError as error:
            raise ConfigurationError(
                "an access key and a secret key need the package pyjwt, which is not installed",
                provider="kling",
                remedies=(
                    Remedy("configure", detail="pip install 'kling-async[kling]'"),
                    Remedy("configure", detail="or set KLING_API_KEY"),
                ),
            ) from error
        expires = int(now) + _LIFETIME
        claims = {"iss": self._access_key, "exp": expires, "nbf": int(now) - self._backdated}
        self._token = jwt.encode(claims, self._secret_key, algorithm="HS256")
        self._expires = float(expires)
        return self._token

    def renew(self, *, earlier: bool) -> None:
        """Make a new token at the next call.

        Args:
            earlier: Kling found the last one too new: begin its validity earlier.
        """
        self._expires = 0.0
        if earlier:
            self._backdated = _MORE_BACKDATED
