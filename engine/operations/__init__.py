"""What people do with a ledger: explain, resolve, redeliver, consume, replay."""
