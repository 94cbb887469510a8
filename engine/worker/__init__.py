"""What runs due steps: scheduler, executor, leases and wake-ups."""
