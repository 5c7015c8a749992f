"""What can be done about an error, as commands of `kling`."""

from __future__ import annotations

from contextvars import copy_context
from pathlib import Path
from typing import get_args

import pytest

from kling_async import Remedy
from kling_async._errors import Action
from kling_async._rows.advice import advise_with, as_command, as_commands


def test_advised_commands_name_a_ledger_that_is_not_their_default() -> None:
    remedies = [Remedy("resolve", "a {0}", detail="if it is there"), Remedy("resume"), Remedy("attach", ref="a/b/c")]

    def advised(ledger: str | None) -> list[str]:
        advise_with(Path(ledger) if ledger else None, "kling.db")
        return as_commands(remedies)

    here = ["`kling resolve 'a {0}' REF` if it is there", "`kling resume`", "`kling watch a/b/c`"]
    option = " --ledger '{out}/my ledger.db'`"
    named = [here[0].replace("REF`", f"REF{option}"), here[1].replace("resume`", f"resume{option}"), here[2]]
    found = [copy_context().run(advised, ledger) for ledger in (None, "kling.db", "{out}/my ledger.db")]
    assert found == [here, here, named]


@pytest.mark.parametrize(
    ("remedy", "command"),
    [
        (
            Remedy("attach", ref="runblob/o3-video/a 1", detail="to go on"),
            "`kling watch 'runblob/o3-video/a 1'` to go on",
        ),
        (Remedy("configure", detail="RUNBLOB_API_KEY"), "`export RUNBLOB_API_KEY=...`"),
        (Remedy("configure", detail="upgrade kling_async"), "upgrade kling_async"),
        (Remedy("resubmit", "a", needs_request=True), "`kling resolve a --forget`, then generate it again"),
        (Remedy("raise_budget", detail="credits"), "give a larger --budget, such as 20credits"),
        (
            Remedy("check_account", detail="RunBlob"),
            "check the RunBlob account; `kling watch REF` follows a job that is there",
        ),
        (Remedy("retry"), "try again later"),
    ],
)
def test_a_remedy_is_shown_as_a_command(remedy: Remedy, command: str) -> None:
    assert as_command(remedy) == command


def test_every_remedy_is_shown_without_python() -> None:
    actions = get_args(Action)
    assert not [action for action in actions if "client." in as_command(Remedy(action, "key"))]


def test_the_same_command_is_advised_once() -> None:
    remedies = [Remedy("resubmit", "a", needs_request=True), Remedy("forget", "a", detail="if it is not wanted")]
    assert as_commands(remedies) == ["`kling resolve a --forget`, then generate it again"]
