"""Requests in Kling's own JSON, in the fields of our request classes. Pure.

Kling's documents and other clients write a request as the body of its POST: ``contents``, ``settings`` and ``options``
in the new generation, lists of objects under ``/v1``. Images and sounds in it are URLs or raw base64.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kling_async._exchange.urls import is_url
from kling_async._media.media_types import HEAD_BYTES, media_type

__all__ = ["decode_media", "unpack_legacy", "unpack_new"]

_CONTENT_OF: Mapping[str, str] = {"prompt": "text", "element": "element_id", "voice": "voice_id"}
"""The key of an item that holds its content. All other items hold an address."""
_LISTS = frozenset({"references", "elements", "voices"})
_ITEMS_OF: Mapping[str, tuple[str, str]] = {
    "image_list": ("references", "image"),
    "subject_image_list": ("references", "subject_image"),
    "element_list": ("element_ids", "element_id"),
}
"""The lists of objects under ``/v1``: our field, and the only key of each object."""


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r:.60}; in Kling's own JSON it is an object")  # noqa: TRY004  # pydantic reports only ValueError
    return dict(value)


def _list(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {value!r:.60}; in Kling's own JSON it is a list")  # noqa: TRY004  # pydantic reports only ValueError
    return value


def _put(fields: dict[str, Any], name: str, value: Any, theirs: str) -> None:
    if name in fields:
        raise ValueError(f"{theirs!r} and {name!r} are the same field; give one of them")
    fields[name] = value


def _unpack_options(fields: dict[str, Any], options: dict[str, Any]) -> None:
    """Move what every create of Kling has into the fields. Kling's examples write empty texts for what is not set."""
    if options.pop("external_task_id", None):
        raise ValueError(
            "external_task_id is chosen by the client, so that nothing is bought twice; to name a submission yourself "
            "pass key= to submit()"
        )
    watermark = options.pop("watermark_info", None)
    if watermark is not None:
        known = _object("watermark_info", watermark)
        _put(fields, "watermark", known.pop("enabled", False), "watermark_info")
        _refuse_rest("watermark_info", known)
    if callback := options.pop("callback_url", None):
        _put(fields, "callback_url", callback, "options.callback_url")


def _refuse_rest(name: str, rest: Mapping[str, Any]) -> None:
    if rest:
        raise ValueError(f"{name} has {', '.join(map(repr, rest))}, which Kling does not document")


def unpack_new(data: Mapping[str, Any], contents: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Any]:
    """The body of a create of the new generation as fields. Fields of ours beside it stay.

    Args:
        data: The body. The model stands in Kling's path, so it is a field of ours here: ``model``.
        contents: Our field for each type of item in ``contents`` that the endpoint takes.
        names: Our field for the name (``id``) of an item, by its type.

    Raises:
        ValueError: It is not in Kling's form, or a field is given twice.
    """
    fields = {name: value for name, value in data.items() if name not in {"contents", "settings", "options"}}
    for name, value in _object("settings", data.get("settings", {})).items():
        _put(fields, name, value, f"settings.{name}")
    options = _object("options", data.get("options", {}))
    _unpack_options(fields, options)
    _refuse_rest("options", options)
    made: dict[str, Any] = {}
    for number, value in enumerate(_list("contents", data.get("contents", ()))):
        _unpack_item(made, f"contents[{number}]", value, contents, names)
    usual = [f"image_{number}" for number in range(1, len(made.get("reference_names", ())) + 1)]
    names_given = [name or other for name, other in zip(made.pop("reference_names", ()), usual, strict=True)]
    if names_given != usual:
        made["reference_names"] = names_given
    for name, value in made.items():
        _put(fields, name, value, "contents")
    return fields


def _unpack_item(
    made: dict[str, Any], place: str, value: Any, contents: Mapping[str, str], names: Mapping[str, str]
) -> None:
    item = _object(place, value)
    kind = item.pop("type", None)
    if not isinstance(kind, str) or kind not in contents:
        raise ValueError(f"{place}.type is {kind!r:.40}; this endpoint takes {', '.join(contents)}")
    key, field = _CONTENT_OF.get(kind, "url"), contents[kind]
    if key not in item:
        raise ValueError(f"{place} is of type {kind!r} and has no {key!r}")
    found, name = item.pop(key), item.pop("id", None) or None
    _refuse_rest(place, item)
    if key in {"element_id", "voice_id"}:
        if name is None:
            raise ValueError(f"{place} is of type {kind!r} and has no 'id', the name under which the prompt uses it")
        found = {"id": str(found), "name": name}
    elif field == "references":
        made.setdefault("reference_names", []).append(name)
    elif name is not None:
        if kind not in names:
            raise ValueError(f"{place} is of type {kind!r}, which has no 'id'")
        made[names[kind]] = name
    if field in _LISTS:
        made.setdefault(field, []).append(found)
    elif field in made:
        raise ValueError(f"{place} is the second item of type {kind!r}; one is allowed")
    else:
        made[field] = found


def unpack_legacy(data: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """The body of a create under ``/v1`` as fields, as far as its structure goes. Names are translated elsewhere.

    Args:
        data: The body.
        fields: The fields that the endpoint has.

    Raises:
        ValueError: It is not in Kling's form, or a field is given twice.
    """
    known, found = set(fields), dict(data)
    common: dict[str, Any] = {name: found.pop(name) for name in ("external_task_id", "watermark_info") if name in found}
    if found.get("callback_url") == "":
        del found["callback_url"]
    if "watermark" not in known and common.get("watermark_info") is not None:
        raise ValueError("watermark_info is not a field of this endpoint")
    _unpack_options(found, common)
    for theirs, (ours, key) in _ITEMS_OF.items():
        if theirs in found and ours in known:
            values = [_only(f"{theirs}[{n}]", one, key) for n, one in enumerate(_list(theirs, found.pop(theirs)))]
            _put(found, ours, [str(one) for one in values] if key == "element_id" else values, theirs)
    if "result_type" in found and "series" in known:
        _unpack_series(found)
    if "face_choose" in found and "face_id" in known:
        faces = _list("face_choose", found.pop("face_choose"))
        if len(faces) != 1:
            raise ValueError(f"face_choose has {len(faces)} faces; Kling takes 1")
        for name, value in _object("face_choose[0]", faces[0]).items():
            _put(found, name, value, f"face_choose[0].{name}")
    if "input" in found and "references" in known:
        _put(found, "references", _unpack_input(_object("input", found.pop("input"))), "input")
    return found


def _only(place: str, value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        item = dict(value)
        if key not in item:
            raise ValueError(f"{place} has no {key!r}")
        found = item.pop(key)
        _refuse_rest(place, item)
        return found
    return value


def _unpack_series(found: dict[str, Any]) -> None:
    """Kling ignores the number of single pictures for a series, and the length of a series for single pictures."""
    kind, amount = found.pop("result_type"), found.pop("series_amount", 4)
    if kind not in {"single", "series"}:
        raise ValueError(f"result_type is {kind!r:.40}; Kling allows single and series")
    if kind == "series":
        found.pop("n", None)
        _put(found, "series", amount, "series_amount")


def _unpack_input(item: dict[str, Any]) -> list[Any]:
    found = [item.pop("image")] if "image" in item else []
    found += _list("input.images", item.pop("images", ()))
    _refuse_rest("input", item)
    return found


def decode_media(value: Any) -> Any:
    """Raw base64 of an image or a sound as its bytes, also in a list. All else stays as it is."""
    if isinstance(value, list | tuple):
        return [decode_media(one) for one in value]
    if not isinstance(value, str) or is_url(value) or value.startswith("data:"):
        return value
    try:
        head = base64.b64decode(value[: HEAD_BYTES // 3 * 4], validate=True)
        return base64.b64decode(value, validate=True) if media_type(head) is not None else value
    except (binascii.Error, ValueError):
        return value
