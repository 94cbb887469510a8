"""Traces, counters, log lines and the endpoints that show them."""
