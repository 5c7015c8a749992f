"""The simulated provider: accounts, jobs, clock, counters. No HTTP."""
