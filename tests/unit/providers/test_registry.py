"""The registry of providers: the built-in ones, and those that other packages register."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from kling_async import RunBlob, providers
from kling_async.providers import BUILT_IN, ENTRY_POINT_GROUP, find_provider, load_providers


class Acme(RunBlob):
    name: ClassVar[str] = "acme"


class Impostor(RunBlob):
    """It takes the name of a built-in provider."""


NOT_A_PROVIDER = 5


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A function that registers entry points, by name and object of this module."""

    def registered(**named: str) -> None:
        entries = [EntryPoint(name, f"{__name__}:{attribute}", ENTRY_POINT_GROUP) for name, attribute in named.items()]
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda group: entries if group == ENTRY_POINT_GROUP else []
        )
        load_providers.cache_clear()

    yield registered
    load_providers.cache_clear()


def test_the_built_in_providers_come_first_in_their_order() -> None:
    assert [kind.name for kind in load_providers()][: len(BUILT_IN)] == list(BUILT_IN)
    assert load_providers() == providers.ALL_PROVIDERS


def test_a_provider_of_another_package_is_found_by_its_name(register: object) -> None:
    assert callable(register)
    register(acme="Acme")
    assert find_provider("acme") is Acme
    assert providers.ALL_PROVIDERS[-1] is Acme
    assert find_provider("nobody") is None


@pytest.mark.parametrize(
    ("name", "attribute", "reason"),
    [
        ("acme", "NOT_A_PROVIDER", "must name a subclass of Provider"),
        ("other", "Acme", "whose name is 'other'"),
        ("acme", "Missing", "cannot be loaded"),
        ("runblob", "Impostor", "the name is in use"),
    ],
)
def test_an_entry_point_that_is_no_provider_is_reported_and_left_out(
    register: object, caplog: pytest.LogCaptureFixture, name: str, attribute: str, reason: str
) -> None:
    assert callable(register)
    with caplog.at_level(logging.ERROR, "kling_async"):
        register(**{name: attribute})
        assert [kind.name for kind in load_providers()] == list(BUILT_IN)
    assert reason in caplog.text
