"""When to look: looks per job and lag of schedules, in virtual time. Run ``python -m benchmarks.cadence``."""
