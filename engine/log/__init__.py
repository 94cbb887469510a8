"""The event log and its encoding."""
