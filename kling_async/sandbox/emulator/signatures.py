"""How providers sign webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["standard_signature"]


def standard_signature(secret: str, body: bytes) -> Mapping[str, str]:
    """The headers of Standard Webhooks for a body that is sent now.

    Args:
        secret: ``whsec_`` and the key as base64.
        body: The body.
    """
    number, stamp = f"msg_{uuid.uuid4().hex}", str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{number}.{stamp}.".encode() + body, hashlib.sha256).digest()
    signed = f"v1,{base64.b64encode(mac).decode()}"
    return {"webhook-id": number, "webhook-timestamp": stamp, "webhook-signature": signed}
