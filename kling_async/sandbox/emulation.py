"""What an emulation is made of: the public base for the sandbox's side of a provider of your own.

An emulation is a function ``emulate(state) -> Emulation``. Its operations are ordinary Starlette endpoints: they find
the account with ``state.account``, judge the body (`problems_of`), accept it with ``state.submit(Order(...))``, find a
job with ``state.status`` and its phase with ``state.phase``, and answer with `reply`. The sandbox counts requests,
applies faults, draws and serves the files, and sends webhooks.

A package registers it under the entry point group ``kling_async.emulations``::

    [project.entry-points."kling_async.emulations"]
    acme = "acme_kling.emulation:emulate"
"""

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError, OrderError
from kling_async.sandbox.emulator.jobs import (
    CLIP_DURATIONS,
    IMAGE_DURATION,
    Clip,
    DurationRange,
    File,
    Job,
    Order,
    Phase,
    Picture,
    UnknownDirectiveError,
)
from kling_async.sandbox.emulator.provider_state import DuplicateJobError, ProviderState
from kling_async.sandbox.providers.emulation import Emulation, Operation, Webhook, reply
from kling_async.sandbox.rules.fields import (
    Field,
    Model,
    Rule,
    at_least_one,
    exactly_one,
    problems_of,
    together_at_most,
)

__all__ = [
    "CLIP_DURATIONS",
    "IMAGE_DURATION",
    "Account",
    "Clip",
    "DuplicateJobError",
    "DurationRange",
    "Emulation",
    "Field",
    "File",
    "InsufficientCreditsError",
    "Job",
    "Model",
    "Operation",
    "Order",
    "OrderError",
    "Phase",
    "Picture",
    "ProviderState",
    "Rule",
    "UnknownDirectiveError",
    "Webhook",
    "at_least_one",
    "exactly_one",
    "problems_of",
    "reply",
    "together_at_most",
]
