"""The domain: events, the session, and the decisions. Pure: no clock, no randomness, no I/O."""
