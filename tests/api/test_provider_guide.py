"""The package that `docs/guides/provider.md` builds: installed, tested by its own tests, and used by its name."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kling_async.sandbox import Sandbox
from support.documents import ROOT

GUIDE = ROOT / "docs" / "guides" / "provider.md"


def files() -> dict[str, str]:
    """The files of the guide, by the title of their block."""
    blocks = re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == len(dict(blocks)) >= 9
    return dict(blocks)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed as a wheel would be: a folder on the path with its metadata beside it."""
    folder = tmp_path_factory.mktemp("acme-kling")
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    metadata = folder / "acme_kling-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-kling\nVersion: 0.1.0\n")
    groups = re.findall(r'\[project\.entry-points\."([\w.]+)"\]\n(.*)\n', files()["pyproject.toml"])
    assert [name for name, _ in groups] == ["kling_async.providers", "kling_async.emulations"]
    lines = [f"[{name}]\n{entry.replace(chr(34), '')}\n" for name, entry in groups]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def sandbox(project: Path) -> Iterator[Sandbox]:
    """A sandbox that plays Acme, too."""
    sys.path.insert(0, str(project))
    try:
        with Sandbox(speed=600, scale=0.05) as made:
            yield made
    finally:
        sys.path.remove(str(project))


@pytest.fixture
def run(project: Path, sandbox: Sandbox, tmp_path: Path) -> object:
    """A function that runs Python with the package installed, the key of the sandbox set, in an empty folder."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("KLING_", "COV_", "PYTEST_"))},
        "PYTHONPATH": os.pathsep.join([str(project), str(ROOT)]),
        "ACME_API_KEY": sandbox.api_key("acme"),
        "ACME_BASE_URL": sandbox.base_url("acme"),
        "KLING_SANDBOX_SPEED": "600",
        "COLUMNS": "120",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # its tests use none of the plugins that happen to be installed here
    }

    def python(*arguments: str, folder: Path = tmp_path) -> str:
        found = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    return python


def test_the_contract_of_the_package_holds(run: object, project: Path) -> None:
    assert callable(run)
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", folder=project)
    assert re.search(r"\d{2,} passed", said)
    assert "failed" not in said
    assert "skipped" not in said


def test_a_client_takes_it_from_the_environment(run: object, sandbox: Sandbox, tmp_path: Path) -> None:
    assert callable(run)
    before = sandbox.counters.bought["acme"]
    (tmp_path / "boat.py").write_text(files()["boat.py"])
    assert run("boat.py").startswith("$0.6")
    assert len(list((tmp_path / "out").iterdir())) == 1
    assert sandbox.counters.bought["acme"] == before + 1


PROGRAMS = """
import json, os, sys
from kling_async._cli import main
from kling_async._cli.bulk import command
from kling_async._cli.commands import generate
for arguments in json.loads(sys.argv[1]):
    if not os.fork():
        sys.argv = ["kling", *arguments]
        sys.exit(main())
    if code := os.waitstatus_to_exitcode(os.wait()[1]):
        sys.exit(code)
    print(end="\\0", flush=True)
"""
"""Runs the program several times, each in a process of its own, of one interpreter that has loaded it once."""


def test_the_program_lists_and_uses_it(run: object, sandbox: Sandbox, tmp_path: Path) -> None:
    assert callable(run)
    before = sandbox.counters.bought["acme"]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "duration"], ["a boat", 5], ["a lamp", 10]])
    commands = [
        ["endpoints", "acme/video", "--json"],
        ["endpoints"],
        ["generate", "acme/video", "a paper boat", "--duration", "10", "-o", "out"],
        ["bulk", "rows.csv", "-o", "many", "--endpoint", "acme/video"],
    ]
    facts, endpoints, *_ = run("-c", PROGRAMS, json.dumps(commands)).split("\0")
    assert json.loads(facts)["endpoint"] == "acme/video"
    assert "acme/video" in endpoints
    assert len(list((tmp_path / "out").iterdir())) == 1
    assert len(list((tmp_path / "many").rglob("*.mp4"))) == 2
    assert sandbox.counters.bought["acme"] == before + 3
