"""The simulated company: accounts, jobs, clock, counters. No HTTP."""
