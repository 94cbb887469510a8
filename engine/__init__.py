"""The engine: the lifecycle of a guest session as events, and what runs it. Imports no adapter."""
