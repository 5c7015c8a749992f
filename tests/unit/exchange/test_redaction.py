"""Redaction of foreign texts: nothing secret is left, and the time is in proportion to the length."""

from __future__ import annotations

import json
import time
import urllib.parse
from typing import Any

import pytest

from kling_async._exchange.redaction import HiddenText, redact_json, redact_tokens, redact_urls

TOKEN = "T" * 20 + "-_" + "k" * 21
CALLBACK = f"https://app.example/hooks/550e8400-e29b-41d4-a716-446655440000/{TOKEN}"


@pytest.mark.parametrize(
    "written",
    [
        CALLBACK,
        CALLBACK.upper(),
        json.dumps(CALLBACK).replace("/", "\\/"),
        CALLBACK.replace("/", "\\u002f"),
        urllib.parse.quote(CALLBACK, safe=""),
        urllib.parse.quote(urllib.parse.quote(CALLBACK, safe=""), safe=""),
        "x" * 400 + CALLBACK,
        f"https://a.example/{'x' * 400}{CALLBACK}",
    ],
)
def test_the_token_of_a_callback_address_is_removed_however_it_is_written(written: str) -> None:
    for redact in (redact_tokens, redact_urls):
        shown = redact(f"cannot reach {written} today")
        assert "kkkk" not in shown.lower()
        assert shown.startswith("cannot reach ")
        assert shown.endswith("today")


def test_the_whole_callback_address_is_replaced() -> None:
    assert redact_tokens(f"see {CALLBACK} and {CALLBACK}.") == "see [a callback address] and [a callback address]."


@pytest.mark.parametrize(
    "piece",
    [
        "https://",
        "https://a",
        "a",
        "a@",
        "http%25",
        "\\",
        "\\/",
        "550e8400-",
        "a/b@",
        "https://a/ ",
        "-_",
        "0" * 8 + "-",
    ],
)
@pytest.mark.parametrize("end", ["", " ", "@", '"'])
def test_the_time_of_redaction_is_in_proportion_to_the_length(piece: str, end: str) -> None:
    def seconds(size: int) -> float:
        text = (piece * size)[:size] + end
        begin = time.process_time()
        redact_urls(text)
        redact_tokens(text)
        return time.process_time() - begin

    # Quadratic time would be seconds here (it was 1.3 s for a fourth of the length).
    assert min(seconds(64_000) for _ in range(3)) < 0.25


def test_stored_answers_are_bounded() -> None:
    kept: Any = redact_json({"long": "x" * 5000, "many": list(range(100_000))}, None)
    assert len(kept["long"]) < 4200
    assert kept["long"].endswith("[5000 characters]")
    assert len(kept["many"]) < 20_001


def test_a_key_at_the_place_where_a_text_is_cut_is_removed_whole() -> None:
    kept: Any = redact_json("x" * 4090 + "secret-key" + "y" * 5000, "secret-key")
    assert "secret" not in kept


def test_names_are_redacted_like_values() -> None:
    assert redact_json({"the secret-key": 1}, "secret-key") == {"the [the key]": 1}


def test_a_hidden_text_is_not_in_a_repr() -> None:
    hidden = HiddenText("Bearer secret")
    assert hidden == "Bearer secret"
    assert "secret" not in repr({"authorization": hidden})
