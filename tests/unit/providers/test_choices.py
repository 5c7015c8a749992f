"""What a form shows for the fields of an endpoint: values, labels, expected times, prices, images."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from pydantic import TypeAdapter

from kling_async import ConfigurationError, Image, InferenceSh, Kling, Request, RunBlob, Video, kling
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import Choice, Endpoint, portable_endpoints

ENDPOINTS = [endpoint for kind in ALL_PROVIDERS for endpoint in kind.endpoints]
VIDEO: Endpoint[Any] = next(endpoint for endpoint in RunBlob.endpoints if endpoint.name == "runblob/o3-video")
TEXT_TO_VIDEO: Endpoint[Any] = next(endpoint for endpoint in Kling.endpoints if endpoint.name == "kling/text-to-video")
EVERY = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)


def shown(choices: tuple[Choice, ...]) -> list[tuple[Any, str, str]]:
    return [(choice.value, choice.label, choice.hint) for choice in choices]


def test_runblobs_selectors_can_be_built_from_its_choices() -> None:
    """As in its documentation: durations with their times, models with their prices, ratios with their uses."""
    assert shown(VIDEO.choices("duration")) == [
        (5, "5 seconds", "usually 2 to 3 min"),
        (10, "10 seconds", "usually 3 to 5 min, about twice the price"),
        (15, "15 seconds", "usually 5 to 7 min, about 3 times the price"),
    ]
    assert [(choice.value, choice.label, choice.factor) for choice in VIDEO.choices("model")] == [
        ("kling_o3", "Standard (720p)", Decimal(1)),
        ("kling_o3_pro", "Pro (1080p)", Decimal(2)),
    ]
    assert "faster generation, lower cost" in VIDEO.choices("model")[0].hint
    assert [choice.label for choice in VIDEO.choices("aspect_ratio")] == [
        "Landscape (16:9)",
        "Portrait (9:16)",
        "Square (1:1)",
    ]
    assert all(choice.hint for choice in VIDEO.choices("aspect_ratio"))


def test_the_other_fields_decide_what_can_be_chosen() -> None:
    """By model: its durations and resolutions, and the prices with the settings that are given."""
    old = kling.TextToVideo("a lamp", model="kling-2.6", resolution="1080p", audio="native")
    assert [choice.value for choice in TEXT_TO_VIDEO.choices("duration")] == list(range(3, 16))
    assert [choice.value for choice in TEXT_TO_VIDEO.choices("duration", old)] == [5, 10]
    assert [choice.value for choice in TEXT_TO_VIDEO.choices("resolution", old)] == ["1080p"]
    given = {"prompt": "a lamp", "resolution": "1080p"}  # what is not given may follow the model
    assert "kling-2.6" in [choice.value for choice in TEXT_TO_VIDEO.choices("model", given)]
    assert [choice.factor for choice in VIDEO.choices("duration", {"prompt": "a lamp", "duration": 15})] == [1, 2, 3]
    five, ten = TEXT_TO_VIDEO.choices("duration", old)
    assert five.price is not None
    assert ten.price is not None
    assert (five.default, five.price.amount, ten.price.amount, ten.factor) == (
        True,
        Decimal("0.70"),
        Decimal("1.40"),
        Decimal(2),
    )
    assert [choice.value for choice in TEXT_TO_VIDEO.choices("model")] == [
        "kling-3.0-turbo",
        "kling-3.0",
        "kling-2.6",
        "kling-2.5-turbo",
    ]


def test_portable_requests_have_the_same_selectors() -> None:
    """Their times and prices are those of the cheapest that makes it, and what nobody makes is left out."""
    video = portable_endpoints([RunBlob])["video"]
    durations = [one for one in shown(video.choices("duration")) if one[0] in {5, 10, 15}]
    assert durations == shown(VIDEO.choices("duration"))
    assert [(choice.value, choice.label, choice.factor) for choice in video.choices("resolution")] == [
        ("720p", "Standard (720p)", Decimal(1)),
        ("1080p", "High (1080p)", Decimal(2)),
        *[(choice.value, choice.label, choice.factor) for choice in video.choices("resolution")[2:]],
    ]
    assert [choice.label for choice in video.choices("aspect_ratio")] == [
        choice.label for choice in VIDEO.choices("aspect_ratio")
    ]
    every = portable_endpoints()["video"]
    assert max(choice.value for choice in every.choices("duration")) == 15  # of the 60 seconds that `Video` allows
    assert {"kling-3.0", "kling-2.6"} <= {choice.value for choice in every.choices("model")}
    loud = next(choice for choice in every.choices("audio") if choice.value)
    assert loud.factor is not None
    assert loud.factor > 1
    picture = portable_endpoints()["image"]
    assert len(picture.choices("aspect_ratio")) == 8
    assert all(choice.price is not None for choice in picture.choices("count"))


def test_all_choices_are_those_of_each_field() -> None:
    for endpoint in (VIDEO, TEXT_TO_VIDEO, portable_endpoints()["video"]):
        found = endpoint.all_choices()
        assert {"duration", "aspect_ratio"} <= set(found)
        assert found == {name: endpoint.choices(name) for name in found}


def test_a_field_that_takes_any_text_has_no_choices() -> None:
    assert VIDEO.choices("prompt") == ()
    with pytest.raises(ConfigurationError, match=r"runblob/o3-video has no field 'sizes'; it has .*prompt, references"):
        VIDEO.choices("sizes")


def test_images_tell_number_formats_and_bytes() -> None:
    found, *frames = VIDEO.images
    assert [(frame.field, frame.most) for frame in frames] == [("first_frame", 1), ("last_frame", 1)]
    assert (found.field, found.most, found.formats, found.max_bytes, found.required, found.uniform) == (
        "references",
        5,
        ("jpeg", "png", "gif", "webp"),
        10 * 1024 * 1024,
        False,
        True,
    )
    schema = VIDEO.request.model_json_schema()["properties"]["references"]
    assert (schema["maxItems"], schema["x-formats"], schema["x-max-bytes"]) == (5, list(found.formats), 10485760)
    assert InferenceSh.endpoints[0].images


@EVERY
def test_every_choice_of_every_endpoint_is_one_that_it_accepts(endpoint: Endpoint[Any]) -> None:
    """And has a label, and one of them is the default where the field has one."""
    for name, info in endpoint.request.model_fields.items():
        choices = endpoint.choices(name)
        assert all(choice.label for choice in choices)
        assert len({str(choice.value) for choice in choices}) == len(choices)
        assert sum(choice.default for choice in choices) <= 1
        for choice in choices:
            TypeAdapter(info.annotation).validate_python(choice.value)


@EVERY
def test_every_image_field_tells_its_limits(endpoint: Endpoint[Any]) -> None:
    reported = {image.field for image in endpoint.images}
    fields = {name for name in endpoint.request.reference_fields if name in endpoint.request.model_fields}
    assert fields - {"sound"} == reported


@pytest.mark.parametrize(
    "kind", [*(endpoint.request for endpoint in ENDPOINTS), Video, Image], ids=lambda kind: kind.endpoint
)
def test_every_field_of_every_request_describes_itself(kind: type[Request]) -> None:
    """Also the fields of what it is made of, such as shots and elements."""
    schema = kind.model_json_schema()
    parts = {kind.__name__: schema, **schema.get("$defs", {})}
    fields = {
        (part, name): field for part, found in parts.items() for name, field in found.get("properties", {}).items()
    }
    assert len(fields) >= len(kind.model_fields)
    assert [where for where, field in fields.items() if len(field.get("description", "")) < 10] == []


@EVERY
def test_a_json_schema_has_the_words_of_json_schema(endpoint: Endpoint[Any]) -> None:
    """Limits stand under the keywords that forms and validators read."""
    for part in endpoint.request.model_json_schema()["properties"].values():
        for one in (part, *part.get("anyOf", ())):
            assert not {"ge", "le", "gt", "lt", "min_length", "max_length", "multiple_of"} & set(one)


@EVERY
def test_the_schema_of_an_endpoint_has_its_choices(endpoint: Endpoint[Any]) -> None:
    schema = endpoint.json_schema()
    assert json.loads(json.dumps(schema)) == schema
    for name, part in schema["properties"].items():
        assert [choice["value"] for choice in part.get("x-choices", [])] == [
            choice.value for choice in endpoint.choices(name)
        ]
