"""The commands of ``kling``, one module each."""
