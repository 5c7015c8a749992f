"""The TLS context, made beside the event loop."""

from __future__ import annotations

import os
import ssl
import threading
from functools import cache

import httpcore

from kling_async._errors import ConfigurationError

__all__ = ["ssl_context"]


_making = threading.Lock()


def ssl_context() -> ssl.SSLContext:
    """One TLS context for all engines. Reading the certificates takes too long to be done on the event loop.

    It trusts what httpcore does: the system's authorities and Mozilla's, or those of ``SSL_CERT_FILE`` and
    ``SSL_CERT_DIR`` alone, where the environment has one of these.
    """
    with _making:
        return _made_context(os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None)


@cache
def _made_context(file: str | None, folder: str | None) -> ssl.SSLContext:
    if file or folder:
        try:
            return ssl.create_default_context(cafile=file, capath=folder)
        except OSError as error:
            named = f"SSL_CERT_FILE={file!r}" if file else f"SSL_CERT_DIR={folder!r}"
            raise ConfigurationError(f"the certificates of {named} cannot be read: {error}") from error
    return httpcore.default_ssl_context()
