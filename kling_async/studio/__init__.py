"""The studio: a web page that makes, follows and shows generations, as an application to serve or to mount.

::

    app.mount("/studio", studio.app(client, directory="out"))

``kling studio`` serves it on this machine. The ledger of the client is the memory: reloading the page, restarting the
server and opening several tabs lose nothing. No API key reaches the page.
"""

from __future__ import annotations

try:
    from kling_async.studio.server import app
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] != "starlette":
        raise
    raise ImportError(
        f"kling_async.studio needs {missing.name}, which is not installed: pip install 'kling-async[studio]'"
    ) from missing

__all__ = ["app"]
