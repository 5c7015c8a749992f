"""Makes the pictures and videos."""
