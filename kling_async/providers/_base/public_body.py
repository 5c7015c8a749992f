"""A request class as it is offered to strangers: without the operator's fields, local paths and bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from kling_async.providers._base.request import Request

__all__ = ["OPERATOR_FIELDS", "PublicBody", "public_schema"]

OPERATOR_FIELDS = frozenset(
    {
        "app",
        "callback_url",
        "delivery",
        "external_task_id",
        "include_cost",
        "metadata",
        "priority",
        "session",
        "start_timeout",
        "storage",
        "ttl",
        "upload_endpoint",
        "webhook",
        "webhook_url",
    }
)
"""Fields that belong to the operator of a service: addresses, storage, billing."""
_IMAGE_FORMATS = "An https URL, or the image itself as a data URI: data:image/png;base64,..."


class PublicBody:
    """Metadata of a request class as it is offered to strangers; see `kling_async.fastapi.Public`.

    Args:
        hidden: Fields that a visitor may not set.
    """

    def __init__(self, hidden: Sequence[str] | frozenset[str] = OPERATOR_FIELDS) -> None:
        self.hidden = frozenset(hidden)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The request's own validation, after the hidden fields are refused."""

        def refuse(given: Any) -> Any:
            names = sorted(self.hidden & set(given)) if isinstance(given, Mapping) else []
            if names:
                raise PydanticCustomError(
                    "extra_forbidden", "these fields are not accepted here: {names}", {"names": ", ".join(names)}
                )
            return given

        return core_schema.no_info_before_validator_function(refuse, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The request's schema without the hidden fields, and with the forms that an image can have in JSON."""
        shown = handler(schema)
        described = handler.resolve_ref_schema(
            shown
        )  # changed where it stands: a copy would leave the original beside it
        properties = described["properties"]
        for name in self.hidden & set(properties):
            del properties[name]
        for name, field in properties.items():
            if '"format": "path"' in json.dumps(field):
                properties[name] = _images(field)
        return shown


def _images(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field for images, as a visitor can fill it: no local paths and no bytes."""
    image = {"type": "string", "description": _IMAGE_FORMATS}
    kept = {name: value for name, value in schema.items() if name not in {"items", "anyOf", "type"}}
    if "items" in schema:
        return {**kept, "type": "array", "items": image}
    return {**kept, **image, "description": f"{schema.get('description', '')} {_IMAGE_FORMATS}".strip()}


def public_schema(kind: type[Request]) -> JsonSchemaValue:
    """Return the JSON schema of a request class as strangers see it."""
    offered: Any = Annotated[kind, PublicBody()]
    return TypeAdapter(offered).json_schema()
