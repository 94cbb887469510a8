"""What people do with a ledger."""
