"""What may be stored and shown of texts from outside: no key, no token. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["NOT_KEPT", "redact_json", "redact_tokens", "redact_urls"]


NOT_KEPT = "[not kept]"
_CALLBACKS = frozenset({"callback", "callback_url", "callbackurl", "webhook", "webhook_url", "webhookurl"})
_SLASH = r"(?:\\*/|%(?:25)*2f|\\+u002f)"  # as it is, in JSON, in a URL's query
_TAIL = r"[a-z0-9_-]{43}(?![a-z0-9_-])"
_CALLBACK = re.compile(
    rf"(?:https?(?::|%(?:25)*3a){_SLASH}{_SLASH}[^\s\"'<>]{{1,300}}?)?"
    rf"[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}{_SLASH}{_TAIL}",
    re.IGNORECASE,
)
"""An address that `Webhooks` makes, or the end of one: the purchase and the token."""
_BARE = re.compile(rf"(?<![a-z0-9_-]){_TAIL}", re.IGNORECASE)
_CALLBACK_SHOWN = "[a callback address]"
_ADDRESS = re.compile(r"(https?://)(?:[^\s/?#@]*@)?([^\s/?#\"'<>]+)\S*", re.IGNORECASE)


def redact_json(value: Any, secret: str | None) -> Any:
    """A provider's decoded answer as it may be stored: callback addresses, which carry tokens, are left out.

    Args:
        value: Decoded JSON.
        secret: The API key, which some providers repeat.
    """
    if isinstance(value, Mapping):
        return {
            name: "[left out]" if item and str(name).lower() in _CALLBACKS else redact_json(item, secret)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_json(item, secret) for item in value]
    if isinstance(value, str):
        return redact_urls(value.replace(secret, "[the key]") if secret else value)
    return value


def redact_urls(text: str) -> str:
    """Prose as it may be stored: of an address in it, which may be a callback with its token, only the host is left.

    A text that is an address and nothing else is left alone (a result's, say), unless it is a callback of ours.
    """
    if _ADDRESS.fullmatch(text):
        ours = _CALLBACK.search(text)
        return _CALLBACK_SHOWN if ours is not None and ours.end() == len(text) else text
    text = _CALLBACK.sub(_CALLBACK_SHOWN, text)
    if not re.search(r"\s", text):  # one word is no prose: a digest, say, or the name of a file
        return text
    return redact_tokens(_ADDRESS.sub(rf"\1\2/{NOT_KEPT}", text))


def redact_tokens(text: str) -> str:
    """Prose as it may be shown: without the tokens of callback addresses, in whatever way they are written there."""
    return _BARE.sub("[a token]", _CALLBACK.sub(_CALLBACK_SHOWN, text))
