"""Arguments of the command line: the request, the job or the endpoint that they describe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from kling_async import JobRef, Request
from kling_async._cli.errors import CommandError
from kling_async._rows.prepared_images import Preparer, prepared
from kling_async._rows.requests import (
    PORTABLE,
    acceptable,
    decoded,
    image_of,
    images,
    known,
    require_words,
    with_local_files,
)
from kling_async.providers.base import Endpoint

__all__ = ["build", "complete_endpoint", "job_ref", "parse_settings"]


def job_ref(text: str) -> JobRef:
    """The job that an argument names.

    Raises:
        CommandError: It names none.
    """
    try:
        return JobRef.parse(text)
    except ValueError as error:
        raise CommandError(
            f"{text!r:.200} is not a job reference; one looks like "
            "runblob/o3-video/550e8400-e29b-41d4-a716-446655440000"
        ) from error


def complete_endpoint(incomplete: str) -> list[str]:
    """The names that begin so, for the shell to complete."""
    return [name for name in (*PORTABLE, *known()) if name.startswith(incomplete)]


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """``name=value`` pairs as a mapping.

    Raises:
        CommandError: One does not have this form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise CommandError(f"--set {setting!r:.80} is not of the form name=value, such as --set duration=10")
        if name in found:
            raise CommandError(f"{name} is set twice; give it once (a list is written as JSON: --set {name}='[...]')")
        found[name] = value
    return found


def build(
    endpoint: Endpoint[Any],
    prompt: str,
    references: Sequence[str],
    given: Mapping[str, str],
    prepare: Preparer | None = None,
) -> Request:
    """The request that a command line describes. The endpoint's model decides what is valid.

    A value is passed as text. If the model does not accept the text, and it is JSON, the parsed JSON is passed.

    Raises:
        InputError: The request is not valid. The message names the field, the value and what is allowed.
    """
    words = {"prompt": prompt} if prompt or "prompt" in endpoint.request.model_fields else {}
    values: dict[str, Any] = {**words, **given}
    require_words(values)
    values = with_local_files(endpoint, values)
    if references:
        values |= images(endpoint, [image_of(reference) for reference in references])
    values = prepared(endpoint, values, prepare)
    model: type[Request] = endpoint.request
    with acceptable(endpoint, options=True):
        try:
            return model.model_validate(values)
        except ValidationError as error:
            texts = {name: text for name, text in given.items() if values[name] == text}
            parsed = decoded(texts, {str(item["loc"][0]) for item in error.errors() if item["loc"]})
            if not parsed:
                raise
            return model.model_validate(values | parsed)
