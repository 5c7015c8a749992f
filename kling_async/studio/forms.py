"""What the form of each endpoint needs: fields, limits, labelled values, and what is wrong with what was typed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from anyio import to_thread
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kling_async._client import Client
from kling_async._routing.quotes import Quote
from kling_async.providers import load_providers
from kling_async.providers._base.field_errors import describe_problem, problem_place
from kling_async.providers._base.public_body import OPERATOR_FIELDS, public_schema
from kling_async.providers.base import Endpoint, ImageInput, Provider, Request, portable_endpoints

__all__ = ["Forms", "problems"]

_VIDEO = re.compile("video|lip-sync|avatar|motion|effects")
_IN_A_FORM = {
    "missing": "this is needed",
    "string_too_short": "this is needed",
    "bool_parsing": "it must be yes or no",
    "bool_type": "it must be yes or no",
    "extra_forbidden": "this endpoint has no such field",
}
"""Kinds of errors that a form says in other words."""
_PROMPT = "a prompt"
_REMEMBERED = 100  # settings whose choices are remembered. One takes some kilobytes


class Forms:
    """The endpoints of a client's providers, and `Video` and `Image`.

    Args:
        client: The client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        names = client.statistics().providers
        self.providers: dict[str, type[Provider]] = {kind.name: kind for kind in load_providers() if kind.name in names}
        self._portable = portable_endpoints(self.providers.values())
        self.endpoints: dict[str, Endpoint[Any]] = dict(self._portable)
        self.endpoints |= {each.name: each for kind in self.providers.values() for each in kind.endpoints}
        self._described: dict[str, dict[str, Any]] = {}
        self._choices = lru_cache(maxsize=_REMEMBERED)(self._choices_with)

    def listed(self) -> list[dict[str, Any]]:
        """All endpoints, without their forms."""
        return [self._summary(endpoint) for endpoint in self.endpoints.values()]

    def _summary(self, endpoint: Endpoint[Any]) -> dict[str, Any]:
        kind = self.providers.get(endpoint.name.partition("/")[0])
        return {
            "endpoint": endpoint.name,
            "provider": kind.display_name if kind else None,
            "kind": kind_of(endpoint.name),
            "summary": (endpoint.request.__doc__ or "").partition("\n")[0],
        }

    def described(self, name: str) -> dict[str, Any]:
        """The form of one endpoint.

        Raises:
            KeyError: There is no such endpoint.
        """
        if name not in self._described:
            self._described[name] = self._form(self.endpoints[name])
        return self._described[name]

    def _form(self, endpoint: Endpoint[Any]) -> dict[str, Any]:
        schema = public_schema(endpoint.request)
        fields = {name: part for name, part in schema["properties"].items() if name not in OPERATOR_FIELDS}
        choices = self._choices(endpoint.name, None)
        for name, part in fields.items():
            part["choices"] = choices.get(name, [])
        images = {one.field: _limits(one) for one in endpoint.images}
        return {
            **self._summary(endpoint),
            "fields": fields,
            "definitions": schema.get("$defs", {}),
            "required": schema.get("required", []),
            "images": images,
        }

    def request(self, name: str, fields: Mapping[str, Any]) -> Request:
        """The request that a form describes. A text is never taken for a path of this machine.

        Raises:
            KeyError: There is no such endpoint.
            ValidationError: A field is not acceptable.
        """
        known = {field: value for field, value in fields.items() if field not in OPERATOR_FIELDS}
        made: Request = self.endpoints[name].request.model_validate(known)
        return made

    async def check(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What is wrong with a form. Else what it would cost, how long it takes, and what other values would.

        Raises:
            KeyError: There is no such endpoint.
        """
        try:
            request = self.request(name, fields)
        except ValidationError as error:
            return {"problems": problems(error), "quotes": [], "choices": {}}
        quotes = await self._client.quote(request)
        # What a prompt says decides no time and no price, so that typing one asks for them once.
        alike = {**fields, "prompt": _PROMPT} if "prompt" in fields else fields
        choices = await to_thread.run_sync(self._choices, name, json.dumps(alike, sort_keys=True))
        return {"problems": {}, "quotes": [_quoted(quote) for quote in quotes], "choices": choices}

    def _choices_with(self, name: str, fields: str | None) -> dict[str, list[dict[str, Any]]]:
        """The values of each field that has some, beside the other fields, all as JSON."""
        found = self.endpoints[name].all_choices(None if fields is None else json.loads(fields))
        return {field: [one.describe() for one in choices] for field, choices in found.items()}


def _limits(one: ImageInput) -> dict[str, Any]:
    return {"most": one.most, "formats": one.formats, "max_bytes": one.max_bytes, "required": one.required}


def kind_of(endpoint: str) -> str:
    """Whether an endpoint makes ``"video"`` or ``"image"``, by its name."""
    return "video" if _VIDEO.search(endpoint) else "audio" if "sound" in endpoint or "audio" in endpoint else "image"


def problems(error: ValidationError) -> dict[str, str]:
    """What is wrong, by field. What concerns no single field is under ``""``."""
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        found.setdefault(str(item["loc"][0]) if item["loc"] else "", _sentence(item))
    return found


def _sentence(item: ErrorDetails) -> str:
    text = _IN_A_FORM.get(item["type"]) or describe_problem(item)
    if item["type"] == "string_too_short" and item["input"]:
        text = describe_problem(item)
    place = problem_place(item)
    text = f"{place}: {text}" if place else f"{text[:1].upper()}{text[1:]}"
    return f"{text[:400]}{'' if text.endswith('.') else '.'}"


def _quoted(quote: Quote) -> dict[str, Any]:
    return {
        "endpoint": quote.endpoint,
        "model": quote.model,
        "available": quote.available,
        "reason": quote.reason[:400],
        "cost": quote.shown_cost if quote.cost else None,
        "amount": str(quote.cost.amount) if quote.cost else None,
        "unit": quote.cost.unit if quote.cost else None,
        "estimated": quote.price != "exact",
        "source": quote.source,
        "median": quote.median,
        "p90": quote.p90,
        "learned": quote.learned,
        "health": quote.health.reason[:200] if not quote.health.good else "",
    }
