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
TESTS = {
    "test_the_endpoint_keeps_to_its_document",
    "test_a_body_that_no_provider_sends_is_refused_at_the_right_address_too",
}


@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed ([dev])")
def test_all_cases_of_the_document_pass() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-rA", "-p", "schemathesis", str(CASES)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert set(re.findall(r"^PASSED \S+::(\w+)$", run.stdout, re.MULTILINE)) == TESTS, run.stdout + run.stderr
    assert run.returncode == 0, run.stdout
