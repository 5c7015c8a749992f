"""The contract of all providers (`kling_async.testing.ProviderContract`), of job references, and the README's table."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async import JobRef
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import Provider
from kling_async.testing import ProviderContract
from support.letters import LETTERS
from support.samples import FOLDER

README = Path(__file__).parents[2] / "README.md"

UNPRICED = {
    "fal/avatar",
    "fal/lip-sync",
    "fal/model",
    "fal/motion-control",
    "fal/reference-to-video",
    "fal/video-edit",
    "inferencesh/app",
    "kling/effects",
    "kling/virtual-try-on",
    "pixeldojo/motion-control",
    "replicate/kling-lip-sync",
    "replicate/kling-o1",
    "replicate/kling-v2-0",
    "replicate/kling-v2-1",
    "replicate/kling-v2-5-turbo-pro",
    "replicate/kling-v3-omni-video",
    "replicate/model",
    "runblob/motion-control",
    "runblob/o1-video",
    "runblob/video",
}
"""Endpoints for which no source states a price."""
IMMEDIATE = frozenset({"kling/text-to-speech"})
"""Endpoints whose jobs end in the answer to their submission."""

for _kind in ALL_PROVIDERS:
    _contract = {
        "provider": _kind,
        "samples": FOLDER / _kind.name,
        "unpriced": frozenset(UNPRICED),
        "immediate": IMMEDIATE,
    }
    globals()[f"Test{_kind.__name__}"] = type(f"Test{_kind.__name__}", (ProviderContract,), _contract)


# References.

REF_TEXT = st.from_regex(
    r"[a-z0-9]{1,12}/[a-z0-9][a-z0-9-]{0,12}/[A-Za-z0-9_~-][A-Za-z0-9._:~-]{0,60}", fullmatch=True, alphabet=LETTERS
)


@given(REF_TEXT)
def test_a_reference_survives_as_text(text: str) -> None:
    ref = JobRef.parse(text)
    assert str(ref) == text
    assert JobRef.parse(str(ref)) == ref
    assert pickle.loads(pickle.dumps(ref)) == copy.deepcopy(ref) == ref  # noqa: S301  # our own
    assert json.loads(json.dumps([ref])) == [text.strip()] == [str(ref)] == [ref]
    assert (type(str(ref)), f"{ref.endpoint}/{ref.id}", ref.endpoint) == (
        str,
        text,
        f"{ref.provider}/{ref.endpoint_id}",
    )
    assert repr(ref) == f"JobRef({ref.provider!r}, {ref.endpoint_id!r}, {ref.id!r})"
    assert ref.endpoint == text.rpartition("/")[0]


NO_REFERENCE = """
x|a/b|a/b/|a/b/c/d|a/b/../c|a/b/.hidden|a/b/c d|a/b/c?x=1|A/b/c|a/b/c#d|a/b/%2e|a/b/\u00e9|a/-b/c|/b/c
""".strip().split("|")


@pytest.mark.parametrize("text", ["", *NO_REFERENCE])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a job reference; one looks like provider/endpoint/id") as refusal:
        JobRef.parse(text)
    assert str(refusal.value).startswith(repr(text)), "it repeats what was given"


@pytest.mark.parametrize("identity", [None, 7, True, ["x"], {"id": "x"}])
def test_an_id_that_is_no_text_makes_no_reference(identity: Any) -> None:
    with pytest.raises(ValueError, match="is not a job reference"):
        JobRef("runblob", "o3-video", identity)


# The README.

FEW = 3  # endpoints that fit into a row


def _listed(kind: type[Provider]) -> str:
    """The endpoints by name, or how many there are and where they are described."""
    if len(kind.endpoints) <= FEW:
        return ", ".join(f"`{endpoint.name}`" for endpoint in kind.endpoints)
    return f"[{len(kind.endpoints)} endpoints](docs/providers/{kind.name}.md), such as `{kind.endpoints[0].name}`"


def features_table() -> str:
    """What every provider offers, as the README shows it."""
    rows: list[tuple[str, ...]] = [
        (
            "Provider",
            "Endpoints",
            "Webhook",
            "Stream",
            "Cancel",
            "Jobs per status call",
            "Client-chosen id",
            "Cost",
            "Status calls per minute",
        ),
        ("---",) * 9,
    ]
    for kind in ALL_PROVIDERS:
        features = kind.features
        rows.append(
            (
                kind.display_name,
                _listed(kind),
                *("yes" if offered else "no" for offered in (features.webhook, features.stream, features.cancel)),
                str(features.batch),
                "yes" if features.client_chosen_id else "no",
                features.cost_unit or "not reported",
                f"{features.status_calls_per_minute:g}" if features.status_calls_per_minute else "no limit stated",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_readme_shows_what_the_providers_offer() -> None:
    """If this fails, paste the table below into README.md, under "Providers"."""
    assert features_table() in README.read_text("utf-8"), f"\n{features_table()}"
