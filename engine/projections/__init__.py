"""Read models as pure functions from a batch of recorded events to row changes."""
