"""The tests of `docs/guides/testing.md`, run by pytest with the plugin that the package brings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support.documents import ROOT

GUIDE = ROOT / "docs" / "guides" / "testing.md"
STRICT = ("-W", "error", "-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:cacheprovider")
NO_OTHERS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Plugins that happen to be installed here, and that nothing of the guide uses, take seconds to load."""

ANYIO = """
import pytest
from kling_async import runblob

@pytest.mark.anyio
async def test_a_clip_is_made(kling_client, anyio_backend):
    assert (await kling_client.run(runblob.O3Video("a paper boat"))).urls
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("application")
    blocks = re.findall(r'```python title="([^"]+)"\n(.*?)```', GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    for name, text in blocks:
        (folder / name).write_text(text, encoding="utf-8")
    assert {"test_jobs.py", "app.py", "test_app.py", "test_mocked.py"} == {name for name, _ in blocks}
    (folder / "test_anyio.py").write_text(ANYIO)
    return folder


@pytest.fixture(scope="module")
def passed(project: Path) -> Counter[str]:
    """How many tests of each file pass."""
    return Counter(re.findall(r"^PASSED (\w+\.py)::", run(project, "-rA"), re.MULTILINE))


def run(folder: Path, *arguments: str) -> str:
    plugins = ("-p", "anyio.pytest_plugin", "-p", "pytest_asyncio.plugin", "-p", "kling_async.pytest_plugin")
    command = [sys.executable, "-m", "pytest", "-q", *plugins, *STRICT, *arguments]
    found = subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "/usr/bin:/bin", "HOME": str(folder)} | NO_OTHERS,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_the_tests_of_the_guide_pass(passed: Counter[str]) -> None:
    assert passed.total() - passed["test_anyio.py"] == 6


def test_the_fixtures_work_with_anyios_plugin_on_both_libraries(passed: Counter[str]) -> None:
    assert passed["test_anyio.py"] == 2


def test_nothing_is_loaded_before_a_test_asks_for_it() -> None:
    script = "import sys, kling_async.pytest_plugin; print(*(name for name in sys.modules if 'kling_async' in name))"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"kling_async.sandbox", "kling_async.testing", "kling_async._client"} & set(found.stdout.split())
