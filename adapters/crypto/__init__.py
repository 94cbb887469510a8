"""Encryption of personal data, and of the keys for it."""
