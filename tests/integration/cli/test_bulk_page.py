"""`report.html` in a real browser: pictures load, the video plays, filters work, hostile words stay words."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kling_async.sandbox import Sandbox
from support.chromium import PROGRAM, Chromium
from support.cli_process import Run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium to open the page in"),
    pytest.mark.sandbox(speed=600, scale=0.2, environment=True),
]

HOSTILE = {
    "markup": "<img src=x onerror=\"window.harm='markup'\"><b>bold</b> &amp; <!-- -->",
    "end of script": "</script><script>window.harm='script'</script>",
    "comment": "<!--<script>window.harm='comment'",
    "quotes": "\"'`${window.harm='quotes'}",
    "right to left": "\u202egnp.exe \u2066\u05e9\u05dc\u05d5\u05dd\u2069 \u0645\u0631\u062d\u0628\u0627 \u200f",
    "separators": "line\u2028separator\u2029paragraph",
    "controls": "bell \x07 escape \x1b[31mred\x1b[0m \x1b]0;title\x07 null-like \x01 \x7f \x9b31m",
    "emoji": "👩‍👩‍👧‍👦" * 357,  # 7 code points each: 2 499
    "long word": "w" * 2500,
    "placeholder": "@DATA@ @TITLE@ @SCRIPT_HASH@ @STYLE_HASH@",
}
FAILING = "a fox that nobody may see [sandbox: fail=CONTENT_POLICY_VIOLATION]"
WIDTHS = """Promise.all([...document.images].map(async image => {
  image.loading = "eager"; await image.decode(); return image.naturalWidth; }))"""
PLAYS = """new Promise(done => { const video = document.querySelector("video"); const told = () =>
  done([video.readyState, video.videoWidth, video.currentTime > 0, video.error === null]);
  if (video.currentTime > 0) told(); else { video.addEventListener("timeupdate", told); video.play(); } })"""


DETAILS = """Object.fromEntries([...document.querySelectorAll('[data-key="row 1"] dt')]
  .map(name => [name.textContent, name.nextSibling.textContent])
  .filter(([name]) => ["prefer_multi_shots", "resolution", "aspect_ratio"].includes(name)))"""
REFERENCES = """[...document.querySelector('[data-key="row 1"] .references').children].map(shown =>
  shown.firstChild.alt ? [shown.firstChild.alt, shown.firstChild.naturalWidth] : shown.textContent)"""
COPIED = """new Promise(done => {
  const button = document.querySelector('[data-key="row 1"] .actions button');
  const watched = new MutationObserver(() => done([button.title.startsWith("runblob/o3-photo/"), button.textContent]));
  watched.observe(button, { childList: true });
  button.click(); })"""
ORDER = """(value => { const order = document.querySelector("nav select"); order.value = value;
  order.dispatchEvent(new Event("change")); })"""


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "orange").save(file, "PNG")
    return file.getvalue()


def make_page(kling: Run, folder: Path, rows: list[dict[str, Any]], *, code: int) -> str:
    name = 'rows <b> & "quoted" \u202e.jsonl'
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = kling("bulk", name, "-o", "out", "--poll", "0.1", "--status-calls", "0")
    assert answer.code == code, answer
    return (folder / "out" / "report.html").as_uri()


def shown(page: Chromium) -> dict[str, str]:
    """The prompts on the page, by key."""
    found: dict[str, str] = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('article')].map("
        "card => [card.dataset.key, card.querySelector('.prompt').textContent]))"
    )
    return found


def test_pictures_load_the_video_plays_and_the_filters_work(kling: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    prompts = ("a paper boat in the rain", "a lighthouse at dawn", "a fox asleep in fresh snow", "a tram on a bridge")
    endpoints = (
        "runblob/o3-video",
        "runblob/o3-photo",
        "runware/image-o3",
        "inferencesh/image-o1",
        "pixeldojo/image-v3",
    )
    rows: list[dict[str, Any]] = [
        {"key": f"row {n}", "endpoint": endpoints[n % 5], "prompt": prompts[n % 4]} for n in range(12)
    ]
    (tmp_path / "boat 1.png").write_bytes(png(64, 32))
    rows[1] |= {"references": ["boat 1.png"], "prefer_multi_shots": True}
    rows.append({"key": "bad", "endpoint": "runblob/o3-video", "prompt": FAILING})
    address = make_page(kling, tmp_path, rows, code=1)
    with Chromium(tmp_path / "browser", address) as page:
        assert len(shown(page)) == 13
        widths = page.evaluate(WIDTHS)
        assert len(widths) == 10
        assert min(widths) == 64
        assert sorted(widths)[1] > 100
        ready, width, playing, sound = page.evaluate(PLAYS)
        assert (ready >= 2, width > 100, playing, sound) == (True, True, True, True)
        if target := os.environ.get("KLING_SCREENSHOT"):
            page.screenshot(Path(target))
        assert page.evaluate(DETAILS) == {"prefer_multi_shots": "yes", "resolution": "4k", "aspect_ratio": "1:1"}
        assert page.evaluate(REFERENCES) == [["references: boat 1.png", 64]]
        assert page.evaluate("getComputedStyle(document.querySelector('figure img')).objectFit") == "contain"
        name = page.evaluate("document.querySelector('.actions a').download")
        assert (tmp_path / "out" / "files" / name).exists()
        assert page.evaluate(COPIED) == [True, "Copied"]
        page.evaluate(ORDER + "('cost')")
        assert next(iter(shown(page))) in {"row 0", "row 5", "row 10"}  # the videos cost most
        page.evaluate(ORDER + "('state')")
        assert list(shown(page))[-1] == "bad"
        page.evaluate(ORDER + "('line')")
        assert list(shown(page)) == [row["key"] for row in rows]
        page.evaluate("document.querySelector('button[data-state=failed]').click()")
        assert list(shown(page)) == ["bad"]
        assert "CONTENT_POLICY_VIOLATION" in page.evaluate("document.querySelector('.reason').textContent")
        page.evaluate("document.querySelector('button[data-state=\"\"]').click()")
        page.evaluate("document.querySelector('button[data-provider=runware]').click()")
        assert list(shown(page)) == ["row 2", "row 7"]
        page.evaluate("document.querySelector('button[data-state=failed]').click()")
        assert page.evaluate("document.getElementById('none').textContent") == "No row matches."
        assert page.complaints == []


@pytest.mark.sandbox(speed=600, scale=0.1, environment=True)
def test_hostile_words_stay_words(kling: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    """In the page, on the terminal, in file names and in the results."""
    rows = [
        {"key": f"{n} {name} </script>", "endpoint": "runware/image-o3", "prompt": text}
        for n, (name, text) in enumerate(HOSTILE.items())
    ]
    address = make_page(kling, tmp_path, rows, code=0)
    with Chromium(tmp_path / "browser", address) as page:
        assert shown(page) == {row["key"]: row["prompt"] for row in rows}
        assert page.evaluate("window.harm === undefined")
        assert page.evaluate("document.querySelectorAll('.prompt *').length") == 0
        assert page.evaluate("document.scripts.length") == 2
        assert all(width > 100 for width in page.evaluate(WIDTHS))
        assert page.complaints == []
    lines = (tmp_path / "out" / "results.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["request"]["prompt"] for line in lines] == list(HOSTILE.values())
    assert all(32 <= byte < 127 for line in lines for byte in line)
    names = [path.name for path in (tmp_path / "out" / "files").iterdir()]
    assert len(names) == len(rows)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for name in names)
