"""Who polls now, and how."""
