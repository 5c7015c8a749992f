"""File names that every file system accepts. Pure."""

from __future__ import annotations

import hashlib
import re
import string

from kling_async._models import JobRef

__all__ = ["bounded_name", "named"]

_FIELDS = ("key", "index", "id", "endpoint")
_UNSAFE = re.compile(r"[^\w.=@ -]+")


def bounded_name(name: str, most: int) -> str:
    """Return `name`, or its beginning with a digest of the whole, so that it has at most `most` bytes in UTF-8.

    File systems bound the bytes of a name, not its characters. The digest keeps two long names apart.
    """
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= most:
        return name
    digest = f"-{hashlib.sha256(encoded).hexdigest()[:16]}"
    return encoded[: most - len(digest)].decode("utf-8", "ignore") + digest


def named(template: str, ref: JobRef, key: str | None, index: int) -> str:
    """Return the name, without its extension, of a file of a job by a template. See `Result.save`.

    Args:
        template: Its ``{key}``, ``{index}``, ``{id}`` and ``{endpoint}`` are replaced.
        ref: The job.
        key: The key of its submission. If None, the job's id takes its place.
        index: The file's place among those of the job, from 0.

    Raises:
        ValueError: The template has another field, or is not the name of a file.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(f"the name {template!r:.80} cannot be read as a template: {error}") from None
    if not set(fields) <= {*_FIELDS}:
        raise ValueError(f"the name {template!r:.80} may have the fields {', '.join(_FIELDS)} in braces, and no other")
    if not template.strip() or "/" in template or "\\" in template or template.startswith("."):
        raise ValueError(f"the name {template!r:.80} is not the name of a file without a directory")
    facts = {"key": key or ref.id, "index": index + 1, "id": ref.id, "endpoint": ref.endpoint.replace("/", "-")}
    name = _UNSAFE.sub("_", template.format(**facts)).lstrip(".") or "_"
    return name if index == 0 or "index" in fields else f"{name}-{index + 1}"
