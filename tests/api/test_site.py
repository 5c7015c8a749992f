"""The documentation site: complete, up to date, and built without a warning or a broken link."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import kling_async
from support import configuration_page
from support.documents import ROOT

NAVIGATION: Any = tomllib.loads((ROOT / ".zensical.toml").read_text("utf-8"))["project"]["nav"]
VARIABLE = re.compile(r"(KLING|SSL)_[A-Z_]+")


def pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for child in entry.values() if isinstance(entry, dict) else entry:
            yield from pages(child)


def test_the_configuration_page_is_up_to_date() -> None:
    assert configuration_page.PATH.read_text("utf-8") == configuration_page.page(), (
        "run python tests/support/configuration_page.py"
    )


def test_every_argument_has_a_description() -> None:
    rows = [line for line in configuration_page.page().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_environment_variable_is_on_the_page() -> None:
    page = configuration_page.page()
    texts = [path.read_text("utf-8") for path in Path(kling_async.__file__).parent.rglob("*.py")]
    read = {
        node.value
        for text in texts
        if VARIABLE.search(text)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value)
    }
    assert len(read) > 5
    assert {name for name in read if f"`{name}`" not in page} == set()


def test_the_site_reads_the_head_of_every_block() -> None:
    """What it does not read, it shows as text: `python bought=3`, for one."""
    for path in (ROOT / "docs").rglob("*.md"):
        heads = re.findall(r"^ *```(.*)\n(?:.*\n)*?^ *```$", path.read_text("utf-8"), re.MULTILINE)
        wrong = [head for head in heads if not re.fullmatch(r'[a-z]+( title="[^"]+")?', head)]
        assert wrong == [], f"{path.name}: write <!-- bought=3 --> on the line before"


def test_every_document_is_in_the_navigation() -> None:
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    reached = set(pages(NAVIGATION))
    decisions = {name for name in documents if name.startswith("decisions/")}  # reached from their index
    assert documents - reached - decisions == set()
    assert reached <= documents


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(path.read_text("utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    named = set(re.findall(r"::: kling_async\.(\w+)", text))
    providers = set(re.findall(r"\w+", text.partition("members:")[2]))
    modules = {"fal", "inferencesh", "kling", "pixeldojo", "replicate", "runblob", "runware"}  # a page each
    assert set(kling_async.__all__) - named - providers - modules == set()


def plain(page: Path) -> str:
    """The text of a page, without its tags."""
    return re.sub(r"<[^>]+>", "", page.read_text("utf-8"))


class Links(HTMLParser):
    """The targets of the links of a page, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if anchor := values.get("id"):
            self.anchors.add(anchor)
        target = values.get("href") if tag in {"a", "link"} else values.get("src")
        if target:
            self.targets.append(target)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_no_link_is_broken(tmp_path: Path) -> None:
    for name in (".zensical.toml", ".site", "docs", "examples", "kling_async"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--config-file", ".zensical.toml"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    site = tmp_path / "build" / "site"
    built = {path.relative_to(site).as_posix(): Links(path.read_text("utf-8")) for path in site.rglob("*.html")}
    assert "reference/client.html" in built
    assert "/index.html" in built["404.html"].targets, "whoever is lost finds home"
    assert "kling_async.Client.submit" in built["reference/client.html"].anchors
    assert "from kling_async.sandbox import sandbox_without_key" in plain(site / "examples.html")
    broken = []
    for page, links in built.items():
        for target in links.targets:
            path, _, anchor = target.partition("#")
            if page == "404.html" or re.match(r"[a-z]+:|/|\?|data:", path):
                continue
            found = Path(os.path.normpath(Path(page).parent / path.partition("?")[0] if path else page)).as_posix()
            found = f"{found}/index.html" if (site / found).is_dir() else found
            if found.startswith("..") or not (site / found).exists():
                broken.append(f"{page}: {target}")
            elif anchor and found in built and anchor not in built[found].anchors:
                broken.append(f"{page}: {target} has no such heading")
    assert broken == []


def test_the_sites_pictures_are_those_of_the_benchmarks() -> None:
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert pictures
    for picture in pictures:
        assert picture.read_bytes() == (ROOT / "benchmarks" / "results" / picture.name).read_bytes()
