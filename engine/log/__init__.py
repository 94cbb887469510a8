"""The event log: appends, recorded events, their encoding and their Merkle leaves."""
