"""The plan of the house, enforced: floors, cycles, pure modules, and the public names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import kling_async
from kling_async.providers import BUILT_IN

ROOT = Path(kling_async.__file__).parent

FLOORS: dict[str, int] = {
    "_scheduling": 1,
    "_models": 1,
    "_errors": 1,
    "_html": 1,
    "_media": 1,
    "_validation": 1,
    "_records": 1,
    "_event_loop": 1,
    "_exchange": 2,
    "providers": 3,
    "webhooks": 3,
    "_ledger": 4,
    "_tracking": 4,
    "_http": 4,
    "_submission": 5,
    "_polling": 5,
    "_files": 5,
    "_bulk": 6,
    "_job": 6,
    "_webhooks": 6,
    "_routing": 6,
    "_client": 7,
    "": 8,
    "mcp": 8,
    "sync": 8,
    "notebook": 8,
    "otel": 8,
    "starlette": 8,
    "fastapi": 8,
    "sandbox": 8,
    "studio": 8,
    "testing": 8,
    "pytest_plugin": 8,
    "_rows": 8,
    "_cli": 9,
    "_ray": 9,
    "ray": 9,
    "__main__": 10,
}
INDEPENDENT = [{"_ledger", "_tracking", "_http"}, {"_submission", "_polling", "_files"}]
"""Rooms of one floor that do not import each other."""
PRIVATE_IN_TESTS = {
    "integration/cli": {"_cli", "_rows"},  # the program in this process, with its seams
    "integration/test_inferencesh_sandbox.py": {"_event_loop", "_http"},  # a flow of a feature that no client uses
    "support/shared_ledger.py": {"_ledger"},  # files as earlier versions have left them
    "support/shapes.py": {"_cli"},  # writes the file that the doctor reads, with the doctor's own reader
    "properties": {"_models", "_tracking"},  # what is generated is judged by the pure state machine
    "contracts/test_shared_budget.py": {"_ledger"},  # what no user of the library calls
    "contracts/test_shared_slots.py": {"_ledger"},  # the same
    "reliability/test_ledger_attacks.py": {"_ledger"},  # files that no client writes
    "reliability/test_ledger_faults.py": {"_ledger"},  # the disk fails beneath it
    "reliability/test_shared_ledger.py": {"_ledger"},  # the database fails beneath it
    "reliability/test_secrets.py": {"_exchange"},  # the one place that hides secrets
    "unit/providers": {"_http", "_tracking"},  # flows run on a transport, reports on the state machine
}
"""Private rooms that tests use though they are not unit tests of that room or of a higher one, with the reason."""
WITH_FILES_OR_CLOCK = {"_event_loop", "_media"}
PURE = [name for name, floor in FLOORS.items() if floor <= 3 and name not in WITH_FILES_OR_CLOCK]
IMPURE = {"httpx", "httpcore", "stamina", "anyio", "asyncio", "trio", "sqlite3", "time", "os", "socket", "threading"}
OPTIONAL = {
    "mcp",
    "pytest",
    "typer",
    "rich",
    "starlette",
    "uvicorn",
    "fastapi",
    "PIL",
    "av",
    "obstore",
    "opentelemetry",
    "pyarrow",
    "ray",
    "psycopg",
}
HOMES = {
    "httpx": {"_http", "sandbox", "testing"},
    "stamina": {"_http"},
    "httpcore": {"_http"},
    "httptools": {"_http"},
    "sqlite3": {"_ledger"},
    "psycopg": {"_ledger"},
    "obstore": {"_files"},
    "opentelemetry": {"otel"},
    "ray": {"_ray", "ray"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def room(module: str) -> str:
    """The entry of `FLOORS` that a module belongs to."""
    return module.split(".", maxsplit=1)[0]


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of this package."""
    path = ROOT.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Every module that a file imports, with whether only a type checker does."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    for node, typing_only in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if is_module(name) else node.module or "" for name in names]
        for name in found:  # `__init__` loads what type checkers are told, on demand (`test_imports`)
            yield name, typing_only and path != ROOT / "__init__.py"


def _statements(within: ast.AST, *, typing_only: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every statement, with whether only a type checker reads it. Expressions, which have none, are left out."""
    for node in ast.iter_child_nodes(within):
        if isinstance(node, ast.stmt):
            checked = typing_only or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
            yield node, checked
            yield from _statements(node, typing_only=checked)
        elif isinstance(node, ast.excepthandler | ast.match_case):
            yield from _statements(node, typing_only=typing_only)


def ours(name: str) -> str | None:
    """The room of this package that an import goes to, or None for another package's module."""
    head, _, rest = name.partition(".")
    if head != "kling_async":
        return None
    return room(rest) if room(rest) in FLOORS else ""


@pytest.mark.parametrize(
    ("module", "path"), list(modules()), ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_a_module_imports_only_from_lower_floors(module: str, path: Path) -> None:
    assert room(module) in FLOORS, f"{module} has no floor; give it one in FLOORS"
    for name, typing_only in imports(path):
        target = ours(name)
        if target is None or target == room(module) or typing_only:
            continue
        assert FLOORS[target] <= FLOORS[room(module)], f"{module} imports {name}, which is on a higher floor"


@pytest.mark.parametrize("rooms", INDEPENDENT, ids=lambda rooms: "-".join(sorted(rooms)))
def test_rooms_of_one_floor_are_independent(rooms: set[str]) -> None:
    for module, path in modules():
        if room(module) in rooms:
            used = {ours(name) for name, _ in imports(path)}
            assert not used & (rooms - {room(module)}), f"{module} imports another room of its floor"


def test_tests_outside_a_room_use_public_names() -> None:
    """Private modules are for the unit tests of their room, or of a higher one, and for the listed exceptions."""
    tests = Path(__file__).parents[1]
    unused = {place: set(rooms) for place, rooms in PRIVATE_IN_TESTS.items()}
    for path in sorted(tests.rglob("*.py")):
        name = path.relative_to(tests).as_posix()
        private = {found for used, _ in imports(path) if (found := ours(used)) and found.startswith("_")}
        place = name.split("/")
        own = {"unit": [f"_{place[1]}", place[1]]}.get(place[0], []) if len(place) > 2 else []
        floor = max((FLOORS[one] for one in own if one in FLOORS), default=9 if place[0] == "unit" else 0)
        private = {one for one in private if place[0] != "unit" or FLOORS[one] > floor}
        for exception, rooms in PRIVATE_IN_TESTS.items():
            if name.startswith(exception):
                unused[exception] -= private
                private -= rooms
        assert not private, f"{name} imports {', '.join(sorted(private))}; use public names"
    assert not any(unused.values()), f"exceptions that nobody needs: {unused}"


def _graph(part: Callable[[str], str]) -> dict[str, set[str]]:
    """Which part of the package imports which others."""
    graph: dict[str, set[str]] = {}
    for module, path in modules():
        used = {part(name.partition(".")[2]) for name, typing_only in imports(path) if not typing_only and ours(name)}
        graph.setdefault(part(module), set()).update(used - {part(module)})
    return graph


@pytest.mark.parametrize("part", [str, room], ids=["modules", "rooms"])
def test_there_are_no_cycles(part: Callable[[str], str]) -> None:
    """Between modules, and between the entries at the top of the package."""
    graph = _graph(part)
    done: set[str] = set()

    def visit(module: str, chain: tuple[str, ...]) -> None:
        assert module not in chain, f"import cycle: {' -> '.join((*chain, module))}"
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*chain, module))
            done.add(module)

    for start in graph:
        visit(start, ())


@pytest.mark.parametrize(
    ("module", "path"), list(modules()), ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_pure_floors_do_no_io_and_libraries_stay_in_their_rooms(module: str, path: Path) -> None:
    for name, _ in imports(path):
        head = name.partition(".")[0]
        if room(module) in PURE:
            assert head not in IMPURE, f"{module} is pure and imports {name}"
        if head in HOMES:
            assert room(module) in HOMES[head], f"{module} imports {name}, which belongs to {HOMES[head]}"


PROGRAM = {"_cli", "_rows"}
PRIVATE_IMPORTS_OF_THE_PROGRAM = {
    ("_cli.atomic_file", "_files.atomic"),
    ("_cli.bulk.cluster", "_ray.run"),
    ("_cli.bulk.cluster", "_ray.settings"),
    ("_cli.bulk.cluster", "_ray.worker"),
    ("_cli.bulk.command", "_files.object_store"),
    ("_cli.bulk.command", "_ray.run"),
    ("_cli.bulk.command", "_ray.settings"),
    ("_cli.bulk.other_runs", "_submission.budget"),
    ("_cli.bulk.other_runs", "_submission.pricing"),
    ("_cli.bulk.store", "_files.object_store"),
    ("_cli.commands.sandbox", "providers._base.credentials"),
    ("_cli.file_names", "_files.local"),
    ("_cli.commands.open", "_exchange.urls"),
    ("_rows.requests", "_exchange.urls"),
    ("_rows.requests", "providers._base.field_errors"),
}
"""Modules of the program, and the private modules that they import. The reason stands beside each import."""


def test_the_program_is_written_against_the_public_api() -> None:
    found = set()
    for module, path in modules():
        if room(module) not in PROGRAM:
            continue
        for name, _ in imports(path):
            package, _, rest = name.partition(".")
            private = any(part.startswith("_") for part in rest.split("."))
            if package == "kling_async" and private and room(rest) not in PROGRAM:
                found.add((module, rest))
                line = next(line for line in path.read_text("utf-8").splitlines() if f"from {name} import" in line)
                assert "  # " in line, f"{module} imports {name} without a reason"
    assert found == PRIVATE_IMPORTS_OF_THE_PROGRAM


def test_importing_the_library_loads_no_optional_dependency() -> None:
    script = "import sys; from kling_async import *; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "kling_async" in run.stdout.split()
    assert not OPTIONAL & set(run.stdout.split())


def test_public_names_are_sorted_and_real() -> None:
    assert kling_async.__all__ == sorted(kling_async.__all__)
    for name in kling_async.__all__:
        thing = getattr(kling_async, name)
        assert thing.__doc__, f"{name} has no docstring"


def test_no_module_beside_the_registry_lists_providers() -> None:
    """Adding a provider touches no list of names elsewhere: none is named outside of its own modules."""
    names = set(BUILT_IN) - {"kling"}  # the program is called so, too
    texts = {
        module: path.read_text(encoding="utf-8")
        for module, path in modules()
        if not module.startswith(("providers", "sandbox.providers"))
    }
    found = [
        f"{module}:{node.lineno} {node.value}"
        for module, text in texts.items()
        if any(name in text for name in names)  # the others need not be parsed
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert found == []
