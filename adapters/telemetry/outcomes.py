"""The outcomes of steps as codes: few, and the same in traces and counters."""

from collections.abc import Sequence

from guestledger.adapters.telemetry.measurements import Measurements
from guestledger.engine.domain.commands import Command, RecordAttempt, RecordDelivery, RecordLookup, SettleAttempt
from guestledger.engine.domain.outcomes import Channel, Created, Delivery, Failed, Throttled

LOOKUPS = ("usable", "unusable", "throttled", "unsent", "unavailable", "in_doubt", "final")
ATTEMPTS = ("created", "throttled", "unsent", "unavailable", "in_doubt", "final")
DELIVERIES = ("accepted", "gone", "failed")


def count(commands: Sequence[Command], measured: Measurements) -> str | None:
    """Count what came back from outside. Returns its code; `None`: nothing came back."""
    found = None
    for command in commands:
        match command:
            case RecordAttempt(outcome=outcome):
                found = _code(outcome)
                measured.attempts[found] += 1
            case SettleAttempt():  # nobody knows what came back
                measured.attempts["in_doubt"] += 1
            case RecordLookup(outcome=Channel(cached=True)):
                found = "cached"
            case RecordLookup(outcome=outcome):
                found = _code(outcome)
                measured.lookups[found] += 1
            case RecordDelivery(outcome=delivery):
                found = _delivered(delivery)
                measured.webhooks[found] += 1
    return found


def _code(outcome: Channel | Created | Throttled | Failed) -> str:
    match outcome:
        case Channel():
            return "usable" if outcome.problem is None else "unusable"
        case Created():
            return "created"
        case Throttled():
            return "throttled"
        case Failed():
            return outcome.kind.value


def _delivered(delivery: Delivery) -> str:
    if delivery.accepted:
        return "accepted"
    return "gone" if delivery.gone else "failed"
