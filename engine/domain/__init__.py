"""The lifecycle of a guest session: pure functions over immutable values."""
