"""A ledger in one PostgreSQL schema."""
