from __future__ import annotations

import threading
from pathlib import Path

from kling_async._ledger.sqlite_file import File


def test_a_new_file_can_be_opened_by_several_at_once(tmp_path: Path) -> None:
    """SQLite refuses at once one of two that switch a file to its log, and such a process must try again."""
    errors: list[Exception] = []

    def open_it(path: Path, together: threading.Barrier) -> None:
        together.wait()
        try:
            File(path).close()
        except Exception as error:  # noqa: BLE001  # whichever: it is reported below
            errors.append(error)

    for number in range(60):
        together = threading.Barrier(4)
        threads = [threading.Thread(target=open_it, args=(tmp_path / f"{number}.db", together)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
