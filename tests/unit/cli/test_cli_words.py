"""The words of a command line as a request, and texts from elsewhere as words."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from kling_async import Cost, Progressive, Request
from kling_async._cli.commands.demo import programme
from kling_async._cli.output.formatting import duration, printable, size
from kling_async._cli.request_arguments import build
from kling_async._rows.errors import InputError
from kling_async._rows.requests import find_any
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers._base.endpoint import Endpoint
from kling_async.providers.base import DurationPrior
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


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [("fal/image-to-video", "start_image"), ("runblob/video", "first_frame"), ("video", "first_frame")],
)
def test_every_field_of_images_takes_a_local_file(endpoint: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert getattr(build(find_any(endpoint)[1], "x", (), {name: str(path)}), name) == path
    with pytest.raises(InputError) as caught:
        build(find_any(endpoint)[1], "x", (), {name: f"{path}.jpg"})
    assert "No such file" in caught.value.fields[name]


def test_a_field_that_an_endpoint_lacks_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(InputError) as caught:
        build(find_any("fal/image-to-video")[1], "x", ["a.png"], {"start_image": "https://a.test/a.png"})
    assert caught.value.fields["references"] == (
        "fal/image-to-video takes no reference images; its images are --set start_image=FILE and --set end_image=FILE"
    )
    assert caught.value.labels["references"] == "--reference"
    with pytest.raises(InputError) as caught:
        build(find_any("kling/effects")[1], "a boat", ["https://a.test/a.png"], {"scene": "heart"})
    assert "takes no prompt" in caught.value.fields["prompt"]


def test_more_references_than_the_one_that_is_taken_are_refused() -> None:
    with pytest.raises(InputError, match="takes one reference image; 2 were given"):
        build(COLLAGE, "x", ["a.png", "b.png"], {})


def test_the_demo_has_a_job_at_every_provider_and_at_least_two_pictures() -> None:
    jobs = programme([kind("key") for kind in ALL_PROVIDERS])
    names = [endpoint.name for endpoint, _ in jobs]
    assert {name.partition("/")[0] for name in names} == {kind.name for kind in ALL_PROVIDERS}
    assert sum("duration" not in endpoint.request.model_fields for endpoint, _ in jobs) >= 2
    assert names.count(VIDEO) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain ünïcode 狐 🦊", "plain ünïcode 狐 🦊"), ("a\r\nb\tc", "a b c"), ("\x1b[31mred\x9b0m", "[31mred0m")],
)
def test_printable_keeps_text_and_drops_what_a_terminal_obeys(text: str, shown: str) -> None:
    assert printable(text) == shown


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
    assert str(Cost(Decimal(amount), unit)) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 1024**2, "3.0 MiB"), (1024**3, "1.0 GiB")],
)
def test_sizes_have_their_unit(count: int, shown: str) -> None:
    assert size(count) == shown
