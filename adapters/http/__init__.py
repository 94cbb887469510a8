"""Outbound HTTP that every provider shares."""
