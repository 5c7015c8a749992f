"""Benchmarks. Each one writes its tables and charts into `benchmarks/results`."""
