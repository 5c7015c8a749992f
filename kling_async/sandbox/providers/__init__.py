"""One API emulation a provider."""
