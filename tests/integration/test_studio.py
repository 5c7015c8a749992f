"""The studio in a real browser: one browser, one sandbox and one server for all tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, Page, Request, expect, sync_playwright

from kling_async.sandbox import Sandbox
from support.chromium import PROGRAM as CHROMIUM
from support.cli_process import PROGRAM, environment_of

PATIENCE = 120_000.0  # ms. Far more than any wait needs
LATER = 600  # simulated seconds within which every job ends. The clock stands still until it is moved

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]


class Studio:
    """`kling studio` as a process, on a ledger and a folder that outlive it."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.environment = {**os.environ, **environment_of(sandbox), "KLING_SANDBOX_SPEED": "20"}
        self.start()

    def start(self) -> None:
        options = [
            "--no-browser",
            "--port",
            "0",
            "--ledger",
            str(self.folder / "jobs.db"),
            "-o",
            str(self.folder / "out"),
        ]
        self.process = subprocess.Popen(
            [sys.executable, *PROGRAM, "studio", *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Sandbox]:
    with Sandbox(speed=0, scale=0.2, rate_limit=None) as running:
        yield running


@pytest.fixture(scope="module")
def studio(stage: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    made = Studio(tmp_path_factory.mktemp("studio"), stage)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser, studio: Studio) -> Iterator[Page]:
    yield from opened(browser, studio)


def opened(browser: Browser, studio: Studio, **settings: Any) -> Iterator[Page]:
    """A page whose console must stay clean, and which loads nothing from another host."""
    context = browser.new_context(**settings)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []

    def loads(asked: Request) -> None:
        if not asked.url.startswith(("http://127.0.0.1", "data:", "blob:")):
            wrong.append(asked.url)

    def runs(dialog: Dialog) -> None:
        wrong.append(f"a script ran: {dialog.message}")
        dialog.dismiss()

    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", runs)
    page.on("request", loads)
    page.goto(studio.url)
    page.locator(".buy").wait_for()
    yield page
    context.close()
    assert not wrong


def visit(page: Page, view: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=view).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(view, timeout=PATIENCE)


def make(page: Page, prompt: str) -> None:
    """Buy a video at RunBlob."""
    visit(page, "Make")
    page.get_by_role("radio", name="One provider").check()
    page.get_by_label("Provider and endpoint").select_option("runblob/o3-video")
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    expect(page.locator(".buy")).to_contain_text("$0.15", timeout=PATIENCE)
    page.locator(".buy").click()
    expect(page.locator(".sent")).to_contain_text("under way", timeout=PATIENCE)


def card(page: Page, prompt: str) -> Any:
    return page.get_by_role("article").filter(has_text=prompt)


def status(page: Page, prompt: str, word: str) -> None:
    expect(card(page, prompt).locator(".status")).to_have_text(re.compile(word), timeout=PATIENCE)


def test_make_follow_and_see(page: Page, stage: Sandbox) -> None:
    make(page, "a boat to see")
    visit(page, "Follow")
    status(page, "a boat to see", "Waiting|Working")
    stage.state.clock.advance(LATER)
    status(page, "a boat to see", "Done")
    visit(page, "Gallery")
    page.locator(".tile video").wait_for()
    page.get_by_role("button", name="Show: a boat to see").click()
    clip = page.locator("dialog video")
    clip.evaluate("clip => new Promise(played => { clip.ontimeupdate = () => clip.currentTime > 0.1 && played() })")
    page.get_by_role("button", name="As code").click()
    expect(page.locator("pre")).to_have_count(3, timeout=PATIENCE)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.endswith(".mp4")
    page.get_by_role("link", name="Again with these settings").click()
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("a boat to see", timeout=PATIENCE)
    visit(page, "Money")
    expect(page.get_by_role("row", name="runblob").first).to_contain_text("$0.", timeout=PATIENCE)


def test_a_reload_and_another_tab_show_the_same(page: Page, stage: Sandbox) -> None:
    make(page, "a boat in two tabs")
    other = page.context.new_page()
    other.goto(page.url)
    for one in (page, other):
        visit(one, "Follow")
        status(one, "a boat in two tabs", "Waiting|Working")
    page.reload()
    status(page, "a boat in two tabs", "Waiting|Working")
    stage.state.clock.advance(LATER)
    for one in (page, other):
        status(one, "a boat in two tabs", "Done")


def test_a_killed_server_loses_nothing(browser: Browser, stage: Sandbox, tmp_path: Path) -> None:
    studio = Studio(tmp_path, stage)
    try:
        pages = opened(browser, studio)
        page = next(pages)
        make(page, "a boat that sails on")
        studio.kill()
        expect(page.locator("#lost")).to_contain_text("nothing is lost", timeout=PATIENCE)
        bought = stage.counters.jobs_bought
        studio.start()
        page.goto(studio.url)
        page.locator(".buy").wait_for()
        visit(page, "Follow")
        status(page, "a boat that sails on", "Waiting|Working")
        stage.state.clock.advance(LATER)
        status(page, "a boat that sails on", "Done")
        assert stage.counters.jobs_bought == bought
        assert next(pages, None) is None
    finally:
        studio.kill()


def test_a_refused_field_is_told_beside_it_and_has_the_focus(page: Page, stage: Sandbox) -> None:
    bought = stage.counters.jobs_bought
    page.get_by_role("radio", name="One provider").check()
    page.get_by_label("Provider and endpoint").select_option("runblob/o3-video")
    prompt = page.get_by_role("textbox", name="Prompt")
    prompt.fill("")
    page.locator(".buy").click()
    expect(page.locator("#field-prompt-error")).to_have_text("This is needed.", timeout=PATIENCE)
    expect(prompt).to_be_focused()
    prompt.fill("x" * 2501)  # told while one types
    expect(page.locator("#field-prompt-error")).to_contain_text("2500", timeout=PATIENCE)
    expect(page.locator(".count").first).to_have_text("2501 of 2500")
    assert stage.counters.jobs_bought == bought


def test_a_lost_answer_has_buttons(page: Page, stage: Sandbox) -> None:
    stage.faults.add("accept-then-reset:submit:times=1")
    page.get_by_role("radio", name="One provider").check()
    page.get_by_label("Provider and endpoint").select_option("runblob/o3-video")
    page.get_by_role("textbox", name="Prompt").fill("a boat in the fog")
    page.locator(".buy").click()
    expect(page.locator(".problem")).to_contain_text("may have been bought", timeout=PATIENCE)
    visit(page, "Follow")
    status(page, "a boat in the fog", "Answer lost")
    for name in ("It is this job", "Send it again", "Forget it"):
        expect(card(page, "a boat in the fog").get_by_role("button", name=name)).to_be_visible()
    card(page, "a boat in the fog").get_by_role("button", name="Forget it").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget it").click()
    expect(card(page, "a boat in the fog")).to_have_count(0, timeout=PATIENCE)


def test_what_others_write_is_only_text(page: Page, stage: Sandbox) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    make(page, evil)
    visit(page, "Follow")
    status(page, evil, "Waiting|Working")
    hostile = {
        **page.evaluate("async () => (await (await fetch('api/jobs')).json())[0]"),
        "key": "hostile",
        "read": 1e12,
        "status": "failed",
        "message": "<b onclick=alert(3)>" + "x" * 100_000,
        "files": [{"href": "javascript:alert(4)", "type": "video/mp4", "name": "javascript:alert(5)"}],
        "remedies": [{"action": "x", "label": None, "detail": "<i>javascript:alert(6)</i>"}],
    }
    page.evaluate("async (card) => (await import('./static/api.js')).take([card])", hostile)
    expect(page.get_by_text("<b onclick=alert(3)>").first).to_be_attached(timeout=PATIENCE)
    assert page.locator("main script, main [onerror], main [onclick], a[href^=javascript]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_with_the_keyboard_alone(page: Page) -> None:
    focused = "document.activeElement.id || document.activeElement.className"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"

    def tab_to(wanted: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if wanted in page.evaluate(focused):
                return
        pytest.fail(f"Tab does not reach {wanted}")

    tab_to("field-prompt")
    page.keyboard.type("a boat by keys")
    expect(page.locator(".buy")).to_contain_text("$", timeout=PATIENCE)
    tab_to("buy")
    page.keyboard.press("Enter")
    expect(page.locator(".sent")).to_contain_text("under way", timeout=PATIENCE)


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1440), ("dark", 360)], ids=["light and wide", "dark and on a phone"]
)
def test_every_view_can_be_read_by_all(browser: Browser, studio: Studio, scheme: Any, width: int) -> None:
    pages = opened(browser, studio, color_scheme=scheme, viewport={"width": width, "height": 800})
    page = next(pages)
    for view in ("Make", "Follow", "Gallery", "Money"):
        visit(page, view)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} is wider than the screen"
        found = Axe().run(page).response["violations"]
        serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in {"serious", "critical"}]
        assert not serious, view
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
    assert light is (scheme == "light")
    assert next(pages, None) is None
