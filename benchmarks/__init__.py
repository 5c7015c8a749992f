"""Benchmarks: what kling_async costs, measured beside its peers in the same run."""
