"""Portable requests at a client: what they would cost where, which provider is chosen, and who is tried next."""
