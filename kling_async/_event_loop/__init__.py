"""The event loop: its clock, whose it is, and how much of our work it does at once."""
