"""What the form of each endpoint needs: fields, limits, labelled values, and what is wrong with what was typed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kling_async._client import Client
from kling_async._public_body import OPERATOR_FIELDS, public_schema
from kling_async._routing.quotes import Quote
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import DurationPrior, Endpoint, Image, ImageInput, Progressive, Provider, Request, Video

__all__ = ["Forms", "problems"]

_PORTABLE: Mapping[str, Endpoint[Any]] = {
    kind.endpoint: Endpoint(kind, Progressive(5), 2100.0, lambda _: DurationPrior(150.0, 0.4))
    for kind in (Video, Image)
}
_VIDEO = re.compile("video|lip-sync|avatar|motion|effects")
_WORDS = {
    "missing": "This is needed.",
    "string_too_short": "This is needed.",
    "blank_prompt": "Say what to generate.",
    "bool_parsing": "It must be yes or no.",
    "int_parsing": "It must be a whole number.",
    "int_type": "It must be a whole number.",
    "int_from_float": "It must be a whole number.",
    "float_parsing": "It must be a number.",
    "extra_forbidden": "This endpoint has no such field.",
}


class Forms:
    """The endpoints of a client's providers, and `Video` and `Image`.

    Args:
        client: The client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        names = client.statistics().providers
        self.providers: dict[str, type[Provider]] = {kind.name: kind for kind in ALL_PROVIDERS if kind.name in names}
        self.endpoints: dict[str, Endpoint[Any]] = dict(_PORTABLE)
        self.endpoints |= {each.name: each for kind in self.providers.values() for each in kind.endpoints}

    def describe(self) -> list[dict[str, Any]]:
        """All endpoints as JSON values."""
        return [self._described(endpoint) for endpoint in self.endpoints.values()]

    def _described(self, endpoint: Endpoint[Any]) -> dict[str, Any]:
        kind = self.providers.get(endpoint.name.partition("/")[0])
        schema = public_schema(endpoint.request)
        fields = {name: part for name, part in schema["properties"].items() if name not in OPERATOR_FIELDS}
        for name, part in fields.items():
            found = [] if endpoint.name in _PORTABLE and name == "duration" else endpoint.choices(name)
            part["choices"] = [choice.describe() for choice in found]
        if endpoint.name in _PORTABLE:
            fields = {name: _without_prices(part) for name, part in fields.items()}
        images = {one.field: _limits(one) for one in endpoint.images}
        for name in endpoint.request.reference_fields:  # those of portable requests: each provider has its own limits
            if name in fields:
                images.setdefault(name, _limits(ImageInput(name, 1, ("jpeg", "png", "webp"), 10 * 2**20)))
        return {
            "endpoint": endpoint.name,
            "provider": kind.display_name if kind else None,
            "kind": kind_of(endpoint.name),
            "summary": (endpoint.request.__doc__ or "").partition("\n")[0],
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
        endpoint = self.endpoints[name]
        choices = {}
        if name not in _PORTABLE:
            for field in endpoint.request.model_fields:
                found = endpoint.choices(field, request) if field not in endpoint.request.reference_fields else ()
                if found:
                    choices[field] = [choice.describe() for choice in found]
        return {"problems": {}, "quotes": [_quoted(quote) for quote in quotes], "choices": choices}


def _limits(one: ImageInput) -> dict[str, Any]:
    return {"most": one.most, "formats": one.formats, "max_bytes": one.max_bytes, "required": one.required}


def kind_of(endpoint: str) -> str:
    """Whether an endpoint makes ``"video"`` or ``"image"``, by its name."""
    return "video" if _VIDEO.search(endpoint) else "audio" if "sound" in endpoint or "audio" in endpoint else "image"


def problems(error: ValidationError) -> dict[str, str]:
    """What is wrong, by field. What concerns no single field is under ``""``."""
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        found.setdefault(str(item["loc"][0]) if item["loc"] else "", _words(item))
    return found


def _words(item: ErrorDetails) -> str:
    text = _WORDS.get(item["type"]) or re.sub(r"^(Value|Assertion) error, ", "", item["msg"])
    return f"{text[:1].upper()}{text[1:400]}"


def _without_prices(part: dict[str, Any]) -> dict[str, Any]:
    """A field of a portable request: what it costs is what the quotes say."""
    kept = {"value", "label", "hint", "default"}
    return {**part, "choices": [{name: each[name] for name in each.keys() & kept} for each in part["choices"]]}


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
