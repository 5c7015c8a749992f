"""URLs, parsed once. Pure."""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias, dataclass_transform
from urllib.parse import urlsplit
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from kling_async.providers._base.images import Reference, data_uri, decode_data_uri

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # the same class, by a public way

__all__ = ["is_secure", "is_url"]


_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


def is_secure(url: str) -> bool:
    """Whether `url` is https, or plain http to this very machine."""
    scheme, host = _scheme_and_host(url)
    return bool(host) and (scheme == "https" or (scheme == "http" and _LOOPBACK.fullmatch(host) is not None))


def _scheme_and_host(url: str) -> tuple[str, str]:
    """Both empty if the text cannot be a URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


def is_url(reference: Reference) -> bool:
    """Whether the reference is an http(s) URL."""
    return isinstance(reference, str) and reference.startswith(("https://", "http://"))
