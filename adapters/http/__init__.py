"""Outbound HTTP that every provider and the webhook share."""
