"""What importing costs, counted in modules: a name loads what it stands on, when it is first named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import kling_async
import kling_async.providers.base
from kling_async.providers import BUILT_IN
from support.public_stub import LAZY, PATH, stub

ALWAYS = {"kling_async", "kling_async.providers"}
"""The package, and the registry of providers, which loads none of them."""
PACKAGES = [getattr(kling_async, module) for module in BUILT_IN]
DEPENDENCIES = {"anyio", "httpcore", "httpx", "pydantic", "stamina"}


CLIENT = "import kling_async; kling_async.Client"
FORKS = """
import json, os, sys
exec(sys.argv[1])
for line in sys.stdin:
    if child := os.fork():
        if status := os.waitpid(child, 0)[1]:
            print(json.dumps(f"it ended with {status}"), flush=True)
        continue
    before = set(sys.modules)
    try:
        exec(json.loads(line))
        answer = [*set(sys.modules) - before]
    except BaseException:
        import traceback
        answer = traceback.format_exc()
    print(json.dumps(answer), flush=True)
    os._exit(0)
"""
"""Runs some code, then each line of its input in a process of its own that has run it, too."""
_running: dict[str, subprocess.Popen[str]] = {}


@pytest.fixture(scope="module", autouse=True)
def interpreters() -> Iterator[None]:
    """What has run the same code is asked more than once, and ended with the last test."""
    yield
    for process in _running.values():
        process.communicate()
    _running.clear()


def loaded(code: str, *, after: str = "pass") -> set[str]:
    """The modules that `code` loads in a new process in which `after` has been run."""
    if after not in _running:
        command = [sys.executable, "-c", FORKS, after]
        _running[after] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process = _running[after]
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(code) + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    assert isinstance(answer, list), answer
    return set(answer)


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "kling_async"}


def theirs(modules: set[str]) -> set[str]:
    """The packages among them that are neither ours nor Python's own."""
    return {name.partition(".")[0] for name in modules - ours(modules)} - sys.stdlib_module_names


def test_importing_the_package_loads_nothing_else() -> None:
    modules = loaded("import kling_async")
    assert ours(modules) == ALWAYS
    assert not theirs(modules)
    assert not modules & {"asyncio", "logging", "sqlite3", "ssl"}


@pytest.mark.parametrize("module", [kling_async, *PACKAGES], ids=lambda module: module.__name__)
def test_dir_shows_what_users_need_and_nothing_else(module: ModuleType) -> None:
    shown = {name for name in dir(module) if not name.startswith("_")}
    assert shown - {"providers", "webhooks"} == {name for name in module.__all__ if not name.startswith("_")}


def test_an_error_class_needs_its_own_module_only() -> None:
    modules = loaded("from kling_async import KlingError")
    assert ours(modules) == ALWAYS | {"kling_async._errors"}
    assert not theirs(modules)


def test_results_are_read_without_any_dependency() -> None:
    assert not theirs(loaded("from kling_async import Artifact, Event, JobRef, Result, Status"))


def test_requests_are_made_without_a_client() -> None:
    modules = loaded("from kling_async import runblob; runblob.O3Video('a paper boat')")
    assert "kling_async._client" not in modules
    assert DEPENDENCIES & theirs(modules) == {"pydantic"}
    assert not modules & {"asyncio", "sqlite3"}


def test_a_client_loads_neither_httpx_nor_the_database() -> None:
    made = "from kling_async import Client, RunBlob; Client(RunBlob('key'))"
    modules = loaded(CLIENT) | loaded(made, after=CLIENT)
    assert DEPENDENCIES & theirs(modules) == DEPENDENCIES - {"httpx"}
    assert "sqlite3" not in modules


def test_a_job_is_bought_and_saved_without_httpx() -> None:
    """It loads its own command line program with it. Our pool needs neither."""
    job = (
        "import asyncio, tempfile\n"
        "from kling_async import Client, runblob\n"
        "from kling_async.sandbox import Sandbox\n"
        "async def main():\n"
        "    with Sandbox(speed=600, scale=0.05) as sandbox, tempfile.TemporaryDirectory() as folder:\n"
        "        async with Client(sandbox.providers()) as client:\n"
        "            result = await client.run(runblob.O3Photo('a paper boat'))\n"
        "            await result.save(folder)\n"
        "asyncio.run(main())"
    )
    assert "httpx" not in loaded(CLIENT) | loaded(job, after=CLIENT)


def test_beside_a_client_only_the_database_and_the_providers_are_left_to_load() -> None:
    """No handler of a running web service stalls the event loop because it is the first to name something."""
    name_all = "for name in kling_async.__all__: getattr(kling_async, name)"
    modules = loaded(name_all, after=CLIENT)
    other_providers = {name for name in ours(modules) if name.startswith("kling_async.providers.")}
    assert {name.rpartition(".")[0] for name in ours(modules) - other_providers} == {"kling_async._ledger"}
    assert {name.partition(".")[0] for name in modules - ours(modules)} == {"_sqlite3", "sqlite3"}


def test_every_name_is_listed_before_it_is_loaded() -> None:
    assert ours(loaded("import kling_async; assert {*kling_async.__all__} <= {*dir(kling_async)}")) == ALWAYS


@pytest.mark.parametrize("module", ["providers", "webhooks", "runblob"])
def test_public_modules_need_no_import_of_their_own(module: str) -> None:
    path = {"runblob": "providers.runblob"}.get(module, module)
    assert f"kling_async.{path}" in loaded(f"import kling_async; kling_async.{module}")


def test_a_star_import_brings_every_name() -> None:
    loaded("from kling_async import *; import kling_async; assert {*kling_async.__all__} <= globals().keys()")


def test_a_misspelt_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match=r"^module 'kling_async' has no attribute 'Clent'$"):
        getattr(kling_async, "Clent")  # noqa: B009  # type checkers know that there is none
    run = subprocess.run(
        [sys.executable, "-c", "from kling_async import Clent"], capture_output=True, text=True, check=False, timeout=60
    )
    assert "ImportError: cannot import name 'Clent' from 'kling_async'" in run.stderr


def test_the_stub_is_made_from_the_one_list_of_names() -> None:
    """Run ``python tests/support/public_stub.py`` to make it again."""
    assert PATH.read_text(encoding="utf-8") == stub()


def test_every_provider_of_the_registry_is_a_public_name() -> None:
    for module, kind in BUILT_IN.items():
        assert getattr(kling_async, kind) is getattr(getattr(kling_async, module), kind)
        assert {kind, module} <= {*kling_async.__all__}


@pytest.mark.parametrize("module", [kling_async, kling_async.providers.base, *PACKAGES], ids=lambda m: m.__name__)
def test_a_module_lists_only_what_a_user_needs(module: ModuleType) -> None:
    modules = {*LAZY._MODULES, "__version__"} if module is kling_async else set()
    assert {*dir(module)} - modules == {*module.__all__}


def test_without_a_handler_nothing_is_printed() -> None:
    """A warning of a library stands on no terminal unless the program wants it: `logging.lastResort` prints none."""
    code = (
        "import logging, tempfile, pathlib\n"
        "import kling_async\n"
        "{loads}\n"
        "logging.getLogger('kling_async').warning('a paid call is throttled')\n"
        "logging.getLogger('stamina').warning('stamina.retry_scheduled')\n"
    )
    for loads in ("kling_async.Client", "kling_async.prepare_image; kling_async._http.transport"):
        script = code.format(loads=loads.replace("kling_async._http.transport", "import kling_async._http.transport"))
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def program(*arguments: str, ends: int = 0) -> set[str]:
    """The modules that a run of ``kling`` loads."""
    return loaded(
        "from contextlib import redirect_stderr, redirect_stdout\n"
        "import io\n"
        "from kling_async._cli import main\n"
        "with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):\n"
        f"    code = main({list(arguments)!r})\n"
        f"assert code == {ends}, code"
    )


def providers_of(modules: set[str]) -> set[str]:
    """The providers among them."""
    return {name.split(".")[2] for name in modules if name.startswith("kling_async.providers.")} & BUILT_IN.keys()


def test_the_program_says_what_it_can_do_with_typer_alone() -> None:
    modules = program("--help")
    assert theirs(modules) <= {"annotated_doc", "click", "shellingham", "typer", "typing_extensions"}
    assert not modules & {"asyncio", "kling_async._client", "sqlite3", "ssl"}
    assert not providers_of(modules)


def test_the_list_of_jobs_needs_neither_a_client_nor_a_provider(tmp_path: Path) -> None:
    """Typer itself loads pydantic, as soon as a command has an argument."""
    ledger = tmp_path / "kling.db"
    loaded(
        "import anyio, kling_async\n"
        "async def main():\n"
        f"    ledger = kling_async.SqliteLedger({str(ledger)!r})\n"
        "    await ledger.set_value('name', 'value')\n"
        "    await ledger.aclose()\n"
        "anyio.run(main)"
    )
    modules = program("jobs", "--ledger", str(ledger))
    assert not theirs(modules) & {"h11", "httpcore", "httpx", "stamina", "trio"}
    assert "kling_async._client" not in modules
    assert not providers_of(modules)


def test_a_provider_is_loaded_alone_by_its_name() -> None:
    assert providers_of(loaded("from kling_async.providers import find_provider; find_provider('runblob')")) == {
        "runblob"
    }


def test_a_request_is_checked_with_its_own_provider_and_no_client() -> None:
    modules = program("generate", "runblob/o3-video", "a paper boat", "--duration", "7", ends=2)
    assert providers_of(modules) == {"runblob"}
    assert not theirs(modules) & {"h11", "httpcore", "httpx", "stamina", "trio"}
    assert "kling_async._client" not in modules


def test_request_classes_are_built_when_the_first_request_is_made() -> None:
    """Their validators are most of what loading a provider costs, and a program uses few of them."""
    code = (
        "from kling_async import kling, runblob\n"
        "assert not any(kind.__pydantic_complete__ for kind in (runblob.O3Video, kling.OmniVideo))\n"
        "runblob.O3Video('a paper boat')\n"
        "assert runblob.O3Video.__pydantic_complete__ and not kling.OmniVideo.__pydantic_complete__"
    )
    loaded(code)


def test_without_the_sandbox_its_option_says_what_to_install() -> None:
    """A traceback is no answer to ``kling --sandbox`` of who has installed ``kling-async[cli]`` alone."""
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from kling_async._cli import main\n"
        "sys.exit(main(['--sandbox', 'generate', 'runblob/o3-photo', 'a boat']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 2
    assert run.stderr == "error: the sandbox needs av, which is not installed: pip install 'kling-async[sandbox]'\n"
