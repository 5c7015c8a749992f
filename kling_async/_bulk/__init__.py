"""Bulk runs: many rows, a bounded number of jobs in flight, one outcome each."""
