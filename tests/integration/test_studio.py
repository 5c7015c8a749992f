"""The studio in a real browser: one browser, one sandbox and one server for all tests."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Dialog, Error, Page, Request, Route, expect, sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount

import kling_async.studio
from kling_async import Client, MemoryLedger
from kling_async.sandbox import Sandbox
from support.asgi_server import Site, serve
from support.chromium import PROGRAM as CHROMIUM
from support.cli_process import environment_of, launch

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
        self.environment = {**environment_of(sandbox), "KLING_SANDBOX_SPEED": "20"}
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
        self.process = launch("studio", *options, variables=self.environment, stderr=subprocess.DEVNULL)
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
    with Sandbox(speed=0, scale=0.1, rate_limit=None) as running:
        yield running


@pytest.fixture(scope="module")
def studio(stage: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    made = Studio(tmp_path_factory.mktemp("studio"), stage)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """The tab of all tests. Another one for each would be a process for each, and half a second of CPU."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context()
        context.set_default_timeout(PATIENCE)
        yield context.new_page()
        browser.close()


@pytest.fixture
def page(tab: Page, studio: Studio) -> Iterator[Page]:
    yield from opened(tab, studio.url)


def opened(page: Page, url: str) -> Iterator[Page]:
    """The page, as if for the first time. Its console must stay clean, and it loads nothing from another host."""
    wrong: list[str] = []

    def throws(error: Error) -> None:
        wrong.append(str(error))

    def loads(asked: Request) -> None:
        if not asked.url.startswith(("http://127.0.0.1", "data:", "blob:")):
            wrong.append(asked.url)

    def runs(dialog: Dialog) -> None:
        wrong.append(f"a script ran: {dialog.message}")
        dialog.dismiss()

    page.on("pageerror", throws)
    page.on("dialog", runs)
    page.on("request", loads)
    page.context.clear_cookies()
    page.goto(url)
    page.get_by_role("textbox", name="Prompt").wait_for()
    yield page
    page.unroute_all()
    page.evaluate("localStorage.clear(); sessionStorage.clear()")
    page.remove_listener("pageerror", throws)
    page.remove_listener("dialog", runs)
    page.remove_listener("request", loads)
    assert not wrong


def visit(page: Page, view: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=view).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(view, timeout=PATIENCE)


def make(page: Page, prompt: str) -> None:
    """Buy a video at RunBlob."""
    one_provider(page, "runblob/o3-video")
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
    other.close()


def test_a_killed_server_loses_nothing(tab: Page, stage: Sandbox, tmp_path: Path) -> None:
    studio = Studio(tmp_path, stage)
    try:
        pages = opened(tab, studio.url)
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


def test_a_refused_field_is_reported_beside_it_and_has_the_focus(page: Page, stage: Sandbox) -> None:
    bought = stage.counters.jobs_bought
    one_provider(page, "runblob/o3-video")
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
    one_provider(page, "runblob/o3-video")
    held: list[Route] = []  # the check of what was typed is answered after the purchase

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/api/check", hold)
    with page.expect_request("**/api/check"):
        page.get_by_role("textbox", name="Prompt").fill("a boat in the fog")
        page.locator(".buy").click()
    expect(page.locator(".problem")).to_contain_text("may have been bought", timeout=PATIENCE)
    with page.expect_response("**/api/check"):
        for route in held:
            route.continue_()
    expect(page.locator(".buy")).to_contain_text("$", timeout=PATIENCE)
    expect(page.locator(".problem")).to_contain_text("may have been bought")
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
    runs = page.locator("main script, main [onerror], main [onclick], a[href^=javascript], [src^=javascript]")
    assert runs.count() == 0
    page.evaluate("location.hash = 'gallery?hostile'")
    expect(page.get_by_role("dialog").get_by_text("Download")).to_be_visible(timeout=PATIENCE)
    assert runs.count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def one_provider(page: Page, endpoint: str) -> None:
    """Choose an endpoint, and wait for its form."""
    visit(page, "Make")
    page.get_by_role("radio", name="One provider").check()
    page.get_by_label("Provider and endpoint").select_option(endpoint)
    page.locator(f'form[data-endpoint="{endpoint}"]').wait_for()


GIVE = """async ([kind, names]) => {
  const data = new DataTransfer()
  for (const name of names) {
    const canvas = Object.assign(document.createElement('canvas'), { width: 320, height: 320 })
    canvas.getContext('2d').fillStyle = name.split('.')[0]
    canvas.getContext('2d').fillRect(0, 0, 320, 320)
    const type = name.endsWith('png') ? 'image/png' : 'image/tiff'
    data.items.add(new File([await new Promise((done) => canvas.toBlob(done))], name, { type }))
  }
  const event = kind === 'drop' ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })
  document.querySelector('#field-references-row .drop').dispatchEvent(event)
}"""
"""Drops or pastes pictures: each is of the colour that its name begins with."""


def test_pictures_by_drop_paste_and_address(page: Page, stage: Sandbox) -> None:
    """With previews, in an order that can be changed, their limits before anything is sent, and made again."""
    one_provider(page, "runblob/o3-video")
    field = page.locator("#field-references-row")
    expect(field).to_contain_text("Up to 5 images: JPEG, PNG, GIF, WEBP, at most 10 MiB each", timeout=PATIENCE)
    page.get_by_role("textbox", name="Prompt").fill("a boat with pictures")
    page.evaluate(GIVE, ["drop", ["red.png", "scan.tiff"]])
    expect(field.get_by_role("alert")).to_have_text("scan.tiff is TIFF; this takes JPEG, PNG, GIF, WEBP.")
    page.evaluate(GIVE, ["paste", ["blue.png"]])
    expect(field.get_by_role("img")).to_have_count(2)
    pictures = [one.get_attribute("src") for one in field.get_by_role("img").all()]
    field.get_by_role("button", name="Move image 2 forward").click()
    assert [one.get_attribute("src") for one in field.get_by_role("img").all()] == pictures[::-1]
    field.get_by_role("textbox").fill("javascript:alert(1)")
    field.get_by_role("button", name="Add URL").click()
    expect(field.get_by_role("alert")).to_contain_text("begins with https://")
    field.get_by_role("textbox").fill("https://example.com/boat.png")
    field.get_by_role("textbox").press("Enter")
    page.locator(".buy").click()  # the server knows more than the page does
    expect(field.locator(".error").last).to_contain_text("cannot be mixed in one request", timeout=PATIENCE)
    field.get_by_role("button", name="Remove image 3").click()
    page.evaluate(GIVE, ["drop", ["red.png"] * 4])
    expect(field.get_by_role("alert")).to_contain_text("There is room for 5")
    for _ in range(3):
        field.get_by_role("button", name="Remove image 3").click()
    bought = stage.counters.jobs_bought
    page.locator(".buy").click()
    expect(page.locator(".sent")).to_contain_text("under way", timeout=PATIENCE)
    assert stage.counters.jobs_bought == bought + 1
    stage.state.clock.advance(LATER)
    visit(page, "Gallery")
    page.get_by_role("button", name="Show: a boat with pictures").click()
    page.get_by_role("link", name="Again with these settings").click()
    expect(field.get_by_role("img")).to_have_count(2, timeout=PATIENCE)
    assert [one.get_attribute("src") for one in field.get_by_role("img").all()] == pictures[::-1]


def test_what_is_dear_is_asked_first(page: Page, stage: Sandbox) -> None:
    bought = stage.counters.jobs_bought
    one_provider(page, "kling/text-to-video")
    page.get_by_role("textbox", name="Prompt").fill("a dear boat")
    page.get_by_role("radio", name="Ultra (4k)").check()
    expect(page.locator(".buy")).to_have_text("Make it · $2.10", timeout=PATIENCE)
    question = page.get_by_role("dialog", name="Before you buy")
    page.locator(".buy").click()
    expect(question).to_contain_text("This costs $2.10. Make it?")
    page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    page.locator(".buy").click()
    question.get_by_role("button", name="Close").click()
    assert stage.counters.jobs_bought == bought
    page.locator(".buy").click()
    question.get_by_role("button", name="Make it").click()
    expect(page.locator(".sent")).to_contain_text("under way", timeout=PATIENCE)
    assert stage.counters.jobs_bought == bought + 1


def test_the_selectors_say_what_each_choice_means(page: Page) -> None:
    """Also for a portable request. A choice that does not go with the others stays, and says so."""

    def option(field: str, name: str) -> Any:
        return page.locator(f"#field-{field}-row .option").filter(has=page.get_by_text(name, exact=True))

    one_provider(page, "runblob/o3-video")
    expect(option("duration", "5 seconds")).to_contain_text("usually 2 to 3 min", timeout=PATIENCE)
    expect(option("duration", "10 seconds")).to_contain_text("usually 3 to 5 min, about twice the price")
    expect(option("model", "Standard (720p)")).to_contain_text("faster generation, lower cost")
    expect(option("model", "Pro (1080p)")).to_contain_text("higher quality")
    expect(option("aspect_ratio", "Portrait (9:16)")).to_contain_text("for phones")
    for field in ("duration", "model", "aspect_ratio"):
        assert page.locator(f"#field-{field}-row .option > svg").count() >= 2, field
    one_provider(page, "kling/text-to-video")
    page.get_by_role("textbox", name="Prompt").fill("a boat")
    option("resolution", "Ultra (4k)").click()
    expect(option("model", "Kling 2.6")).to_contain_text("not with the other settings", timeout=PATIENCE)
    option("resolution", "High (1080p)").click()
    expect(option("model", "Kling 2.6")).to_contain_text("the price", timeout=PATIENCE)
    option("model", "Kling 2.6").click()
    expect(page.locator(".buy")).to_contain_text("$", timeout=PATIENCE)
    page.get_by_role("radio", name="Video by the best offer").check()
    expect(option("resolution", "High (1080p)")).to_contain_text("usually", timeout=PATIENCE)
    durations = page.get_by_label("Duration").locator("option")
    expect(durations.filter(has_text="10 seconds")).to_contain_text("usually", timeout=PATIENCE)
    expect(page.locator(".offer").first).to_contain_text("$", timeout=PATIENCE)
    page.locator(".offer").nth(1).click()
    dearer = page.locator(".offer").nth(1).locator(".price").inner_text()
    expect(page.locator(".buy")).to_contain_text(dearer.removeprefix("about "))


def test_a_gallery_is_searched_and_two_are_compared(page: Page, stage: Sandbox, studio: Studio) -> None:
    buy = """async ([key, endpoint, prompt]) => (await fetch('api/jobs', {
      method: 'POST', body: JSON.stringify({ key, endpoint, fields: { prompt } }) })).status"""
    for key, endpoint in (("one", "runblob/o3-video"), ("two", "runblob/o3-photo"), ("three", "fal/image")):
        assert page.evaluate(buy, [key, endpoint, f"a swan number {key}"]) == 201
    stage.state.clock.advance(LATER)
    visit(page, "Gallery")
    search = page.get_by_role("searchbox", name="Search")
    search.fill("SWAN number")
    tiles = page.locator(".tile")
    expect(tiles).to_have_count(3, timeout=PATIENCE)
    expect(tiles.locator("img, video")).to_have_count(3, timeout=PATIENCE)
    page.get_by_label("Kind").select_option("video")
    expect(tiles).to_have_count(1)
    page.get_by_label("Kind").select_option("")
    page.get_by_label("Provider").select_option("fal")
    expect(tiles).to_have_count(1)
    page.get_by_label("Provider").select_option("")
    two = page.get_by_role("button", name="Compare two")
    for name in ("one", "two", "three"):  # the third takes the place of the first
        page.get_by_role("checkbox", name=f"Compare: a swan number {name}").check()
    expect(page.get_by_role("checkbox", name="Compare: a swan number one")).not_to_be_checked()
    two.click()
    compared = page.get_by_role("dialog", name="Compare")
    expect(compared.locator("img")).to_have_count(2)
    expect(compared).to_contain_text("a swan number three")
    assert_readable(page, "Compare")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Show: a swan number two").click()
    page.get_by_role("button", name="As code").click()
    expect(page.locator("pre")).to_have_count(3, timeout=PATIENCE)
    assert_readable(page, "Details")
    page.keyboard.press("Escape")
    search.fill("no such words")
    expect(tiles).to_have_count(0)
    # A file that is gone is not shown as broken, and is fetched again where its link still works.
    for file in (studio.folder / "out").rglob("*"):
        if file.is_file() and file.suffix != ".mp4":
            file.unlink()
    page.reload()
    page.get_by_role("searchbox", name="Search").fill("swan number two")
    expect(tiles).to_contain_text("Not saved in time", timeout=PATIENCE)
    assert tiles.locator("img").count() == 0
    visit(page, "Follow")
    card(page, "a swan number two").get_by_role("button", name="Save again").click()
    expect(card(page, "a swan number two").locator("img")).to_be_visible(timeout=PATIENCE)


def assert_readable(page: Page, view: str) -> None:
    """Axe finds nothing serious, and nothing is wider than the screen."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} is wider than the screen"
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in {"serious", "critical"}]
    assert not serious, view


def test_mounted_it_makes_and_shows(tab: Page, stage: Sandbox, tmp_path: Path) -> None:
    """In another application, below another path, without its lifespan: while a page is open it follows and saves."""
    url, ended = threading.Event(), threading.Event()
    found: list[str] = []

    async def site() -> None:
        async with Client(stage.providers(), ledger=MemoryLedger()) as client:
            mounted = Starlette(
                routes=[Mount("/studio", kling_async.studio.app(client, directory=tmp_path, token="t"))]
            )
            async with serve(Site(), mounted) as served:
                found.append(f"{served.url}/studio/?token=t")
                url.set()
                await anyio.to_thread.run_sync(ended.wait)

    server = threading.Thread(target=anyio.run, args=[site])
    server.start()
    try:
        assert url.wait(PATIENCE / 1000)
        pages = opened(tab, found[0])
        page = next(pages)
        make(page, "a boat in another house")
        visit(page, "Follow")
        stage.state.clock.advance(LATER)
        status(page, "a boat in another house", "Done")
        expect(page.locator("article video")).to_be_visible(timeout=PATIENCE)
        assert page.url.partition("#")[0].endswith("/studio/")
        assert next(pages, None) is None
    finally:
        ended.set()
        server.join()
    assert list(tmp_path.rglob("*.mp4"))


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
    expect(page.locator(".buy")).to_contain_text("$0.15", timeout=PATIENCE)
    tab_to("field-duration")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".buy")).not_to_contain_text("$0.15", timeout=PATIENCE)
    page.keyboard.press("ArrowUp")
    expect(page.locator(".buy")).to_contain_text("$0.15", timeout=PATIENCE)
    tab_to("buy")
    page.keyboard.press("Enter")
    expect(page.locator(".sent")).to_contain_text("under way", timeout=PATIENCE)


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1440), ("dark", 360)], ids=["light and wide", "dark and on a phone"]
)
def test_every_view_can_be_read_by_all(tab: Page, studio: Studio, scheme: Any, width: int) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": 800})
    pages = opened(tab, studio.url)
    page = next(pages)
    for view in ("Make", "Follow", "Gallery", "Money"):
        visit(page, view)
        page.wait_for_load_state("networkidle")
        assert_readable(page, view)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
    assert light is (scheme == "light")
    assert next(pages, None) is None
    tab.emulate_media(color_scheme="light")
    tab.set_viewport_size({"width": 1280, "height": 720})
