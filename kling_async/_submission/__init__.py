"""Buying a generation: paid at most once."""
