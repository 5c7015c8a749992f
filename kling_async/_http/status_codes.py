"""What the status code of an answer means for the call that it answers. Pure.

This is the one place that decides it. The transport asks it for every answer. A provider adds only what is its own: the
words in which it refuses (`stated`).
"""

from __future__ import annotations

import enum
from http import HTTPStatus

__all__ = ["Meaning", "meaning_of"]


class Meaning(enum.Enum):
    """What a complete answer means for its call."""

    SERVED = enum.auto()
    """The call was served (2xx)."""
    REFUSED = enum.auto()
    """The call was not served, and sending it again would not help. A paid call has bought nothing."""
    MOVED = enum.auto()
    """The call belongs to another address. A paid call has bought nothing. It is not sent there: the key would go
    with it."""
    THROTTLED = enum.auto()
    """The provider answers "not now". A paid call has bought nothing, and may be sent again later."""
    UNCLEAR = enum.auto()
    """The call may have been served or not. A paid call may have bought something."""


_MOVED = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
_UNCLEAR = frozenset(
    {
        HTTPStatus.SEE_OTHER,  # "the result is over there": the call was served
        HTTPStatus.REQUEST_TIMEOUT,  # part of the request arrived, and the answer does not show who stopped waiting
        HTTPStatus.TOO_EARLY,
        499,  # a gateway: the client hung up, while the request was being served
    }
)


def meaning_of(status: int, *, stated: bool) -> Meaning:
    """Decide what a status code means.

    A complete 4xx answer is a refusal by its status, with any body: a gateway that answers 401 with a page of its
    own has not passed the call on either. A 5xx does not show how far the call came, unless the provider itself
    reports that it cannot serve now.

    Args:
        status: The status code.
        stated: Whether the body is an error in the provider's own words.
    """
    if 200 <= status < 300:  # noqa: PLR2004  # the range is HTTP's
        return Meaning.SERVED
    if status == HTTPStatus.TOO_MANY_REQUESTS or (status == HTTPStatus.SERVICE_UNAVAILABLE and stated):
        return Meaning.THROTTLED
    # 409 is either the provider's own refusal, or a gateway's word about a call that is being served already.
    if status in _UNCLEAR or (status == HTTPStatus.CONFLICT and not stated):
        return Meaning.UNCLEAR
    if status in _MOVED:
        return Meaning.MOVED
    return Meaning.REFUSED if 400 <= status < 500 else Meaning.UNCLEAR  # noqa: PLR2004
