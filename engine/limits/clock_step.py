"""What counts as a step of the database's clock."""

from datetime import timedelta

MIN_STEP = timedelta(seconds=2)
"""A smaller difference is drift, or a clock that is being slewed."""
