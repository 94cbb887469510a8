from guestledger.adapters.telemetry.measurements import Histogram


def test_a_value_on_a_bound_counts_below_it():
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 2, 3):
        histogram.observe(value)

    assert histogram.buckets() == [("1", 2), ("2", 3), ("+Inf", 4)]
    assert histogram.total == 6.5
