"""From Kling's error codes to typed errors. Pure.

Source: ``kling.ai/document-api``, the page "error codes". The HTTP status alone does not decide: 429 is an empty
account (1101, 1102), an address that is not allowed (1304), too many calls (1302) or a lack of free slots (1303).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from kling_async._errors import (
    ContentRejected,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    Unauthorized,
)
from kling_async._exchange.calls import Reply
from kling_async.providers._base.error_mapping import ErrorMapper

__all__ = ["BAD_FIELD", "NO_SLOT", "TOKEN_EXPIRED", "TOKEN_TOO_NEW", "KlingErrors"]

TOKEN_TOO_NEW = "1003"  # noqa: S105  # a code
TOKEN_EXPIRED = "1004"  # noqa: S105
BAD_FIELD = "1201"
NO_SLOT = "1303"
_EXISTS = re.compile(r"already\s+exist|duplicat", re.IGNORECASE)
_ABSENT = re.compile(r"task\s+not\s+found", re.IGNORECASE)


class KlingErrors(ErrorMapper):
    """Reads ``{"code": 1201, "message": ..., "request_id": ...}``."""

    codes: ClassVar[Mapping[str, type[KlingError]]] = {
        "1000": Unauthorized,
        "1001": Unauthorized,
        "1002": Unauthorized,
        TOKEN_TOO_NEW: Unauthorized,
        TOKEN_EXPIRED: Unauthorized,
        "1100": InsufficientCredits,
        "1101": InsufficientCredits,
        "1102": InsufficientCredits,
        "1103": Unauthorized,
        "1200": InvalidRequest,
        BAD_FIELD: InvalidRequest,
        "1202": InvalidRequest,
        "1203": InvalidRequest,
        "1300": ContentRejected,
        "1301": ContentRejected,
        "1302": RateLimited,
        NO_SLOT: RateLimited,
        "1304": Unauthorized,
        "5000": ProviderUnavailable,
        "5001": ProviderUnavailable,
        "5002": ProviderUnavailable,
    }

    no_slot_codes: ClassVar[frozenset[str]] = frozenset({NO_SLOT})
    # The table of codes: after these a create may be sent again only with an external id.
    uncertain_codes: ClassVar[frozenset[str]] = frozenset({"5000", "5001", "5002"})

    def read_error(self, data: Any) -> tuple[str | None, str | None] | None:
        """The code and the message. A code of 0 is a success."""
        if not isinstance(data, dict):
            return None
        code, message = data.get("code"), data.get("message")
        if isinstance(code, bool) or not isinstance(code, int | str) or str(code) in {"0", ""}:
            return None
        return str(code), message if isinstance(message, str) and message else None

    def request_id(self, reply: Reply) -> str | None:
        """The header, or ``request_id`` in the body."""
        found = super().request_id(reply)
        if found is not None:
            return found
        data = reply.json()
        named = data.get("request_id") if isinstance(data, dict) else None
        return named if isinstance(named, str) and named else None

    def data(self, reply: Reply) -> Any:
        """What stands under ``data`` in an answer that reports success.

        Raises:
            KlingError: The answer is an error, or cannot be read.
        """
        body = self.expect_json(reply)
        if self.read_error(body) is not None:  # an error with success status
            raise self.parse_error(reply) or self.unreadable("it is an error")
        if not isinstance(body, dict) or "data" not in body:
            raise self.unreadable("it has no data")
        return body["data"]

    def says_it_exists(self, reply: Reply) -> bool:
        """Whether a refusal reports that the external id is in use. The code is the one of every bad field."""
        code, message = self._stated(reply)
        return code == BAD_FIELD and bool(_EXISTS.search(message))

    def says_it_is_absent(self, reply: Reply) -> bool:
        """Whether a refusal of ``/v1`` reports that there is no such task. It is never a 404."""
        code, message = self._stated(reply)
        return code == BAD_FIELD and bool(_ABSENT.search(message))

    def code(self, reply: Reply) -> str | None:
        """The code of a refusal."""
        return self._stated(reply)[0]

    def _stated(self, reply: Reply) -> tuple[str | None, str]:
        error = self.parse_error(reply)
        return (None, "") if error is None else (error.code, error.message)

    def absent(self, identity: str, reply: Reply) -> KlingError:
        """The error for a task that Kling does not name in its answer."""
        return JobNotFound(
            f"Kling does not know the job {self.redact(identity)!r}: its answer does not name it",
            provider=self.config.identity.name,
            http_status=reply.status,
            remedies=self._remedies(JobNotFound),
        )
