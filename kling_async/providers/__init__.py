"""The registry of providers: the built-in ones, and those of other installed packages.

This is the only list of providers. All else is derived from it: the public names of ``kling_async``, the client's
defaults, the program's endpoints, the tests. A provider is loaded when it is first used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kling_async.providers._base.provider import Provider

__all__ = ["ALL_PROVIDERS", "BUILT_IN", "ENTRY_POINT_GROUP", "find_provider", "load_providers"]

BUILT_IN: Mapping[str, str] = {
    "kling": "Kling",
    "runblob": "RunBlob",
    "runware": "Runware",
    "inferencesh": "InferenceSh",
    "pixeldojo": "PixelDojo",
    "replicate": "Replicate",
    "fal": "Fal",
}
"""The package of each built-in provider and the name of its class, in the order in which users see them."""
ENTRY_POINT_GROUP = "kling_async.providers"
"""The entry points of other packages: the provider's name, and where its class is (``acme = "acme_kling:Acme"``)."""

if TYPE_CHECKING:
    ALL_PROVIDERS: tuple[type[Provider], ...]
    """Every provider: the built-in ones, then those of other packages by name."""


@cache
def load_providers() -> tuple[type[Provider], ...]:
    """Every provider: the built-in ones, then those of other packages by name.

    A package whose provider cannot be loaded is reported in the log and left out, so that it does not stop the others.
    """
    return (*map(_built_in, BUILT_IN), *_installed())


def _built_in(name: str) -> type[Provider]:
    found: type[Provider] = getattr(import_module(f"{__name__}.{name}"), BUILT_IN[name])
    return found


def _installed() -> list[type[Provider]]:
    # Loaded here, because the registry is read whenever the package is imported.
    import logging  # noqa: PLC0415
    from importlib.metadata import entry_points  # noqa: PLC0415

    from kling_async.providers._base.provider import Provider  # noqa: PLC0415

    log = logging.getLogger("kling_async")
    log.addHandler(logging.NullHandler())

    found: dict[str, type[Provider]] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        try:
            kind = entry.load()
        except Exception:  # another package's code may raise anything
            log.exception("the provider %s (%s) cannot be loaded and is left out", entry.name, entry.value)
            continue
        if not (isinstance(kind, type) and issubclass(kind, Provider) and kind.name == entry.name):
            log.error(
                "the entry point %s (%s) is left out: it must name a subclass of Provider whose name is %r",
                entry.name,
                entry.value,
                entry.name,
            )
        elif entry.name in BUILT_IN or entry.name in found:
            log.error("the entry point %s (%s) is left out: the name is in use", entry.name, entry.value)
        else:
            found[entry.name] = kind
    return list(found.values())


def find_provider(name: str) -> type[Provider] | None:
    """The provider of that name, such as ``"runblob"``. None if there is none. A built-in one is loaded alone."""
    if name in BUILT_IN:
        return _built_in(name)
    return next((kind for kind in load_providers() if kind.name == name), None)


def __getattr__(name: str) -> Any:
    if name == "ALL_PROVIDERS":
        return load_providers()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *BUILT_IN, "base"])
