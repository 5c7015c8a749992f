"""The recorded samples of all providers: ``tests/samples/<provider>/<name>.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kling_async.providers import ALL_PROVIDERS
from kling_async.testing.samples import KEY, PURCHASE, Sample, compare, drive, load_samples, outcome

__all__ = ["DISTINCT", "FOLDER", "KEY", "PURCHASE", "SAMPLES", "Sample", "compare", "drive", "outcome"]

FOLDER = Path(__file__).parents[1] / "samples"
SAMPLES = [sample for kind in ALL_PROVIDERS for sample in load_samples(FOLDER / kind.name, kind)]


def _form(value: Any) -> Any:
    """What a JSON value is made of: its names, its types, and the words that stand for something, such as a status."""
    if isinstance(value, dict):
        return tuple(sorted((name, _form(part)) for name, part in value.items()))
    if isinstance(value, list):
        return (tuple(dict.fromkeys(_form(part) for part in value)),)
    if isinstance(value, str):
        return value if value.isidentifier() and len(value) < 20 else bool(value)
    return type(value).__name__


def _form_of_all(sample: Sample) -> Any:
    replies = [(one["reply"].get("status"), _form(one["reply"].get("json"))) for one in sample.exchanges]
    whole = (tuple(replies), _form(sample.data.get("body")), tuple(sample.data.get("lines", ())))
    return (sample.provider_type, sample.kind, whole)


DISTINCT = list({_form_of_all(sample): sample for sample in reversed(SAMPLES)}.values())[::-1]
"""One sample for each form that the answers of a provider have, for tests that change every part of an answer."""
