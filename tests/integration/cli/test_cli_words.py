"""The words of a command line as a request, and texts from elsewhere as words."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from kling_async import Cost, Progressive, Request
from kling_async._cli.commands.demo import programme
from kling_async._cli.errors import CommandError
from kling_async._cli.output.formatting import advise_with, duration, in_commands, money, printable, size
from kling_async._cli.request_arguments import build
from kling_async._scheduling.schedules import DurationPrior
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers._base.endpoint import Endpoint
from support.cli_process import VIDEO


class Collage(Request):
    """An endpoint with what the known ones do not have: one reference, and fields that are not words.

    Args:
        prompt: What to show.
        reference: One image.
        sizes: In pixels.
        label: Any text.
    """

    endpoint: ClassVar[str] = "studio/collage"

    prompt: str
    reference: str | Path | bytes | None = None
    sizes: tuple[int, ...] = ()
    label: str = ""


COLLAGE = Endpoint(Collage, Progressive(5), deadline=60.0, duration_prior=lambda _: DurationPrior(10, 0.5))


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"sizes": "[1, 2]"}, {"sizes": (1, 2)}), ({"label": "7"}, {"label": "7"}), ({"label": "[1]"}, {"label": "[1]"})],
)
def test_a_value_is_text_and_where_text_is_not_accepted_json(
    given: Mapping[str, str], expected: Mapping[str, Any]
) -> None:
    request = build(COLLAGE, "x", (), given)
    assert {name: getattr(request, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("https://example.com/a.png", "https://example.com/a.png"),
        ("data:image/png;base64,aGVsbG8=", "data:image/png;base64,aGVsbG8="),
        ("550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440000"),
        ("photo.png", Path("photo.png")),
    ],
)
def test_a_reference_is_an_address_or_a_file(word: str, expected: str | Path) -> None:
    request = build(COLLAGE, "x", [word], {})
    assert isinstance(request, Collage)
    assert request.reference == expected


def test_more_references_than_the_one_that_is_taken_are_refused() -> None:
    with pytest.raises(CommandError, match="takes one reference image; 2 were given"):
        build(COLLAGE, "x", ["a.png", "b.png"], {})


def test_the_demo_has_a_job_at_every_endpoint_and_at_least_two_pictures() -> None:
    jobs = programme([kind("key") for kind in ALL_PROVIDERS])
    names = [endpoint.name for endpoint, _ in jobs]
    assert set(names) == {endpoint.name for kind in ALL_PROVIDERS for endpoint in kind.endpoints}
    assert sum("duration" not in endpoint.request.model_fields for endpoint, _ in jobs) >= 2
    assert names.count(VIDEO) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain ünïcode 狐 🦊", "plain ünïcode 狐 🦊"), ("a\r\nb\tc", "a b c"), ("\x1b[31mred\x9b0m", "[31mred0m")],
)
def test_printable_keeps_text_and_drops_what_a_terminal_obeys(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_advised_commands_name_a_ledger_that_they_would_not_take_by_themselves() -> None:
    advice = "client.resolve('a {0}', ref) if it is there, client.resume() else; client.attach('a/b/c')"

    def told(ledger: str | None) -> str:
        advise_with(Path(ledger) if ledger else None, "kling.db")
        return in_commands(advice)

    def within(*ledgers: str | None) -> list[str]:
        return [copy_context().run(told, ledger) for ledger in ledgers]

    here = "`kling resolve 'a {0}' REF` if it is there, `kling resume` else; `kling watch a/b/c`"
    named = here.replace("REF`", "REF --ledger '{out}/my ledger.db'`").replace(
        "resume`", "resume --ledger '{out}/my ledger.db'`"
    )
    assert within(None, "kling.db", "{out}/my ledger.db") == [here, here, named]


@pytest.mark.parametrize(
    ("advice", "command"),
    [
        ("go on with client.attach('runblob/o3-video/a 1')", "go on with `kling watch 'runblob/o3-video/a 1'`"),
        ("attach the job if it is there", "follow the job with `kling watch REF` if it is there"),
        ("configure it, then call resume()", "export its API key, then run `kling resume`"),
        ("client.resume() follows its job", "`kling resume` follows its job"),
        (
            "follow it by resume(), or give it up with forget('a')",
            "follow it by `kling resume`, or give it up with `kling resolve a --forget`",
        ),
        ("client.unresolved() lists those in question", "`kling jobs` lists those in question"),
        ("raise the budget: Budget(usd=...)", "raise the budget: `--budget ...usd`"),
    ],
)
def test_the_library_s_advice_is_told_as_commands(advice: str, command: str) -> None:
    assert in_commands(advice) == command


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0:00"), (5.0, "0:05"), (9.96, "0:10"), (59.7, "1:00"), (905, "15:05"), (3599.6, "1:00:00"), (-1, "0:00")],
)
def test_durations_are_shown_as_clocks_do(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("amount", "unit", "shown"),
    [
        ("0.0500", "USD", "$0.05"),
        ("0.6", "USD", "$0.60"),
        ("0.056", "USD", "$0.056"),
        ("1E+2", "USD", "$100.00"),
        ("1", "credits", "1 credit"),
        ("200", "credits", "200 credits"),
        ("0.50", "credits", "0.5 credits"),
    ],
)
def test_amounts_have_the_digits_that_they_need(amount: str, unit: Literal["USD", "credits"], shown: str) -> None:
    assert money(Cost(Decimal(amount), unit)) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 1024**2, "3.0 MiB"), (1024**3, "1.0 GiB")],
)
def test_sizes_have_their_unit(count: int, shown: str) -> None:
    assert size(count) == shown
