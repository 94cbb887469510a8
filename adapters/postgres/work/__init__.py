"""Due steps in PostgreSQL."""
