"""kling_async."""
