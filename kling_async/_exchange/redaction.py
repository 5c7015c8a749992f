"""What may be stored and shown of texts from outside: no key, no token. Pure.

The texts are foreign, so every pattern here takes time in proportion to the length of the text, with any content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["NOT_KEPT", "HiddenText", "redact_json", "redact_tokens", "redact_urls"]


NOT_KEPT = "[not kept]"
_LONGEST_TEXT = 4096  # characters of one text of an answer that are stored
_MOST_VALUES = 20_000  # values of one answer that are stored: what a job's answer needs a hundred times over
_MARGIN = 512  # characters beyond a cut in which a key or an address may end that begins before it

_CALLBACKS = frozenset({"callback", "callback_url", "callbackurl", "webhook", "webhook_url", "webhookurl"})
_SLASH = r"(?:\\{0,8}+/|%(?:25){0,8}+2f|\\{1,8}+u002f)"  # as it is, in JSON, in a URL's query
_TOKEN_LENGTH = 43
_TAIL = rf"[a-z0-9_-]{{{_TOKEN_LENGTH}}}(?![a-z0-9_-])"
_CALLBACK = re.compile(rf"[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}{_SLASH}{_TAIL}", re.IGNORECASE)
"""The end of an address that `Webhooks` makes: the attempt's id and the token."""
_CALLBACK_START = re.compile(rf"https?(?::|%(?:25){{0,8}}+3a){_SLASH}{_SLASH}", re.IGNORECASE)
_LONGEST_START = 340  # characters of such an address before its end
_OUTSIDE = re.compile(r"[\s\"'<>]")
_BARE = re.compile(rf"(?<![a-z0-9_-]){_TAIL}", re.IGNORECASE)
_CALLBACK_SHOWN = "[a callback address]"
_ADDRESS = re.compile(r"(https?://)(?:[^\s/?#@]*+@)?([^\s/?#\"'<>@]++)\S*+", re.IGNORECASE)


class HiddenText(str):
    """A secret as a value that prints as what it is not: tracebacks with local variables do not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[hidden]'"


def redact_json(value: Any, secret: str | Sequence[str] | None) -> Any:
    """A provider's decoded answer as it may be stored: callback addresses, which carry tokens, are left out.

    Long texts are cut to 4096 characters, and of an answer of many values the first 20 000 are kept.

    Args:
        value: Decoded JSON.
        secret: The API key, or several secrets. Some providers repeat them.
    """
    return _Stored(secret).value_of(value)


class _Stored:
    """One answer while it is copied.

    In its place, a function within `redact_json` that calls itself would be garbage for the collector after each call.
    """

    __slots__ = ("_left", "_secrets")

    def __init__(self, secret: str | Sequence[str] | None) -> None:
        self._secrets = [each for each in ((secret,) if isinstance(secret, str) else secret or ()) if each]
        self._left = _MOST_VALUES

    def value_of(self, value: Any) -> Any:
        self._left -= 1
        if isinstance(value, str):
            return _stored_text(value, self._secrets)
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, dict | Mapping):
            kept = {}
            for given, item in value.items():
                if self._left <= 0:
                    break
                name = str(given)
                hidden = item and name[:_MARGIN].lower() in _CALLBACKS
                kept[_stored_text(name, self._secrets)] = "[left out]" if hidden else self.value_of(item)
            return kept
        if isinstance(value, list | tuple):
            several = []
            for item in value:
                if self._left <= 0:
                    break
                several.append(self.value_of(item))
            return several
        return value


def _stored_text(text: str, secrets: Sequence[str]) -> str:
    """A text of an answer, without secrets and not too long."""
    length = len(text)
    if length < _TOKEN_LENGTH and "://" not in text:  # most of them, and all names
        for each in secrets:
            text = text.replace(each, "[the key]")
        return text
    kept = text if length <= _LONGEST_TEXT else text[: _LONGEST_TEXT + _MARGIN]
    for each in secrets:
        kept = kept.replace(each, "[the key]")
    kept = redact_urls(kept)
    return kept if length <= _LONGEST_TEXT else f"{kept[:_LONGEST_TEXT]}... [{length} characters]"


def redact_urls(text: str) -> str:
    """Prose as it may be stored: of an address in it, which may be a callback with its token, only the host is left.

    A text that is an address and nothing else is left alone (a result's, say), unless it is a callback of ours.
    """
    if len(text) < _TOKEN_LENGTH and "://" not in text:
        return text
    if _ADDRESS.fullmatch(text):
        ours = _CALLBACK.search(text)
        return _CALLBACK_SHOWN if ours is not None and ours.end() == len(text) else text
    text = _without_callbacks(text)
    if not re.search(r"\s", text):  # one word is no prose: a digest, say, or the name of a file
        return text
    return redact_tokens(_ADDRESS.sub(rf"\1\2/{NOT_KEPT}", text))


def redact_tokens(text: str) -> str:
    """Prose as it may be shown: without the tokens of callback addresses, in every way of writing them."""
    return _BARE.sub("[a token]", _without_callbacks(text))


def _without_callbacks(text: str) -> str:
    parts: list[str] = []
    done = 0
    for end in _CALLBACK.finditer(text):
        before = text[max(done, end.start() - _LONGEST_START) : end.start()]
        word = _OUTSIDE.split(before)[-1]
        begin = _CALLBACK_START.search(word)
        start = end.start() - (len(word) - begin.start() if begin is not None else 0)
        parts += text[done:start], _CALLBACK_SHOWN
        done = end.end()
    return "".join((*parts, text[done:])) if parts else text
