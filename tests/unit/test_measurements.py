from guestledger.adapters.telemetry.measurements import Histogram, Measurements
from guestledger.adapters.telemetry.outcomes import count
from guestledger.engine.domain.commands import SettleAttempt
from tests.unit.samples import START


def test_a_value_on_a_bound_counts_below_it():
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 2, 3):
        histogram.observe(value)

    assert histogram.buckets() == [("1", 2), ("2", 3), ("+Inf", 4)]
    assert histogram.total == 6.5


def test_an_attempt_settled_for_a_dead_process_counts_as_in_doubt():
    measured = Measurements()
    count([SettleAttempt(attempt=1, now=START, jitter=0.5)], measured)
    assert measured.attempts["in_doubt"] == 1
