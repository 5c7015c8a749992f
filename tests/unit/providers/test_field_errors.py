"""What is wrong with a field, in plain words: for every endpoint, and never in pydantic's."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from kling_async import Request, Video, kling, runblob
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers._base.field_errors import describe_problem, problem_place
from kling_async.providers.base import portable_endpoints

KINDS: list[type[Request]] = [
    *(endpoint.request for endpoint in portable_endpoints().values()),
    *(endpoint.request for kind in ALL_PROVIDERS for endpoint in kind.endpoints),
]
PYDANTICS = re.compile(
    r"\b(Input|String|Value|List|Tuple|Dictionary) should\b|valid (string|integer|number|list)|pathlib"
)
WRONG: list[Any] = ["", " ", "nonsense", 7.5, -1, 10**9, True, [], {}, [{}], None, "x" * 5000]


def refused(kind: type[Request], **fields: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as found:
        kind.model_validate({"prompt": "a boat", **fields})
    return {
        ".".join(filter(None, (str(item["loc"][0]), problem_place(item)))): describe_problem(item)
        for item in found.value.errors()
        if item["loc"]
    }


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (runblob.O3Video, {"duration": 7}, {"duration": "it must be 5, 10 or 15"}),
        (runblob.O3Video, {"prompt": ""}, {"prompt": "it is empty"}),
        (runblob.O3Video, {"prompt": 5}, {"prompt": "it must be text"}),
        (
            runblob.O3Video,
            {"prompt": "x" * 2501},
            {"prompt": "it has 2501 characters; at most 2500 characters are allowed"},
        ),
        (runblob.O3Video, {"aspect_ratio": "5:4"}, {"aspect_ratio": "it must be 16:9, 9:16 or 1:1"}),
        (
            runblob.O3Video,
            {"references": ["ftp://x"]},
            {"references": "reference 1 is 'ftp://x', which is neither an http(s) URL nor a data URI"},
        ),
        (Video, {"duration": 90}, {"duration": "it must be at most 60"}),
        (Video, {"duration": "x"}, {"duration": "it must be a whole number"}),
        (Video, {"audio": "loud"}, {"audio": "it must be true or false"}),
        (Video, {"model": "sora"}, {"model": "'sora' is no model's name; it begins with kling-, as in kling-3.0"}),
        (kling.OmniVideo, {"elements": [{}]}, {"elements.1.id": "it is missing", "elements.1.name": "it is missing"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:30],
)
def test_it_is_said_in_plain_words(kind: type[Request], fields: dict[str, Any], words: dict[str, str]) -> None:
    assert refused(kind, **fields) == words


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.endpoint)
def test_no_field_of_any_endpoint_is_refused_in_pydantics_words(kind: type[Request]) -> None:
    """Whatever is given for it."""
    for name in kind.model_fields:
        for value in WRONG:
            try:
                kind.model_validate({**kind.example(), name: value})
            except ValidationError as error:
                for item in error.errors():
                    words = describe_problem(item)
                    assert words
                    assert not re.search(r"\{[a-z_]+\}", words), (name, value, words)
                    assert not PYDANTICS.search(words), (name, value, words)
