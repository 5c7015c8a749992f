"""Loads once what many programs of the tests need. The server that forks them imports it, see `support.program`."""

from __future__ import annotations

import importlib

from PIL import Image

import kling_async
from kling_async.providers import load_providers
from kling_async.sandbox import Sandbox

_MODULES = (
    "anyio._backends._asyncio",
    "anyio._core._fileio",
    "anyio._core._signals",
    "encodings.idna",
    "importlib.readers",
    "kling_async._cli.app",
    "kling_async._cli.bulk.command",
    "kling_async._cli.commands.demo",
    "kling_async._cli.commands.generate",
    "kling_async._cli.commands.jobs",
    "kling_async._cli.commands.resume",
    "kling_async._cli.commands.sandbox",
    "kling_async._cli.settings",
    "kling_async.sandbox.media.render",
    "rich.markdown",
    "support.crash_process",
    "support.failover_process",
    "support.program",
    "support.seller_process",
    "support.sharing_process",
    "tomllib",
    "typer.rich_utils",
    "uvicorn.lifespan.off",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)

for _name in _MODULES:
    importlib.import_module(_name)
for _name in kling_async.__all__:
    getattr(kling_async, _name)
importlib.import_module("kling_async._http.tls").ssl_context()  # a twentieth of a second for each program
Image.preinit()
Sandbox()  # what it compiles is kept: the patterns of its routes, the packages' entry points
for _provider in load_providers():
    for _endpoint in _provider.endpoints:
        _endpoint.request.model_rebuild()
