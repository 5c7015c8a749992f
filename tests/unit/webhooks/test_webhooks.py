"""Settings of webhooks: secrets, callback URLs, and signatures by Standard Webhooks."""

from __future__ import annotations

from typing import Any

import pytest

from kling_async import ConfigurationError, Delivery, Webhooks
from kling_async.webhooks import is_signed, standard_signature

SECRET = "an old and very secret secret"
# The vendor's own test vector (Kling, "Callbacks").
SIGNING = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
BODY = b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}'
HEADERS = {
    "webhook-id": "9876543210",
    "webhook-timestamp": "1781080794",
    "webhook-signature": "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4=",
}
NOW = 1_781_080_794.0


def test_the_signature_of_the_vendors_test_vector_is_reproduced() -> None:
    made = standard_signature(SIGNING, HEADERS["webhook-id"], HEADERS["webhook-timestamp"], BODY)
    assert made == HEADERS["webhook-signature"]
    assert is_signed(BODY, HEADERS, [SIGNING], NOW)


def test_any_of_several_signatures_and_secrets_is_enough() -> None:
    several = {**HEADERS, "webhook-signature": f"v1,AAAA v1a,BBBB {HEADERS['webhook-signature']}"}
    assert is_signed(BODY, several, ["whsec_bmV3ZXI=", SIGNING], NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,ümlaut"},
        {"webhook-id": "9876543211"},
        {"webhook-timestamp": "1781080795"},
        {"webhook-timestamp": "-1781080794"},
        {"webhook-timestamp": "١٧٨١٠٨٠٧٩٤"},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-timestamp": ""},
    ],
)
def test_a_forged_signature_is_not_accepted(change: dict[str, str]) -> None:
    assert not is_signed(BODY, {**HEADERS, **change}, [SIGNING], NOW)


def test_missing_headers_another_body_and_another_secret_are_not_accepted() -> None:
    assert not is_signed(BODY, {}, [SIGNING], NOW)
    assert not is_signed(BODY + b" ", HEADERS, [SIGNING], NOW)
    assert not is_signed(BODY, HEADERS, ["whsec_bmV3ZXI="], NOW)
    assert not is_signed(BODY, HEADERS, [], NOW)


@pytest.mark.parametrize(("offset", "accepted"), [(-301, False), (-299, True), (299, True), (301, False)])
def test_a_signature_is_worth_five_minutes(offset: float, accepted: bool) -> None:
    assert is_signed(BODY, HEADERS, [SIGNING], NOW + offset) is accepted


def test_only_providers_with_a_signing_secret_must_sign() -> None:
    webhooks = Webhooks("https://example.com/kling", SECRET, signing_secrets={"kling": ["whsec_bmV3ZXI=", SIGNING]})
    assert webhooks.accepts_signature(Delivery("kling", "1", "token", BODY, HEADERS), NOW)
    assert not webhooks.accepts_signature(Delivery("kling", "1", "token", BODY), NOW)
    assert webhooks.accepts_signature(Delivery("runblob", "1", "token", BODY), NOW)


@pytest.mark.parametrize("given", ["whsec_", "whsec_not base64", "", [], 5, ["whsec_bmV3ZXI=", ""]])
def test_a_signing_secret_of_another_form_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="signing_secrets"):
        Webhooks("https://example.com/kling", SECRET, signing_secrets={"kling": given})


@pytest.mark.parametrize("weak", ["short", "a" * 16, "changeme-changeme", "0123456789abcde", "ab" * 15])
def test_a_secret_that_is_easy_to_guess_is_refused_and_not_shown(weak: str) -> None:
    with pytest.raises(ConfigurationError, match=r"secrets\.token_urlsafe") as refused:
        Webhooks("https://example.com/kling", [SECRET, weak])
    assert weak not in str(refused.value)


@pytest.mark.parametrize("strong", ["0123456789abcdef", "ab" * 16])
def test_a_long_or_varied_secret_is_accepted(strong: str) -> None:
    assert Webhooks("https://example.com/kling", strong).url == "https://example.com/kling"


def test_tokens_and_secrets_are_hidden_in_representations() -> None:
    webhooks = Webhooks("https://example.com/kling", SECRET, signing_secrets={"kling": SIGNING})
    url = webhooks.callback_url("kling", "1")
    token = url.rpartition("/")[2]
    delivery = Delivery("kling", "1", token, BODY)
    shown = f"{webhooks!r} {delivery!r} {url!r} {delivery.token!r} {webhooks._tokens('kling', '1')!r}"
    assert token not in shown
    assert SECRET not in shown
    assert SIGNING not in shown
    assert webhooks.accepts(delivery)
