"""What is stored of requests and events: enough to make them again, and no secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kling_async._exchange.redaction import redact_json
from kling_async._ledger.serialization import fingerprint, request_from_json, request_to_json
from kling_async.providers._base.request import Request
from kling_async.providers.runblob import O3Video
from support.samples import SAMPLES, Sample

SUBMITTED = [sample for sample in SAMPLES if sample.kind == "submit"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(100))
ADDRESS = "https://app.test/hooks/t0ken?signature=t0ken"


def made_again(request: Request, *, keep_images: bool = True, exact: bool = False) -> Request | None:
    """The request after a way through a file."""
    stored = json.loads(json.dumps(request_to_json(request, keep_images=keep_images)))
    return request_from_json(type(request), stored, exact=exact)


@pytest.mark.parametrize("sample", SUBMITTED, ids=lambda sample: sample.name)
def test_every_providers_requests_are_stored_and_made_again(sample: Sample) -> None:
    request = sample.request(sample.provider())
    again = made_again(request)
    assert again is not None
    assert again.describe(inline=True) == {
        k: v for k, v in request.describe(inline=True).items() if k != "callback_url"
    }
    assert fingerprint(again) == fingerprint(request)


def test_a_fingerprint_tells_requests_apart_by_what_they_buy() -> None:
    boat = O3Video("a boat", references=(PNG,))
    same: list[dict[str, Any]] = [{}, {"duration": 5}, {"callback_url": ADDRESS}]
    other: list[dict[str, Any]] = [{"duration": 10}, {"references": ()}, {"references": (PNG + b"!",)}]
    assert {fingerprint(O3Video("a boat", **{"references": (PNG,), **fields})) for fields in same} == {
        fingerprint(boat)
    }
    assert len({fingerprint(O3Video("a boat", **{"references": (PNG,), **fields})) for fields in other}) == len(other)


def test_an_image_is_kept_as_a_digest_unless_asked() -> None:
    request = O3Video("a boat", references=(PNG,))
    assert str(request_to_json(request, keep_images=False)["references"]).startswith("['sha256:")
    assert made_again(request, keep_images=False) is None
    assert made_again(request, keep_images=True) is not None


def test_of_a_callback_address_only_the_host_is_kept() -> None:
    request = O3Video("a boat", callback_url=ADDRESS)
    assert request_to_json(request, keep_images=True)["callback_url"] == "https://app.test/[not kept]"
    assert made_again(request, exact=True) is None
    assert made_again(request) == O3Video("a boat")


def test_answers_are_stored_without_keys_and_callback_addresses() -> None:
    answer = {
        "id": 1,
        "webhook": ADDRESS,
        "input": [{"callback_url": ADDRESS, "prompt": "my key is sk-1"}],
        "webhookURL": None,
    }
    assert redact_json(answer, "sk-1") == {
        "id": 1,
        "webhook": "[left out]",
        "input": [{"callback_url": "[left out]", "prompt": "my key is [the key]"}],
        "webhookURL": None,
    }
