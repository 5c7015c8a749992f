"""Two processes and one ledger on a file system whose locks hold nothing, like some FUSE, SMB and NFS mounts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.cli_process import spawn
from support.remote_sandbox import RemoteSandbox

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>

static int is_lock(int command) {
    switch (command) {
    case F_SETLK: case F_SETLKW: case F_OFD_SETLK: case F_OFD_SETLKW: return 1;
    case F_GETLK: case F_OFD_GETLK: return 2;
    default: return 0;
    }
}

static int pass(const char *name, int fd, int command, void *argument) {
    if (is_lock(command) == 1) return 0;
    if (is_lock(command) == 2) { ((struct flock *)argument)->l_type = F_UNLCK; return 0; }
    int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
    return real(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest);
    return pass("fcntl", fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
    va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest);
    return pass("fcntl64", fd, command, argument);
}
"""
BUYER = """
import sys
import anyio
from kling_async import Client, KlingError, RunBlob, SqliteLedger, runblob

async def main():
    client = Client(RunBlob(), ledger=SqliteLedger(sys.argv[1]))
    sys.stdin.readline()
    for key in "abc":
        try:
            await client.submit(runblob.O3Photo("a boat", resolution="1k"), key=key)
        except KlingError as error:
            print(type(error).__name__, error, flush=True)
    await client.aclose()

anyio.run(main)
"""
ROUNDS = 2


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    place = tmp_path_factory.mktemp("shim")
    (place / "locks.c").write_text(SHIM)
    built = place / "locks.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, place / "locks.c", "-ldl"], check=True)
    return built


def test_two_processes_whose_locks_hold_nothing_buy_nothing(shim: Path, tmp_path: Path) -> None:
    with RemoteSandbox("--speed", "600") as sandbox:
        variables = {**sandbox.environment, "LD_PRELOAD": str(shim)}
        for number in range(ROUNDS):
            buyers = [
                spawn("-c", BUYER, str(tmp_path / f"{number}.db"), variables=variables, stdin=subprocess.PIPE)
                for _ in range(2)
            ]
            for buyer in buyers:
                assert buyer.stdin is not None
                buyer.stdin.write("go\n")
                buyer.stdin.flush()
            for buyer in buyers:
                printed, _ = buyer.communicate(timeout=60)
                assert printed.count("LedgerFailed") == printed.count("locks which hold nothing") == 3
                assert buyer.returncode == 0
        assert sandbox.counters()["bought"] == {}
