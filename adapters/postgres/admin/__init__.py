"""What the owner of a ledger does: migrations, roles, partitions, the embedded server."""
