"""File names that every file system accepts. Pure."""

from __future__ import annotations

import hashlib

__all__ = ["bounded_name"]


def bounded_name(name: str, most: int) -> str:
    """Return `name`, or its beginning with a digest of the whole, so that it has at most `most` bytes in UTF-8.

    File systems bound the bytes of a name, not its characters. The digest keeps two long names apart.
    """
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= most:
        return name
    digest = f"-{hashlib.sha256(encoded).hexdigest()[:16]}"
    return encoded[: most - len(digest)].decode("utf-8", "ignore") + digest
