"""Upcasting: an event of an old schema version, read as if it had been written today.

What is stored is never touched: an upcaster sees the JSON data as it was read, and gives the data of the next version. One
for each step that an event type ever took; version 1 is read by way of 2, 3 and so on, so none has to be written anew.
"""

from collections.abc import Callable, Mapping
from typing import Any

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""A pure function from an event's data in one schema version to its data in the next. It may change what it is given."""


def _webhook_failed_2(data: dict[str, Any]) -> dict[str, Any]:
    """The first version heeded no `Retry-After`, and every wait was backoff."""
    return data | {
        "retry_after_given": None,
        "retry_after_ms": None,
        "reason": f"{data['wait_ms']} ms backoff",
    }


def _reason_of_backoff(data: dict[str, Any]) -> dict[str, Any]:
    """In its first version a failure waited by backoff and for nothing else."""
    wait_ms = data["wait_ms"]
    return data | {"reason": None if wait_ms is None else f"{wait_ms} ms backoff"}


def _lookup_failed_2(data: dict[str, Any]) -> dict[str, Any]:
    """A look-up that was throttled, of no kind, waited for what its message says and then some: how much of each is not stored."""
    if data["kind"] is None and data["wait_ms"] is not None:
        return data | {"reason": f"{data['message']}, plus backoff"}
    return _reason_of_backoff(data)


UPCASTERS: Mapping[tuple[str, int], Upcaster] = {
    ("ChannelLookupFailed", 1): _lookup_failed_2,
    ("CreationFailed", 1): _reason_of_backoff,
    ("WebhookFailed", 1): _webhook_failed_2,
}
"""By wire name and the old version, e.g. `("SessionCreated", 1)`: makes version 2 of version 1."""


def upcast(event_type: str, data: dict[str, Any], *, stored: int, wanted: int) -> dict[str, Any]:
    """`data`, stored as schema version `stored`, in version `wanted`. Raises `KeyError` where an upcaster is missing."""
    for version in range(stored, wanted):
        data = UPCASTERS[event_type, version](data)
    return data
