"""When to poll. Pure: no clock, no I/O."""
