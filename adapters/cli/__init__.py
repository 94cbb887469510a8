"""The `guestledger` command."""
