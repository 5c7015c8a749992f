"""What `report.html` is told about a row."""

from __future__ import annotations

import pytest

from kling_async._cli.bulk.html_report import _row
from kling_async._rows.records import Record


@pytest.mark.parametrize(
    ("text", "folder", "shown"),
    [
        ("boat 1.png", "..", {"name": "boat 1.png", "src": "../boat%201.png"}),
        ("/home/a/b?.png", "..", {"name": "b?.png", "src": "file:///home/a/b%3F.png"}),
        ("https://example.com/2.png", "..", {"name": "https://example.com/2.png"}),
        ("sha256:" + "a" * 64, "..", {"name": "inline image sha256:aaaaaaaa..."}),
    ],
)
def test_the_page_shows_local_images_and_names_others(text: str, folder: str, shown: dict[str, str]) -> None:
    request = {"prompt": "a", "references": [text]}
    record = Record("key", "", 1, "runblob/o3-photo", "completed", request=request, folder=folder)
    assert _row(record)["references"] == [{"field": "references", **shown}]


def test_settings_are_shown_as_people_write_them() -> None:
    request = {"prompt": "a", "sound": True, "voices": ["a", "b"], "shots": [{"prompt": "b", "seconds": 5}], "none": []}
    details = dict(_row(Record("key", "", 1, "runblob/o3-video", "failed", request=request))["details"])
    assert details["sound"] == "yes"
    assert details["voices"] == "a, b"
    assert details["shots"] == '[{"prompt": "b", "seconds": 5}]'
    assert "none" not in details
