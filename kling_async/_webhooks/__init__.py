"""Webhook deliveries: received, checked, applied."""
