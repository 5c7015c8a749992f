"""What each API accepts, written from its documents alone, not from the client. Sandbox and tests judge by it."""
