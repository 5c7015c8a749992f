"""The emulations: one module or package a provider, with a function `emulate(state) -> Emulation`.

A new one is found by its file alone, and its name is the provider's. Modules that emulate nobody are in `_SHARED`, or
begin with an underscore. Another package adds one under the entry point group ``kling_async.emulations``: the
provider's name, and where its function is (``acme = "acme_kling.emulation:emulate"``).
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kling_async.sandbox.emulator.provider_state import ProviderState
    from kling_async.sandbox.providers.emulation import Emulation

__all__ = ["ENTRY_POINT_GROUP", "Emulate", "build_emulations", "emulated_providers"]

ENTRY_POINT_GROUP = "kling_async.emulations"
_SHARED = {"emulation"}

Emulate: TypeAlias = "Callable[[ProviderState], Emulation]"
"""The function that makes an emulation."""


@cache
def _own() -> frozenset[str]:
    names = {module.name for module in pkgutil.iter_modules(__path__)} - _SHARED
    return frozenset(name for name in names if not name.startswith("_"))


@lru_cache(maxsize=4)
def _registered(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of what is installed on that path: to read all metadata takes most of the start of a sandbox."""
    del path
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _installed() -> dict[str, EntryPoint]:
    own = _own()
    return {entry.name: entry for entry in _registered(tuple(sys.path)) if entry.name not in own}


def emulated_providers() -> list[str]:
    """The names of all providers that the sandbox emulates, in alphabetical order."""
    return sorted({*_own(), *_installed()})


def build_emulations(state: ProviderState, more: Mapping[str, Emulate] | None = None) -> Mapping[str, Emulation]:
    """Every emulation, by the provider's name.

    Args:
        state: What they share.
        more: Emulations besides those that are found, or in place of them.

    Raises:
        ValueError: The emulation of a package cannot be loaded, or one has another name than it is registered under.
    """
    makers: dict[str, Emulate] = {
        name: importlib.import_module(f"{__name__}.{name}").emulate for name in sorted(_own())
    }
    for name, entry in sorted(_installed().items()):
        try:
            makers[name] = entry.load()
        except Exception as error:  # another package's code: whatever it raises
            raise ValueError(f"the emulation {name} ({entry.value}) cannot be loaded: {error}") from error
    makers |= more or {}
    emulations = {name: emulate(state) for name, emulate in makers.items()}
    for name, emulation in emulations.items():
        if emulation.name != name:
            raise ValueError(f"the emulation {name} calls itself {emulation.name!r}; both must be the provider's name")
    return emulations
