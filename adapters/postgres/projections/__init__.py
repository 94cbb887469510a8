"""The projections in PostgreSQL."""
