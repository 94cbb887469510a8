"""The ways in and out: PostgreSQL, CXone, the webhook, the command line."""
