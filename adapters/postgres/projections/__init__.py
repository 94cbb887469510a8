"""Projections in PostgreSQL."""
