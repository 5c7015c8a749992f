"""``kling bulk``."""
