"""The local images of a request, prepared for its endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from kling_async._rows.errors import InputError
from kling_async.providers.base import Endpoint

__all__ = ["Preparer", "prepared"]

Preparer: TypeAlias = Callable[[Path, int], Path | bytes]
"""Makes of a local image what is given to a request. The number is the most bytes that its field takes."""


def prepared(endpoint: Endpoint[Any], values: Mapping[str, Any], prepare: Preparer | None) -> dict[str, Any]:
    """The fields of a request, with each local image of them prepared.

    Raises:
        InputError: One cannot be. Its `fields` name the field.
    """
    found = dict(values)
    for limits in endpoint.images if prepare is not None else ():
        given = found.get(limits.field)
        made = [
            _made(limits.field, image, limits.max_bytes, prepare) if isinstance(image, Path) else image
            for image in (given if isinstance(given, tuple) else (given,))
        ]
        if given is not None:
            found[limits.field] = tuple(made) if isinstance(given, tuple) else made[0]
    return found


def _made(name: str, path: Path, most: int, prepare: Preparer | None) -> Path | bytes:
    try:
        return path if prepare is None else prepare(path, most)
    except ImportError as error:
        raise InputError(f"--prepare: {error}; nothing was sent") from error
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror or error}"
    except ValueError as error:
        reason = str(error)
    raise InputError("an image cannot be prepared; nothing was sent", fields={name: reason.strip()})
