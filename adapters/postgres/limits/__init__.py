"""The shared rate limiter in PostgreSQL."""
