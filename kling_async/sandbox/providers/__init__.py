"""The emulations: one module or package a provider, with a function `emulate(state) -> Emulation`.

A new one is found by its file alone; its name is the provider's. Modules that emulate nobody are listed in `_SHARED` or
begin with an underscore.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kling_async.sandbox.emulator.provider_state import ProviderState
    from kling_async.sandbox.providers.emulation import Emulation

_SHARED = {"emulation"}


def emulated_providers() -> list[str]:
    """The names of all providers that the sandbox emulates, in alphabetical order."""
    names = {module.name for module in pkgutil.iter_modules(__path__)} - _SHARED
    return sorted(name for name in names if not name.startswith("_"))


def build_emulations(state: ProviderState) -> Mapping[str, Emulation]:
    """Every emulation, by the provider's name."""
    emulations = {}
    for name in emulated_providers():
        emulate: Callable[[ProviderState], Emulation] = importlib.import_module(f"{__name__}.{name}").emulate
        emulations[name] = emulate(state)
    return emulations
