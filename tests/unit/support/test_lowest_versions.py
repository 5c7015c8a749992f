"""The constraints with which the gate installs the oldest versions that pyproject.toml allows."""

from __future__ import annotations

import tomllib

import pytest

from support.lowest_versions import PYPROJECT, TOOLS, lowest_versions

PROJECT = """
[project]
name = "boat"
dependencies = ["anyio>=4.16", "httpx>=0.28.1,<1"]
[project.optional-dependencies]
images = ["pillow>=12"]
all = ["boat[images]", "psycopg[binary]>=3.2.1; sys_platform != 'win32'"]
dev = ["pytest"]
"""


def test_every_lower_bound_is_the_version_to_install() -> None:
    assert lowest_versions(PROJECT) == ["anyio==4.16", "httpx==0.28.1", "pillow==12", "psycopg==3.2.1"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [("pillow", "has no lower bound"), ("pillow>=11", "pillow has two lower bounds: 11 and 12"), (">=1", "is no req")],
)
def test_a_bound_that_is_missing_or_ambiguous_is_refused(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        lowest_versions(PROJECT.replace('"anyio>=4.16"', f'"{line}"'))


def test_no_dependency_of_a_user_is_left_out() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    named = {line.partition("==")[0] for line in lowest_versions(text)}
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in extras.keys() - TOOLS for line in extras[name])]
    assert {line for line in lines if not line.startswith((*named, "kling-async["))} == set()
