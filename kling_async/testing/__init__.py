"""For tests: the contract of a provider of your own, and time that passes at once.

`ProviderContract` is a class of tests that a provider's package subclasses. `VirtualClock` lets a job of three minutes
end in milliseconds where HTTP is mocked. The fixtures are in `kling_async.pytest_plugin`.
"""

from __future__ import annotations

try:
    import pytest
except ModuleNotFoundError as error:
    if error.name != "pytest":
        raise
    raise ImportError("kling_async.testing needs pytest, which is not installed: pip install pytest") from error

pytest.register_assert_rewrite("kling_async.testing.contract", "kling_async.testing.samples")

from kling_async.testing.clock import VirtualClock  # noqa: E402
from kling_async.testing.contract import ProviderContract  # noqa: E402  # its asserts are rewritten first
from kling_async.testing.samples import Sample, load_samples  # noqa: E402

__all__ = ["ProviderContract", "Sample", "VirtualClock", "load_samples"]
