"""The signatures of fal's webhooks: Ed25519, with public keys that fal publishes. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from kling_async._errors import ConfigurationError, Remedy

__all__ = ["is_signed", "read_keys"]

_AGE = 300.0  # s; fal documents five minutes in both directions
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_NAMES = ("x-fal-webhook-request-id", "x-fal-webhook-user-id", "x-fal-webhook-timestamp")


def read_keys(document: Any) -> tuple[bytes, ...]:
    """The Ed25519 keys of a JSON Web Key Set, 32 bytes each. Other keys are left out.

    Raises:
        ValueError: It is no key set.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("keys"), list):
        raise ValueError("the list of public keys is not a JSON Web Key Set")  # noqa: TRY004  # what fal sent is wrong
    found = []
    for entry in document["keys"]:
        if isinstance(entry, Mapping) and entry.get("crv", "Ed25519") == "Ed25519" and isinstance(entry.get("x"), str):
            try:
                key = base64.b64decode(entry["x"] + "=" * (-len(entry["x"]) % 4), altchars=b"-_", validate=True)
            except binascii.Error:
                continue
            if len(key) == _KEY_BYTES:
                found.append(key)
    return tuple(found)


def is_signed(body: bytes, headers: Mapping[str, str], keys: Sequence[bytes], now: float) -> bool:
    """Whether a webhook is signed with one of the keys, at most five minutes ago.

    Args:
        body: The body, unchanged.
        headers: The headers, by lower-case name.
        keys: The public keys.
        now: The time, in POSIX seconds.

    Raises:
        ConfigurationError: The package ``cryptography`` is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # an extra
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ConfigurationError(
            "fal's webhooks are signed, and the package cryptography, which checks the signature, is not installed",
            provider="fal",
            remedies=(Remedy("configure", detail="pip install 'kling-async[fal]'"),),
        ) from error
    request_id, user_id, timestamp = (headers.get(name, "") for name in _NAMES)
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= len("9999999999")):
        return False
    if abs(now - int(timestamp)) > _AGE:
        return False
    try:
        signature = bytes.fromhex(headers.get("x-fal-webhook-signature", ""))
    except ValueError:
        return False
    if len(signature) != _SIGNATURE_BYTES:
        return False
    message = "\n".join((request_id, user_id, timestamp, hashlib.sha256(body).hexdigest()))
    for key in keys:
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, message.encode())
        except InvalidSignature:
            continue
        return True
    return False
