"""The ways in and out: PostgreSQL, CXone, the webhook, the command line. Each knows the engine, none knows another."""
