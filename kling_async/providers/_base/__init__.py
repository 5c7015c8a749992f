"""What every provider, endpoint and request has in common."""
