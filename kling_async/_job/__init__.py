"""The handle to one job, and what it needs of its provider."""
