"""A sandbox that stands in for the providers where no key is set, for examples and programs that are tried out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kling_async.providers import ALL_PROVIDERS
from kling_async.sandbox.server.sandbox import Sandbox

__all__ = ["sandbox_without_key"]


@contextmanager
def sandbox_without_key(*, speed: float = 60.0) -> Iterator[Sandbox | None]:
    """Run a sandbox that every `Client` in the block uses, unless the environment has the key of a provider.

    ``with sandbox_without_key(): asyncio.run(main())`` lets a program be tried without an account. It prints one line
    on the standard error to say so. Take it away, or set a key such as ``RUNBLOB_API_KEY``, to buy something.

    Args:
        speed: Simulated seconds per real second.

    Yields:
        The sandbox. None if a key is set.
    """
    if any(kind.identity().found_in(os.environ) for kind in ALL_PROVIDERS):
        yield None
        return
    with Sandbox(speed=speed) as sandbox:
        variables = sandbox.environment()
        before = {name: os.environ.get(name) for name in variables}
        sys.stderr.write(f"No API key is set: this runs on a sandbox, {speed:g} times faster, and buys nothing.\n")
        os.environ.update(variables)
        try:
            yield sandbox
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
