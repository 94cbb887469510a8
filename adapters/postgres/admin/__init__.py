"""What a ledger's owner does."""
