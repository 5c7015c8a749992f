"""What portable requests have in common. Their classes, in `portable`, are loaded by who makes such a request."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kling_async.providers._base.request import Request

if TYPE_CHECKING:
    from kling_async.providers._base.images import References
    from kling_async.providers._base.portable import ModelName
    from kling_async.providers._base.request import AnyPrompt

__all__ = ["PortableRequest"]


class PortableRequest(Request):
    """What `Video` and `Image` have in common.

    A portable request goes to any provider that can make exactly what it describes. Nothing of it is ever changed: an
    endpoint that has another length or ratio, or no sound, is not offered.
    """

    if TYPE_CHECKING:  # each kind has them, in an order of its own
        prompt: AnyPrompt
        model: ModelName | None
        references: References

    def __init__(self, prompt: Any = ..., /, **fields: Any) -> None:
        # All other fields go by name, so that a request reads the same with any field added later.
        super().__init__(**(fields if prompt is ... else {"prompt": prompt, **fields}))

    @classmethod
    def _shown_signature(cls) -> inspect.Signature:
        """The prompt by position, and all else by name."""
        found = super()._shown_signature()
        by_name = [
            one if one.name == "prompt" else one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for one in found.parameters.values()
        ]
        return found.replace(parameters=by_name)

    @classmethod
    def known_values(cls, name: str) -> Sequence[Any]:
        """The models that somebody makes; else none."""
        from kling_async.providers._base.offers import models_of  # noqa: PLC0415  # which needs these classes

        return models_of(cls.endpoint) if name == "model" else ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The fields with images that are given."""
        return tuple(name for name in self.reference_fields if getattr(self, name, None))

    def for_(self, place: str) -> Request:
        """Return the provider's own request that makes exactly this.

        Args:
            place: A provider, such as ``"runware"``, or an endpoint, such as ``"runblob/o3-video"``.

        Raises:
            NotOffered: Nothing there can make it. The error has the reason, and the nearest change that would work.
            ConfigurationError: There is no such provider or endpoint.
        """
        from kling_async.providers._base.offers import translated  # noqa: PLC0415  # which needs these classes

        return translated(self, place)
