"""The recorded samples of all providers: ``tests/samples/<provider>/<name>.json``."""

from __future__ import annotations

from pathlib import Path

from kling_async.providers import ALL_PROVIDERS
from kling_async.testing.samples import KEY, PURCHASE, Sample, compare, drive, load_samples, outcome

__all__ = ["FOLDER", "KEY", "PURCHASE", "SAMPLES", "Sample", "compare", "drive", "outcome"]

FOLDER = Path(__file__).parents[1] / "samples"
SAMPLES = [sample for kind in ALL_PROVIDERS for sample in load_samples(FOLDER / kind.name, kind)]
