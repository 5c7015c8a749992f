"""Imitates the providers of Kling generations, for tests: a real HTTP server on this machine, without costs.

It speaks the emulations of the providers as strictly as they do, takes realistic (scalable) time, makes real
pictures and playable video, calls webhooks back, and fails on request:

    async with Sandbox(speed=60) as sandbox:                    # a minute passes in a second
        async with Client(sandbox.providers()) as client:
            result = await client.run(runblob.O3Video("a fox in the snow", duration=5))
        assert sandbox.counters.bought["runblob"] == 1          # what the providers saw: the judge

`with Sandbox() as sandbox:` does the same for synchronous code, `python -m kling_async.sandbox` for another
process. `Sandbox.script` and directives in the prompt (`a fox [sandbox: fail=CONTENT_POLICY_VIOLATION]`)
decide how jobs end. `sandbox.faults` decides what goes wrong on the way. `sandbox.state.clock.advance(300)`
saves waiting.
"""

from __future__ import annotations

try:
    from kling_async.sandbox.server.sandbox import Sandbox
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package not in {"starlette", "uvicorn", "PIL", "av"}:
        raise
    raise ImportError(
        f"the sandbox needs {package}, which is not installed: pip install 'kling-async[sandbox]'"
    ) from error

from kling_async.sandbox.emulator.counters import Counters
from kling_async.sandbox.emulator.jobs import ScriptedOutcome
from kling_async.sandbox.faults.catalog import Fault, Rule
from kling_async.sandbox.server.webhooks import Delivery
from kling_async.sandbox.stand_in import sandbox_without_key

__all__ = ["Counters", "Delivery", "Fault", "Rule", "Sandbox", "ScriptedOutcome", "sandbox_without_key"]
