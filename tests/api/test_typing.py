"""What type checkers make of the public API and of the documents."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kling_async
from support.documents import BLOCKS

HERE = Path(__file__).parent
ROOT = Path(kling_async.__file__).parents[1]
MYPY = """
[mypy]
strict = True
# As where it is installed, mypy reads what the library declares, and not what its functions do.
[mypy-kling_async.*]
ignore_errors = True
# Ray is installed where its own tests run, and nowhere else.
[mypy-ray.*]
ignore_missing_imports = True
# What our functions use, and no program of a user sees: half of mypy's work.
[mypy-av.*,click.*,cryptography.*,h2.*,IPython.*,markdown_it.*,prompt_toolkit.*,psycopg.*,rich.*,tenacity.*,\
  tornado.*,traitlets.*,trio.*,typer.*,uvicorn.*,wcwidth.*]
follow_imports = skip
"""


@pytest.fixture
def programs(tmp_path: Path) -> list[str]:
    """The file of uses and mistakes, and the programs of the documents, beside each other."""
    (tmp_path / "typing_public_api.py").write_bytes((HERE / "typing_public_api.py").read_bytes())
    for block in BLOCKS:
        (tmp_path / f"{block.name}.py").write_text(block.code, encoding="utf-8")
    return sorted(path.name for path in tmp_path.iterdir())


def check(command: list[str], directory: Path) -> None:
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_mypy_understands_the_public_api_and_the_documents(programs: list[str], tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    assert len(programs) == 1 + len(BLOCKS) >= 4
    (tmp_path / "mypy.ini").write_text(MYPY)
    check(["mypy", "--config-file=mypy.ini", "--cache-dir=/dev/null", *programs], tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_pyright_understands_the_public_api_and_the_documents(programs: list[str], tmp_path: Path) -> None:
    """Installed, it is run as it stands: `pip install pyright`, which brings its own engine."""
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT.as_posix()}"]}}', encoding="utf-8")
    check(["pyright", "--pythonpath", sys.executable, *programs], tmp_path)
