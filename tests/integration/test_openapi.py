"""The webhook endpoint keeps to its OpenAPI document. The cases of schemathesis run in a process that loads it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from support.documents import ROOT

CASES = ROOT / "tests" / "support" / "openapi_cases.py"


@pytest.fixture(scope="module")
def output() -> str:
    """What pytest prints of the cases."""
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("schemathesis is not installed (it is part of the dev extra)")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-rA", "-p", "schemathesis", str(CASES)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    ).stdout


@pytest.mark.parametrize(
    "name",
    [
        "test_the_endpoint_keeps_to_its_document",
        "test_a_body_that_no_provider_sends_is_refused_at_the_right_address_too",
    ],
)
def test_all_cases_of_the_document_pass(output: str, name: str) -> None:
    assert re.search(rf"^PASSED \S+::{name}$", output, re.MULTILINE), output
