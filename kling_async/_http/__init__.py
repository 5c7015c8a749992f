"""Bytes over the network: the only package that knows httpx, httpcore and stamina."""
