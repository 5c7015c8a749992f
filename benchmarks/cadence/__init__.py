"""When to poll: polls per job and lag of schedules, in virtual time. Run ``python -m benchmarks.cadence``."""
