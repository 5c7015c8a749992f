"""The reader of foreign JSON: what it accepts, and that what it returns can be stored and printed."""

from __future__ import annotations

import json
from typing import Any

import pydantic_core
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async._exchange.json_body import read_json
from kling_async._exchange.redaction import redact_json
from kling_async.providers.base import Reply
from support.letters import LETTERS


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"id": 1}', {"id": 1}),
        (b'\xef\xbb\xbf{"id": 1}', {"id": 1}),
        ('{"id": "\u00e4"}'.encode("utf-16"), {"id": "\u00e4"}),
        ('{"id": "\u00e4"}'.encode("utf-32"), {"id": "\u00e4"}),
        (b'{"id": "a\\ud83d"}', {"id": "a\ufffd"}),
        (b'{"a\\udc00": ["\\ud83d\\ude00"]}', {"a\ufffd": ["\U0001f600"]}),
        (b'{"id": "a\xff"}', {"id": "a\ufffd"}),
        (b'{"id": "a\x01\n"}', {"id": "a\x01\n"}),
        (b"[NaN, Infinity, -Infinity, 1e999, -1e999, 1.5]", [None, None, None, None, None, 1.5]),
        (b"[" + b"7" * 5000 + b", 7]", [None, 7]),
        (b"[" + b"7" * 400 + b", 7]", [None, 7]),
        (b'["' + b"7" * 400 + b'"]', ["7" * 400]),
        (b"-1.5E+400", None),
        (b"[1." + b"7" * 400 + b"e999]", [None]),
    ],
)
def test_a_flaw_in_foreign_json_does_not_cost_the_answer(raw: bytes, value: Any) -> None:
    assert read_json(raw) == value


@pytest.mark.parametrize("before", range(0, 130, 3))
def test_a_number_that_is_too_long_is_found_wherever_it_stands(before: int) -> None:
    assert read_json(b" " * before + b"9" * 300) == int("9" * 300)
    assert read_json(b'{"a": ' + b" " * before + b"9" * 301 + b"}") == {"a": None}


@pytest.mark.parametrize("exponent", ["e999", "E999", "e+999", "E0400", "e12345"])
def test_a_number_that_is_too_large_is_found_whatever_follows(exponent: str) -> None:
    text = f'{{"a": 1{exponent}, "b": [1.5{exponent}], "c": [-2{exponent} , 1], "d": 7{exponent}\n}}'
    assert read_json(text) == {"a": None, "b": [None], "c": [None, 1], "d": None}
    assert read_json(f"[1{exponent}\t]") == [None]
    assert read_json(f"-1{exponent}") is None


def test_a_uuid_with_an_e_before_digits_is_read_by_the_fast_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly every answer contains a UUID or a hash. The tolerant reader takes ten times as long."""
    monkeypatch.delattr(json, "loads")
    assert read_json(b'{"id": "550e8400-e29b-41d4-a716-446655440000", "n": 12, "x": 1.5e3}')["n"] == 12


@pytest.mark.parametrize(
    "raw", [b"", b"<html>", b'{"id": ', b"{} {}", b"[" * 300 + b"]" * 300, b"[" * 200_000, b"\xff\xfe"]
)
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(raw)


def test_nesting_is_bounded_in_the_tolerant_reader_as_well() -> None:
    with pytest.raises(ValueError, match="too deeply"):
        read_json(b'["\\ud83d", ' + b"[" * 300 + b"]" * 300 + b"]")


@given(
    st.binary(max_size=60)
    | st.text(LETTERS, max_size=60).map(lambda t: json.dumps({"a": t}).encode("utf-8", "replace"))
)
def test_whatever_is_read_can_be_stored_printed_and_redacted(raw: bytes) -> None:
    try:
        value = read_json(raw)
    except ValueError:
        return
    assert pydantic_core.from_json(pydantic_core.to_json(redact_json(value, "key"))) is not ...
    str(value).encode("utf-8")


def test_a_reply_says_what_it_is_when_it_is_not_in_the_words_of_the_provider() -> None:
    headers = {"content-type": "Text/HTML; charset=utf-8", "server": "cloudflare"}
    assert Reply(403, headers, b"<html>\n  Denied").excerpt() == "text/html from cloudflare: <html> Denied"
    assert Reply(403).excerpt() == "no content type, empty"
