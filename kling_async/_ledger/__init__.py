"""The durable record of submissions and events."""
