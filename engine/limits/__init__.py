"""The rate limiter, feedback and retry arithmetic. Pure."""
