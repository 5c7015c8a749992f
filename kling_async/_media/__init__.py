"""Local files and images that go with a request: what they are, and how they are prepared."""
