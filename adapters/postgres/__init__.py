"""The event log, the due work and the read models in PostgreSQL, in a schema of their own."""
