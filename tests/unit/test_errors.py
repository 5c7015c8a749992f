"""Errors: facts in the message, remedies as data."""

from __future__ import annotations

import copy
import pickle

import pytest

from kling_async import ConfigurationError, Remedy, SubmissionUnknown


@pytest.mark.parametrize(
    ("remedy", "python"),
    [
        (Remedy("attach", ref="runblob/o3-video/1"), "client.attach('runblob/o3-video/1')"),
        (Remedy("attach"), "client.attach(ref)"),
        (Remedy("resume", "x"), "client.resume()"),
        (Remedy("resolve", "it's"), 'client.resolve("it\'s", ref)'),
        (Remedy("resolve", "x", "runblob/o3-video/1"), "client.resolve('x', 'runblob/o3-video/1')"),
        (Remedy("resubmit", "{x}"), "client.resubmit('{x}')"),
        (Remedy("resubmit", "x", needs_request=True), "client.resubmit('x', request)"),
        (Remedy("forget", "x"), "client.forget('x')"),
        (Remedy("retry"), "try again later"),
        (Remedy("raise_budget", detail="credits"), "Budget(credits=...)"),
        (Remedy("configure", detail="RUNBLOB_API_KEY"), "set RUNBLOB_API_KEY"),
        (Remedy("configure", detail="pass RunBlob(...)"), "pass RunBlob(...)"),
        (Remedy("check_account", detail="RunBlob"), "check the RunBlob account"),
        (Remedy("change_request", detail="the prompt"), "change the prompt"),
    ],
)
def test_a_remedy_is_rendered_as_python(remedy: Remedy, python: str) -> None:
    assert remedy.as_python() == python


def test_an_error_shows_message_facts_and_remedies_and_keeps_them_when_it_is_copied() -> None:
    error = SubmissionUnknown(
        "the answer was lost",
        key="row-1",
        provider="runblob",
        http_status=502,
        remedies=(Remedy("resume", "row-1"), Remedy("forget", "row-1", detail="if it is not wanted")),
    )
    for one in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301  # our own
        assert one.message == "the answer was lost"
        assert one.remedies == error.remedies
        assert str(one) == (
            "the answer was lost [provider runblob, HTTP 502]. "
            "Next step: client.resume(), or client.forget('row-1') if it is not wanted"
        )


def test_an_error_without_remedies_shows_the_message_and_the_facts() -> None:
    assert str(ConfigurationError("the client is closed")) == "the client is closed"
