"""Read models: pure functions from events to row changes."""
