"""Every program of `examples/` runs as it stands, in this process, against the sandbox."""

from __future__ import annotations

import asyncio
import csv
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from kling_async import Image
from kling_async.sandbox import Sandbox, sandbox_without_key
from kling_async.sync import Client as SyncClient
from support.asgi_server import Site, serve
from support.documents import ROOT
from support.s3 import Bucket

EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
STARTED_BY_OTHERS = {"test_my_app", "web_service"}
PROGRAMS = sorted(EXAMPLES.keys() - STARTED_BY_OTHERS)

pytestmark = pytest.mark.sandbox(environment=True, scale=0.1)


def loaded(name: str, arguments: tuple[str, ...] = (), *, run_as: str = "__main__") -> Mapping[str, Any]:
    """The names of an example that was run, as a user does or as a module."""
    names: dict[str, Any] = {"__name__": run_as}
    code: Any = 0
    with mock.patch.object(sys, "argv", [str(EXAMPLES[name]), *arguments]):
        try:
            exec(compile(EXAMPLES[name].read_text("utf-8"), str(EXAMPLES[name]), "exec"), names)  # noqa: S102  # our own
        except SystemExit as end:
            code = end.code
    assert not code, f"{name} ended with {code}"
    return names


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A program sets up its log, which is the log of this process."""
    ours, root = logging.getLogger("kling_async"), logging.getLogger()
    level, handlers = ours.level, list(root.handlers)
    yield
    ours.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, and a sandbox whose jobs are polled as fast as they are made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KLING_SANDBOX_SPEED", "600")
    return tmp_path


def three_rows(out: str, folder: Path) -> None:
    assert out.count("(bought before)") == 0
    with (folder / "results" / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert {key: row["customer"] for key, row in rows.items()} == {"boat": "17", "plane": "17", "crane": "23"}
    assert all(Path(row["file"]).is_file() and row["cost"].startswith("$") for row in rows.values())


def one_of_each_seller(out: str, folder: Path) -> None:
    assert "kling/text-to-video" in out
    assert re.search(r"runblob/o3-video +no: it makes no sound", out)
    assert "by preference" in out


def recovered(out: str, folder: Path) -> None:
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["boat-0.png", "boat-1.png", "boat-2.png"]
    assert "not bought again: " in out


def prepared(out: str, folder: Path) -> None:
    assert out.startswith("PNG 1280x720")
    assert "colours converted from CMYK to RGB; scaled down from 1600x900 to 1280x720" in out


def traced(out: str, folder: Path) -> None:
    for name in ("order 17", "submit kling/image-generation", "generate_content kling/image-generation"):
        assert f'"name": "{name}"' in out
    assert "kling.job.cost" in out
    assert "a paper boat" not in out


CHECKS: Mapping[str, tuple[int, Callable[[str, Path], None] | None]] = {
    "await_one": (1, None),
    "bulk_csv": (3, three_rows),
    "choose_seller": (1, one_of_each_seller),
    "crash_recovery": (3, recovered),
    "pillow_references": (1, prepared),
    "progress_of_many": (4, None),
    "sync_script": (3, None),
    "telemetry": (1, traced),
}
ARGUMENTS = {"bulk_csv": (str(ROOT / "examples" / "prompts.csv"), "results")}


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_a_program_does_what_it_says(
    name: str, sandbox: Sandbox, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bought, check = CHECKS[name]
    loaded(name, ARGUMENTS.get(name, ()))
    out = capsys.readouterr().out
    assert sandbox.counters.jobs_bought == bought
    if check is not None:
        check(out, place)
    for path in [*place.glob("out/*"), *place.glob("results/*.png")]:
        assert path.stat().st_size > 500


def test_a_bulk_run_that_is_started_again_buys_nothing(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        loaded("bulk_csv", ARGUMENTS["bulk_csv"])
    assert sandbox.counters.jobs_bought == 3
    assert capsys.readouterr().out.count("(bought before)") == 3


def test_results_go_into_a_bucket_or_nothing_is_bought(
    sandbox: Sandbox, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    main = loaded("save_to_s3", run_as="example")["main"]
    assert asyncio.run(main("s3://nobodys-bucket/boats")) == 1
    assert sandbox.counters.jobs_bought == 0
    assert "there is no bucket nobodys-bucket" in capsys.readouterr().out
    assert asyncio.run(main(bucket.url("boats"))) == 0
    assert len(bucket.keys()) == sandbox.counters.jobs_bought == 3


@pytest.mark.asyncio
async def test_the_service_makes_a_clip(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    monkeypatch.setenv("PUBLIC_URL", site.url)
    app = loaded("web_service", run_as="example")["app"]
    async with serve(site, app), httpx.AsyncClient(base_url=site.url, trust_env=False) as web:
        assert "<form>" in (await web.get("/")).text
        submitted = await web.post("/videos", json={"prompt": "a boat"})
        assert submitted.status_code == 202
        answer = await web.get(submitted.json()["events"])
    assert '"completed"' in answer.text
    assert sum(sandbox.counters.webhooks.values()) >= 1


def test_results_are_saved_at_home(sandbox: Sandbox, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place / "home"))
    with SyncClient() as client:
        result = client.run(Image("a boat"), save_to="~/boats")
        assert result.files[0].parent == place / "home" / "boats"
        assert result.save("~/more", name="{key}-{index}")[0].parent == place / "home" / "more"
    assert not (place / "~").exists()


def test_without_a_key_a_sandbox_stands_in(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = sandbox.environment()
    with sandbox_without_key() as none:
        assert none is None  # there are keys
    for name in variables:
        monkeypatch.delenv(name)
    with sandbox_without_key(speed=600) as stand_in:
        assert stand_in is not None
        assert {name: os.environ[name] for name in variables} == stand_in.environment()
    assert not variables.keys() & os.environ.keys()
    assert "runs on a sandbox, 600 times faster, and buys nothing" in capsys.readouterr().err


def test_every_example_is_tested_and_listed() -> None:
    assert set(PROGRAMS) == {*CHECKS, "save_to_s3"}
    for document, form in (("README.md", "`{}.py`"), ("docs/examples.md", '--8<-- "examples/{}.py"')):
        text = (ROOT / document).read_text("utf-8")
        assert [name for name in EXAMPLES if form.format(name) not in text] == [], document
